r"""The distribution of a new true effect when variances, and with them β̂, are uncertain.

With γ all scale coefficients and κ of the correlations, γ ~ Normal(γ̂, C), and V(γ) the variance of
the chosen terms in the new row (see `variances`),

    θ_new ~ ∫ Normal( x'β̂(γ),  x'V_β(γ)x + V(γ) ) dNormal(γ; γ̂, C).

Where the model has one variance in each row, V hangs on one linear function η = l'γ alone, ln τ².
With s² = l'Cl, γ(η) = γ̂ + Cl (η − η̂)/s² is the mean given η, and C − Cl l'C/s² the covariance. So

    θ_new ~ ∫ Normal( x'β̂(γ(η)),  x'V_β(γ(η))x + x'J (C − Cl l'C/s²) J'x + V(η) ) dNormal(η; η̂, s²)

with J = ∂β̂/∂γ': exact along the line γ(η), and of first order across it. The integral is a
trapezoidal sum, exact to rounding for such smooth functions. With more variances it is a mean over
points γ of a scrambled Sobol sequence, always the same ones, along the principal axes of C.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtri

from bayes_lsm.arrays import Array, Index
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.prediction.variances import TermVariance, Uncertain, is_identity
from bayes_lsm.reml.reference import Reference

# The normal distribution of η is integrated over ± that many SDs, in steps that are small against
# its SD and against the width (about 2 in ln τ²) over which an integrand changes.
# With the identity link the integrand has an edge at τ² = 0, and the sum needs finer steps.
_RANGE, _STEP, _STEP_LOG_TAU2, _STEP_IDENTITY = 7.5, 0.4, 0.5, 0.02
_MOST_NODES = 1501
# Points of the sequence: tail probabilities of 2.5% are then good to about 0.05%.
_POINTS = 4096
# Points γ × rows of the data beyond which β̂ is held at its estimate: with that many rows, how it
# follows γ does not matter.
_MOST_WORK = 100_000_000
_LARGEST_TABLE = 2_000_000


def predictive_interval(
    fit: Estimates, X: Array, se: Array, parts: Sequence[TermVariance], level: float
) -> tuple[Array, Array]:
    """The central `level` of true effects in new rows, with their location moderators X (m, p).

    nan for rows in which a chosen variance is not known; that of the mean alone (se, (m,)) where
    there is no variance.
    """
    new = _NewRows(fit, X, parts)
    reference, mean = Reference(fit.df_location), X @ fit.beta
    half = np.where(new.known & ~new.vary, reference.quantile(0.5 + level / 2) * se, np.nan)
    bounds = np.array([mean - half, mean + half])
    rows = np.flatnonzero(new.vary & new.known & np.isfinite(se))
    one = [len(term.effects) for term in fit.design.terms] == [1]
    conditionals = _along_lines if one else _over_points
    for here, centre, variance, weights in conditionals(new, rows) if len(rows) else ():
        mixture = PredictiveMixture(centre, np.sqrt(variance), weights, reference)
        for j, probability in enumerate((0.5 - level / 2, 0.5 + level / 2)):
            bounds[j, here] = mixture.quantile(probability, mean[here], se[here])
    return bounds[0], bounds[1]


# Rows, then x'β̂ and the variance of θ given each of K points (rows, K), and their weights (K,).
Conditional = tuple[Index, Array, Array, Array]


class _NewRows:
    """What is asked: m new rows, and what their variance hangs on.

    Whether a row has any variance (`vary`), and whether all of it is known, with its uncertainty.
    """

    def __init__(self, fit: Estimates, X: Array, parts: Sequence[TermVariance]) -> None:
        self.fit, self.X, self.parts = fit, X, parts
        self.uncertain = Uncertain.of(fit)
        self.vary, self.known = np.zeros(len(X), dtype=bool), np.ones(len(X), dtype=bool)
        for part in parts:
            finite, gone = np.isfinite(part.log_tau2), np.isneginf(part.log_tau2)
            self.vary |= (part.active & ~gone).any(axis=1)
            self.known &= (~part.active | gone | (finite & ~np.isnan(part.se))).all(axis=1)

    def variances(
        self, rows: Index, move: Callable[[Array], Array], gammas: Array | None = None
    ) -> Array:
        """Of the true effects in some rows, where γ has moved; shape (rows, K).

        `move` says by how much functions of γ (rows, s, M) have, shape (rows, s, K).
        """
        found: Array | float = 0.0
        for part in self.parts:
            found = found + part.along(rows, move(part.coordinates[rows]), gammas)
        return np.asarray(found)


class _Locations:
    """β̂ and its covariance where γ is, the variances that are gone being 0."""

    def __init__(self, fit: Estimates, uncertain: Uncertain) -> None:
        self._fit, self._uncertain = fit, uncertain
        self._likelihood = fit.likelihood
        self._columns = np.concatenate(
            [
                at.start + np.arange(len(each.alpha) + len(each.kappa))
                for each, at in zip(fit.terms.values(), fit.design.places, strict=True)
            ]
        )

    def follow(self, points: int) -> bool:
        """Whether that is worth while at so many points."""
        return points * len(self._fit.design.y) <= _MOST_WORK

    def at(self, gammas: Array) -> tuple[Array, Array]:
        """β̂ (K, p) and its covariance (K, p, p) at each row of gammas (K, M)."""
        fit = self._fit
        found = self._likelihood.locations(np.ascontiguousarray(gammas[:, self._columns]))
        beta, covariance = found.beta, found.covariance
        if fit.test == "knha":
            covariance = covariance * (found.squares / float(fit.df_location or 1))[:, None, None]
        bad = ~np.isfinite(beta).all(axis=1)
        beta[bad], covariance[bad] = fit.beta, fit.vcov_location
        return beta, covariance

    def slopes(self) -> Array:
        """∂β̂/∂γ' at the estimate, shape (p, M)."""
        found = np.zeros((len(self._fit.beta), len(self._uncertain.estimate)))
        here = self._uncertain.estimate[self._columns]
        found[:, self._columns] = self._likelihood.location_slopes(here)
        return found


