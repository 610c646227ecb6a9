r"""The distribution of a new group's true effect when variances, and with them β̂, are uncertain.

With γ all scale coefficients and κ of the correlations, γ ~ Normal(γ̂, C),

    θ_new ~ ∫ Normal( x'β̂(γ), x'V_β(γ)x + Σ_l a_l' D_l(γ) a_l ) dNormal(γ; γ̂, C)

over the terms l whose variance is asked for. The integral is a mean over points of a scrambled
Sobol sequence, always the same ones, along the principal axes of C.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from bayes_lsm.design.new_data import NewData
from bayes_lsm.likelihood.blocks.correlation_matrices import correlation_matrices
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.prediction.linear_scale import Reference
from bayes_lsm.reml.prediction.predictive import Mixture
from bayes_lsm.reml.term_estimate import TermEstimate
from bayes_lsm.reml.uninformed import depends

Array = npt.NDArray[np.float64]

# Points of the sequence: tail probabilities of 2.5% are then good to about 0.05%.
_POINTS = 4096
# Rows × points beyond which β̂ is held at its estimate: how it follows γ does not matter then.
_MOST_WORK = 40_000_000


def clustered_predictive(
    fit: Estimates, new: NewData, chosen: Sequence[str], level: float
) -> tuple[Array, Array]:
    """The central `level` of the effects of new groups, one a row of the new data."""
    draws = _draws(fit)
    betas, covariances = _locations(fit, draws)
    centre = new.X @ betas.T
    variance = np.einsum("ij,kjl,il->ik", new.X, covariances, new.X)
    starts = np.cumsum([0, *(each.term.size for each in fit.terms.values())])
    for t, (name, each) in enumerate(fit.terms.items()):
        if name in chosen:
            own = draws[:, starts[t] : starts[t + 1]]
            variance += _variances(each, own, new.terms[t].slopes, new.terms[t].Z)
    middle = new.X @ fit.beta
    se = np.sqrt(np.einsum("ij,jk,ik->i", new.X, fit.vcov_location, new.X))
    bounds = np.full((2, len(middle)), np.nan)
    known = ~np.isnan(variance).any(axis=1) & ~depends(new.X, fit.blind_location)
    if known.any():
        weights = np.full(len(draws), 1.0 / len(draws))
        reference = Reference(fit.df_location)
        mixture = Mixture(centre[known], np.sqrt(variance[known]), weights, reference)
        for end, tail in enumerate((0.5 - level / 2, 0.5 + level / 2)):
            bounds[end, known] = mixture.quantile(tail, middle[known], se[known])
    return bounds[0], bounds[1]


def _draws(fit: Estimates) -> Array:
    """Points of γ (K, m), at a limit of what gives ln τ²; without covariance at its estimate."""
    from scipy.stats import qmc

    estimate = np.concatenate(
        [
            np.r_[np.nan_to_num(each.limit_alpha), each.kappa, np.zeros(_lost(each))]
            for each in fit.terms.values()
        ]
    )
    known = np.flatnonzero(~np.isnan(np.diag(fit.limit_vcov)))
    if not len(known):
        return estimate[None]
    values, vectors = np.linalg.eigh(fit.limit_vcov[np.ix_(known, known)])
    axes = (vectors * np.sqrt(np.maximum(values, 0.0)))[:, ::-1]  # the longest first
    points = ndtri(qmc.Sobol(len(known), seed=0).random(_POINTS).clip(1e-12, 1 - 1e-12))
    draws = np.repeat(estimate[None], _POINTS, axis=0)
    draws[:, known] += points @ axes.T
    return draws


def _lost(each: TermEstimate) -> int:
    """How many κ a limit took."""
    return each.term.size - len(each.alpha) - len(each.kappa)


def _locations(fit: Estimates, draws: Array) -> tuple[Array, Array]:
    """β̂ (K, p) and its covariance (K, p, p) at each point."""
    from bayes_lsm.likelihood.blocks import blocks
    from bayes_lsm.likelihood.blocks.arrange import sampling_covariance

    design = fit.design
    fixed = fit.beta[None], fit.vcov_location[None]
    if len(draws) * len(design.y) > _MOST_WORK or any(map(_lost, fit.terms.values())):
        return fixed
    terms: list[blocks.BlockTerm] = []
    columns: list[int] = []
    first = 0
    for each in fit.terms.values():
        term = each.term
        finite = ~np.isnan(each.limit_alpha)
        gone = each.tau2 == 0
        terms.append(
            blocks.BlockTerm(
                term.index,
                term.Z[:, :, finite],
                np.where(gone[term.index], 0.0, term.slopes),
                term.correlation if term.n_correlations else "none",
            )
        )
        columns += [first + int(j) for j in np.flatnonzero(finite)]
        columns += [first + len(finite) + j for j in range(len(each.kappa))]
        first += term.size
    data = blocks.arrange(design.y, design.X, tuple(terms), variance=sampling_covariance(design))
    betas, covariances = blocks.locations(draws[:, columns], data)
    bad = ~np.isfinite(betas).all(axis=1)
    betas[bad], covariances[bad] = fixed[0], fixed[1]
    return betas, covariances


def _variances(each: TermEstimate, draws: Array, slopes: Array, Z: Array) -> Array:
    """a'Da of each new row at each point (rows, K)."""
    q, s = len(each.alpha), slopes.shape[1]
    R = np.nan_to_num(each.correlation)[None]
    if each.term.n_correlations and not _lost(each):
        R = correlation_matrices(draws[:, q:], s, each.term.correlation)
    rows, added = each.read(Z.reshape(-1, q))
    log_tau2 = (rows @ draws[:, :q].T + added[:, None]).reshape(len(slopes), s, -1)
    tau = np.exp(0.5 * np.swapaxes(log_tau2, 1, 2))
    found = np.empty((len(slopes), len(draws)))
    for i, row in enumerate(tau):
        loads = slopes[i] * np.where(slopes[i] == 0, 0.0, row)
        found[i] = np.sum((loads[:, None, :] @ R)[:, 0] * loads, axis=1)
    return found
