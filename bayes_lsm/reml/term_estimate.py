"""What was estimated of one scale term of several, its correlations with their intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import ndtri

from bayes_lsm.arrays import Array, Mask
from bayes_lsm.design.scale_terms import ScaleTerm
from bayes_lsm.likelihood.blocks.correlation_matrices import correlation_matrices
from bayes_lsm.reml.divergence import Divergence, split_space, where_to

# ρ nearer to its border than this is at it.
_BORDER = 1e-6
# Relative size below which a number is the rounding of 0.
_ZERO = 1e-9
# Relative to its summands, the product of a row and a direction below which it is rounding.
_UNSEEN = 1e-8
# Step of a central difference in κ: its error is the square.
_STEP = 1e-5


@dataclass(frozen=True, eq=False)
class TermEstimate:
    """What was estimated of one scale term.

    Attributes
    ----------
    term : ScaleTerm
    alpha : ndarray, shape (q,)
        Coefficients of ln τ²; ±inf or nan where the likelihood has no finite maximum.
    vcov : ndarray, shape (q, q)
        nan in the rows of those, and where the data carry no information.
    tau2 : ndarray, shape (G, s)
        τ² of each effect of each group.
    kappa, vcov_kappa : ndarray, shape (c,) and (c, c)
        Fisher's z of the correlations, or of the partial ones of an unstructured matrix.
    correlation : ndarray, shape (s, s)
        Of the effects of a group.
    divergence : Divergence or None
    limit_alpha : ndarray, shape (q,)
        Where it diverges: coefficients that give ln τ² of all effects with variance; nan for those
        that are not needed for that. Otherwise α.
    limit_vcov : ndarray, shape (q, q)
        Their covariance, across `blind`; nan for those that are not needed.
    blind : ndarray, shape (q, b)
        Directions of `limit_alpha` in which the likelihood is flat (of all terms together: here the
        share of this one).
    """

    term: ScaleTerm
    alpha: Array
    vcov: Array
    tau2: Array
    kappa: Array
    vcov_kappa: Array
    correlation: Array
    divergence: Divergence | None
    limit_alpha: Array
    limit_vcov: Array
    blind: Array

    @property
    def shown(self) -> Array:
        """α as it is printed: nan also where the data say nothing of it."""
        return np.where(self.is_blind, np.nan, self.alpha)

    @property
    def is_blind(self) -> Mask:
        """Which coefficients have a finite estimate of which the data say nothing, shape (q,)."""
        return np.asarray(self.blind.any(axis=1) & np.isfinite(self.alpha))

    @property
    def is_known(self) -> Mask:
        """Whether the data say anything of τ² of each effect, shape (G, s)."""
        Z = self.term.Z
        if not self.blind.any():
            return np.ones(Z.shape[:2], dtype=bool)
        _, added = self.read(Z.reshape(-1, Z.shape[2]))
        return ~np.isnan(added).reshape(Z.shape[:2])

    @property
    def known_tau2(self) -> Array:
        """`tau2`, but nan where the data say nothing of it."""
        return np.where(self.is_known, self.tau2, np.nan)

    @property
    def row_variances(self) -> Array:
        """a_i' D a_i, the term's variance of each row, shape (n,)."""
        return self.variances_at(self.term.slopes, self.tau2[self.term.index])

    def variances_at(self, slopes: Array, tau2: Array) -> Array:
        """The same for rows (m, s) of slopes and τ² (m, s) of the effects they multiply."""
        if slopes.shape[1] == 1:
            return np.where(slopes[:, 0] == 0, 0.0, slopes[:, 0] ** 2 * tau2[:, 0])
        loads = slopes * np.where(slopes == 0, 0.0, np.sqrt(tau2))
        return np.asarray(np.einsum("ij,jk,ik->i", loads, np.nan_to_num(self.correlation), loads))

    def tau2_at(self, Z: Array) -> Array:
        """τ² of effects with scale moderators Z (…, q); 0, inf or nan where it has a limit."""
        rows, added = self.read(Z.reshape(-1, Z.shape[-1]))
        with np.errstate(over="ignore"):
            tau2 = np.exp(rows @ np.nan_to_num(self.limit_alpha) + added)
        return np.asarray(tau2.reshape(Z.shape[:-1]))

    def read(self, rows: Array) -> tuple[Array, Array]:
        """Rows (m, q) of Z as what multiplies `limit_alpha`, and what is added to it (m,).

        Where a limit took variances that is −inf for a row whose ln τ² goes there too, inf for one
        that goes the other way, nan for one that the limit leaves open; else it is 0, or nan where
        the data say nothing of it.
        """
        added = np.zeros(len(rows))
        if self.divergence is None:
            added[self.is_blind_at(rows)] = np.nan
            return rows, added
        used, alive = self.term.used, self.tau2 > 0
        # What is fixed stays where it is, whatever the others do.
        free = [j for j, name in enumerate(self.term.names) if name in self.divergence.direction]
        Z = self.term.Z[:, :, free]
        R = np.linalg.qr(Z[used], mode="r") / math.sqrt(used.sum())
        back = np.linalg.solve(R, np.eye(len(R)))
        _, lost = split_space(Z[used & alive] @ back, len(R))
        u = rows[:, free] @ back
        away = u @ lost
        size = np.maximum(1.0, np.linalg.norm(u, axis=1))
        outside = np.linalg.norm(away, axis=1) > _ZERO * size
        added[outside] = where_to(away[outside], Z[used & ~alive] @ back @ lost)
        kept = ~np.isnan(self.limit_alpha) & ~outside[:, None]
        rows = np.where(kept, rows, 0.0)
        added[~outside & self.is_blind_at(rows)] = np.nan
        return rows, added

    def is_blind_at(self, rows: Array) -> Mask:
        """Whether the data say nothing of l'α, for rows l (m, q) of finite coefficients."""
        sizes = np.abs(rows) @ np.abs(self.blind)
        return np.asarray((np.abs(rows @ self.blind) > _UNSEEN * sizes).any(axis=1))