def _along_lines(new: _NewRows, rows: Index) -> Iterator[Conditional]:
    """Of rows with one variance, at nodes of its logarithm."""
    uncertain, (part,) = new.uncertain, new.parts
    lines, line = np.unique(part.coordinates[rows, 0], axis=0, return_inverse=True)
    spread = lines @ uncertain.covariance
    s = np.sqrt(np.maximum(np.sum(spread * lines, axis=1), 0.0))[:, None]
    along = np.divide(spread, s, out=np.zeros_like(spread), where=s > 0)  # γ's, of one SD of η
    nodes, weights = _nodes(new.fit, float(s.max()))
    locations, J = _Locations(new.fit, uncertain), None
    if locations.follow(len(lines) * len(nodes)):
        J = locations.slopes()
    for here in _tables(len(rows), len(nodes)):
        at, x = rows[here], new.X[rows[here]]
        variance = new.variances(at, _by_nodes(along[line[here]], nodes))
        if J is None:
            centre, of_mean = _held(new.fit, x, len(nodes))
            yield at, centre, variance + of_mean, weights
            continue
        pull = x @ J
        across = np.einsum("ij,jk,ik->i", pull, uncertain.covariance, pull)
        across -= np.sum(pull * along[line[here]], axis=1) ** 2
        variance += np.maximum(across, 0.0)[:, None]
        centre = np.empty_like(variance)
        order = np.argsort(line[here], kind="stable")
        for mine in np.split(order, np.flatnonzero(np.diff(line[here][order])) + 1):
            gammas = uncertain.estimate + nodes[:, None] * along[line[here[mine[0]]]]
            centre[mine], of_mean = _means(x[mine], *locations.at(gammas))
            variance[mine] += of_mean
        yield at, centre, variance, weights


def _by_nodes(along: Array, nodes: Array) -> Callable[[Array], Array]:
    return lambda functions: np.einsum("isj,ij->is", functions, along)[:, :, None] * nodes


