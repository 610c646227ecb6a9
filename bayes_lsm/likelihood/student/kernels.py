r"""The density of an effect whose study effect is Student t, by quadrature.

A t with ν degrees of freedom and scale τ is a normal whose precision is multiplied by a weight λ:

    y_i = μ_i + u_i + e_i,   u_i | λ_i ~ N(0, τ_i²/λ_i),   λ_i ~ Gamma(ν/2, ν/2),   e_i ~ N(0, v_i)

    f(y_i) = ∫ N(y_i; μ_i, v_i + τ_i²/λ) Gamma(λ; ν/2, ν/2) dλ

With λ = e^u the integrand is analytic for |Im u| < π/2 and dies off at both ends, so the
trapezoidal rule is exponentially accurate (Trefethen & Weideman 2014, doi:10.1137/130932132): the
error falls like exp(−2π²/h²) in the step h of standard deviations of ln λ. The sum starts at λ = 1
and goes both ways until what is left cannot matter. It needs no guess of where the mass is, and
it finds both peaks where an outlier makes two: the error's tail and the t's. The same sum gives the
derivatives, as posterior expectations, and E(λ | y).

Import this module inside the functions that need it: it loads numba.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange

from bayes_lsm.links import LARGEST_EXPONENT

# The sum stops where a term falls below this share of the largest.
_SMALLEST_SHARE = 1e-12
_LOG_SMALLEST_SHARE = math.log(_SMALLEST_SHARE)
# Of the trapezoidal rule: in standard deviations of ln λ when ν is large, and in ln λ when it is
# small. With λ ~ Gamma(a, ·) the relative error is 2 |Γ(a + 2πi/h)| / Γ(a), below 1e-10.
_STEP = 0.85
_LONGEST_STEP = 0.38
# A λ below this has no mass unless ν is far below 1.
_SMALLEST_WEIGHT = 1e-290
# Where the reference of the running sum is moved up, so that nothing overflows.
_LARGEST_TERM = 50.0

# Rows of what `terms` returns.
LOG_DENSITY, BY_RESIDUAL, BY_LOG_TAU2, BY_DF, WEIGHT = range(5)


@njit(cache=True)
def digamma(x):
    """ψ(x), x > 0: the recurrence up to 10, then the asymptotic series (DLMF 5.11.2)."""
    below = 0.0
    while x < 10.0:
        below -= 1.0 / x
        x += 1.0
    s = 1.0 / (x * x)
    series = s * (1 / 12 - s * (1 / 120 - s * (1 / 252 - s * (1 / 240 - s * (1 / 132)))))
    return below + math.log(x) - 0.5 / x - series


@njit(cache=True)
def _rule(log_tau2, df):
    """τ², and the step of the trapezoidal rule in ln λ."""
    tau2 = math.exp(min(max(log_tau2, -LARGEST_EXPONENT), LARGEST_EXPONENT))
    return tau2, 1.0 / math.sqrt(1.0 / _LONGEST_STEP**2 + (df + 1.0) / (2.0 * _STEP**2))


@njit(cache=True)
def _one(r, v, log_tau2, df, constant, trigger, out):
    """Fills out (5,) for one study; `constant` and `trigger` depend on `df` alone."""
    half = 0.5 * df
    tau2, step = _rule(log_tau2, df)
    square = 0.5 * r * r
    half_log_v = 0.5 * math.log(v)
    ratio = math.exp(step)
    # All terms are relative to the one at λ = 1, or to a later one that is far higher.
    reference = -0.5 * math.log(v + tau2) - square / (v + tau2)
    total = largest = by_s = by_tau = by_df = weight = 0.0
    for side in range(2):  # λ ≥ 1, then λ < 1
        direction = 1.0 if side == 0 else -1.0
        growth = ratio if side == 0 else 1.0 / ratio
        u = 0.0 if side == 0 else -step
        lam = 1.0 if side == 0 else growth
        spread = tau2 / lam
        while True:
            kappa = 1.0 / (v + spread)
            distance = square * kappa
            prior = half * (u - lam + 1.0)
            if prior - distance - half_log_v > reference + _LARGEST_TERM:
                higher = prior - distance + 0.5 * math.log(kappa)
                if higher > reference + _LARGEST_TERM:
                    shrink = math.exp(reference - higher)
                    total *= shrink
                    largest *= shrink
                    by_s *= shrink
                    by_tau *= shrink
                    by_df *= shrink
                    weight *= shrink
                    reference = higher
            p = math.exp(prior - distance - reference) * math.sqrt(kappa)
            total += p
            by_s += p * kappa
            by_tau += p * spread * kappa * (2.0 * distance - 1.0)
            by_df += p * (u - lam)
            weight += p * lam
            largest = max(largest, p)
            # On the left a far smaller λ may still explain an outlier, unless it is none (the
            # distance is small) or the prior alone rules it out.
            if p < _SMALLEST_SHARE * largest and (side == 0 or distance < 1.0):
                break
            if side == 1 and prior - half_log_v < reference + _LOG_SMALLEST_SHARE:
                break
            u += direction * step
            lam *= growth
            spread = tau2 / lam if side == 0 else spread * ratio
    out[0] = constant + reference + math.log(step * total)
    out[1] = -r * by_s / total
    out[2] = 0.5 * by_tau / total
    out[3] = 0.5 * (trigger + by_df / total)
    out[4] = weight / total


@njit(cache=True)
def _constants(df):
    """ln of the normalising constant of both densities, and ln(ν/2) + 1 − ψ(ν/2)."""
    half = 0.5 * df
    constant = half * math.log(half) - half - math.lgamma(half) - 0.5 * math.log(2.0 * math.pi)
    return constant, math.log(half) + 1.0 - digamma(half)


@njit(cache=True)
def terms(r, v, log_tau2, df):
    """ln f; its derivatives in r, ln τ² and ν; and E(λ | y), the weight of the study: (5, k).

    Of residuals y − μ, sampling variances > 0 and ln of the squared scale of the t, all (k,), and
    degrees of freedom ν > 0.
    """
    constant, trigger = _constants(df)
    values = np.empty((5, len(r)))
    one = np.empty(5)
    for i in range(len(r)):
        _one(r[i], v[i], log_tau2[i], df, constant, trigger, one)
        for j in range(5):
            values[j, i] = one[j]
    return values


@njit(cache=True, parallel=True)
def batched(row, betas, alphas, dfs, y, v, X, Z):
    """One row of `terms`, (m, k), for each of the rows of betas (m, p), alphas (m, q), dfs (m,)."""
    values = np.empty((len(dfs), len(y)))
    for i in prange(len(dfs)):
        values[i] = terms(y - X @ betas[i], v, Z @ alphas[i], dfs[i])[row]
    return values


@njit(cache=True, parallel=True)
def log_likelihood(betas, alphas, dfs, y, v, X, Z):
    """Sums of the log density over the studies, (m,)."""
    values = np.empty(len(dfs))
    for i in prange(len(dfs)):
        values[i] = terms(y - X @ betas[i], v, Z @ alphas[i], dfs[i])[0].sum()
    return values


@njit(cache=True)
def _draw(uniform, r, v, log_tau2, df, constant, log_density):
    """The λ of one study below which a share `uniform` of the sum of `_one` lies.

    The sum's terms are taken in its own order: from λ = 1 upwards, then from there downwards.
    """
    half = 0.5 * df
    tau2, step = _rule(log_tau2, df)
    offset = constant + math.log(step) - log_density
    below = largest = 0.0
    lam = 1.0
    for side in range(2):
        direction = 1.0 if side == 0 else -1.0
        u = 0.0 if side == 0 else -step
        while True:
            lam = math.exp(u)
            kappa = 1.0 / (v + tau2 / lam)
            distance = 0.5 * r * r * kappa
            prior = half * (u - lam + 1.0) + offset
            p = math.exp(prior - distance) * math.sqrt(kappa)
            below += p
            if below >= uniform:
                return lam
            largest = max(largest, p)
            if p < _SMALLEST_SHARE * largest and (side == 0 or distance < 1.0):
                break
            if side == 0 and p == 0.0:
                break
            if side == 1 and prior - 0.5 * math.log(v) < _LOG_SMALLEST_SHARE:
                break
            u += direction * step
    return lam


@njit(cache=True, parallel=True)
def draw_weights(uniform, betas, alphas, dfs, y, v, X, Z):
    """λ | y of each study, (k, m), given m draws, from uniform numbers (k, m).

    λ is drawn among the nodes of the quadrature. What is averaged over it later is as smooth as
    the integrand, so its mean over the nodes is its mean over λ, as exactly as the density.
    """
    drawn = np.empty(uniform.shape)
    for i in prange(len(y)):
        one = np.empty(5)
        for j in range(len(dfs)):
            constant, trigger = _constants(dfs[j])
            r = y[i] - np.dot(X[i], betas[j])
            log_tau2 = np.dot(Z[i], alphas[j])
            _one(r, v[i], log_tau2, dfs[j], constant, trigger, one)
            drawn[i, j] = _draw(uniform[i, j], r, v[i], log_tau2, dfs[j], constant, one[0])
    return drawn


@njit(cache=True, parallel=True)
def averaged(betas, alphas, dfs, y, v, X, Z):
    """Means of all rows of `terms` over the draws, (5, k)."""
    means = np.zeros((5, len(y)))
    for i in prange(len(y)):
        one = np.empty(5)
        for j in range(len(dfs)):
            constant, trigger = _constants(dfs[j])
            r = y[i] - np.dot(X[i], betas[j])
            _one(r, v[i], np.dot(Z[i], alphas[j]), dfs[j], constant, trigger, one)
            for row in range(5):
                means[row, i] += one[row] / len(dfs)
    return means


@njit(cache=True)
def _tail(r, v, log_tau2, df, constant):
    """P(new effect − μ > |r|) of one study: Φ(−|r| / √(v + τ²/λ)) averaged over λ.

    By the same rule as the density. Both factors fall as λ rises from 1. Below, the prior of λ
    falls while the other factor rises to at most ½, maybe from nothing at all.
    """
    half = 0.5 * df
    tau2, step = _rule(log_tau2, df)
    offset = constant + 0.5 * math.log(2.0 * math.pi) + half + math.log(step)
    total = 0.0
    for side in range(2):  # λ ≥ 1, then λ < 1
        direction = 1.0 if side == 0 else -1.0
        u = 0.0 if side == 0 else -step
        while True:
            lam = math.exp(u)
            share = math.exp(half * (u - lam) + offset)
            term = share * 0.5 * math.erfc(abs(r) * math.sqrt(0.5 / (v + tau2 / lam)))
            total += term
            most = term if side == 0 else share
            if most <= _SMALLEST_SHARE * total or lam < _SMALLEST_WEIGHT:
                break
            u += direction * step
    return total


@njit(cache=True, parallel=True)
def tails(residuals, v, log_tau2s, dfs):
    """P(a new effect lies farther from its mean than y, on the same side), (m, k).

    Of residuals y − μ (m, k), sampling variances (k,), ln τ² (m, k) and ν (m,).
    """
    found = np.empty(residuals.shape)
    for i in prange(len(dfs)):
        constant, _ = _constants(dfs[i])
        for j in range(len(v)):
            found[i, j] = _tail(residuals[i, j], v[j], log_tau2s[i, j], dfs[i], constant)
    return found