def correlation_table(each: TermEstimate, level: float) -> pd.DataFrame:
    """estimate, ci_lb and ci_ub of each correlation: one row a pair of effects."""
    columns = ["estimate", "ci_lb", "ci_ub"]
    effects, R = each.term.effects, each.correlation
    if not each.term.n_correlations:
        return pd.DataFrame(columns=columns, dtype=float)
    lower, upper = _correlation_bounds(each, float(ndtri(0.5 + level / 2)))
    at = [(i, j) for i in range(len(effects)) for j in range(i)]
    return pd.DataFrame(
        [(R[i, j], lower[i, j], upper[i, j]) for i, j in at],
        columns=columns,
        index=[f"{effects[j]}, {effects[i]}" for i, j in at],
    )


def _correlation_bounds(each: TermEstimate, quantile: float) -> tuple[Array, Array]:
    """Lower and upper bounds, shape (s, s) each; nan where there are none."""
    bounds = np.full((2, *each.correlation.shape), np.nan)
    kept = np.flatnonzero((~np.isnan(each.correlation)).sum(axis=0) > 1)
    s, kind, kappa = len(kept), each.term.correlation, each.kappa
    if not len(kappa) or at_border(each):
        return bounds[0], bounds[1]
    here = np.ix_(kept, kept)
    if kind == "compound_symmetric":
        half = quantile * math.sqrt(each.vcov_kappa[0, 0])
        for bound, end in zip(bounds, (kappa - half, kappa + half), strict=True):
            bound[here] = correlation_matrices(end[None], s, kind)[0]
        return bounds[0], bounds[1]
    steps, off = _STEP * np.eye(len(kappa)), ~np.eye(s, dtype=bool)
    z, ahead, behind = (
        np.arctanh(np.where(off, correlation_matrices(kappa + x, s, kind), 0.0))
        for x in (np.zeros((1, len(kappa))), steps, -steps)
    )
    slopes = (ahead - behind) / (2 * _STEP)
    half = quantile * np.sqrt(np.einsum("aij,ab,bij->ij", slopes, each.vcov_kappa, slopes))
    bounds[0][here], bounds[1][here] = np.tanh(z[0] - half), np.tanh(z[0] + half)
    return bounds[0], bounds[1]


def at_border(each: TermEstimate) -> bool:
    """Whether a correlation is at an end of what the model allows, up to rounding."""
    s = len(each.correlation)
    off = each.correlation[~np.eye(s, dtype=bool)]
    least = -1 / (s - 1) if each.term.correlation == "compound_symmetric" else -1.0
    return bool(((off > 1 - _BORDER) | (off < least + _BORDER)).any())