def _over_points(new: _NewRows, rows: Index) -> Iterator[Conditional]:
    """Of any rows, at points γ of a sequence."""
    gammas = _points(new.uncertain)
    locations, found = _Locations(new.fit, new.uncertain), None
    if locations.follow(len(gammas)):
        found = locations.at(gammas)
    weights, moves = np.full(len(gammas), 1.0 / len(gammas)), gammas - new.uncertain.estimate
    for here in _tables(len(rows), len(gammas)):
        at, x = rows[here], new.X[rows[here]]
        centre, of_mean = _held(new.fit, x, len(gammas)) if found is None else _means(x, *found)
        variance = new.variances(at, lambda functions: functions @ moves.T, gammas)
        yield at, centre, of_mean + variance, weights


def _means(x: Array, beta: Array, covariance: Array) -> tuple[Array, Array]:
    """x'β̂ and its variance (m, K), of rows x (m, p) at K points."""
    return x @ beta.T, np.einsum("ij,kjl,il->ik", x, covariance, x, optimize=True)


def _held(fit: Estimates, x: Array, points: int) -> tuple[Array, Array]:
    """The same where β̂ is held at its estimate."""
    centre, variance = _means(x, fit.beta[None], fit.vcov_location[None])
    return np.repeat(centre, points, axis=1), variance


def _tables(rows: int, points: int) -> list[Index]:
    return np.array_split(np.arange(rows), math.ceil(rows * points / _LARGEST_TABLE))


def _nodes(fit: Estimates, largest: float) -> tuple[Array, Array]:
    vague = _STEP_LOG_TAU2 / max(1.0, largest)
    step = _STEP_IDENTITY if is_identity(fit) else min(_STEP, vague)
    count = min(2 * math.ceil(_RANGE / step) + 1, _MOST_NODES)
    nodes = np.linspace(-_RANGE, _RANGE, count)
    weights = np.exp(-0.5 * nodes**2)
    return nodes, weights / weights.sum()


def _points(uncertain: Uncertain) -> Array:
    """Points of γ (K, M)."""
    from scipy.stats import qmc

    known = np.flatnonzero(np.diag(uncertain.covariance) > 0)
    values, vectors = np.linalg.eigh(uncertain.covariance[np.ix_(known, known)])
    axes = (vectors * np.sqrt(np.maximum(values, 0.0)))[:, ::-1]  # the longest first
    points = ndtri(qmc.Sobol(len(known), seed=0).random(_POINTS).clip(1e-12, 1 - 1e-12))
    draws = np.repeat(uncertain.estimate[None], _POINTS, axis=0)
    draws[:, known] += points @ axes.T
    return draws


@dataclass(frozen=True, eq=False)
class PredictiveMixture:
    """Mixtures, one a row, of a distribution at some centres and with some SDs (m, K)."""

    centre: Array
    sd: Array
    weights: Array
    reference: Reference

    def quantile(self, probability: float, middle: Array, unit: Array) -> Array:
        """Its quantile (m,), by Newton's method on arsinh((θ − middle)/unit), kept in a bracket.

        The quantile lies between the smallest and the largest of the components' quantiles.
        """
        middle, unit = middle[:, None], unit[:, None]
        ends = (self.centre + self.reference.quantile(probability) * self.sd - middle) / unit
        low, high = np.arcsinh(ends.min(axis=1)), np.arcsinh(ends.max(axis=1))
        x = np.clip(np.arcsinh(ends[:, ends.shape[1] // 2]), low, high)
        for _ in range(200):
            z = (middle + unit * np.sinh(x)[:, None] - self.centre) / self.sd
            excess = self.reference.cdf(z) @ self.weights - probability
            density = (self.reference.density(z) / self.sd) @ self.weights
            slope = density * unit[:, 0] * np.cosh(x)
            low, high = np.where(excess < 0, x, low), np.where(excess < 0, high, x)
            step = np.divide(excess, slope, out=np.full_like(x, np.inf), where=slope > 0)
            inside = (x - step >= low) & (x - step <= high)
            new = np.where(inside, x - step, (low + high) / 2)
            if np.max(np.abs(new - x) / (1 + np.abs(x))) < 1e-12:
                break
            x = new
        return np.asarray(middle[:, 0] + unit[:, 0] * np.sinh(x))
