"""The maximum of independent effects as facts: α, β, τ² and what a limit at infinity took."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from bayes_lsm.design.design import Design
from bayes_lsm.reml.divergence import Divergence, Limit
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.search.geometry import geometry_of
from bayes_lsm.reml.search.rows_search import Search
from bayes_lsm.reml.search.surface import Point, Surface
from bayes_lsm.reml.term_estimate import TermEstimate
from bayes_lsm.specification import Method

Array = npt.NDArray[np.float64]

_NO_KAPPA, _NO_VCOV, _ALONE = np.empty(0), np.empty((0, 0)), np.ones((1, 1))


def estimate_rows(
    design: Design,
    method: Method,
    *,
    fixed: Mapping[str, float] | None = None,
    start: Mapping[str, float] | None = None,
) -> Estimates:
    """The maximum under the log link, with some coefficients fixed.

    A fixed coefficient moves into an offset of ln τ².
    """
    fixed = fixed or {}
    names, Z = design.terms[0].names, design.Z
    free = [j for j, name in enumerate(names) if name not in fixed]
    full = np.array([fixed.get(name, math.nan) for name in names])
    offset = Z @ np.nan_to_num(full) if fixed else None
    if not free:
        surface = Surface(design.y, design.v, design.X, Z[:, []], method, offset=offset)
        (point,) = surface.climb([np.zeros(0)])
        return _estimates(design, method, point, full, free, stop=np.zeros(0))
    begin = None if start is None else np.array([start[names[j]] for j in free])
    search = Search(design.y, design.v, design.X, Z[:, free], method, offset=offset, start=begin)
    found = _estimates(design, method, search.best, full, free, stop=search.stop)
    if search.rival is None:
        return found
    rival = _estimates(design, method, search.rival, full, free, stop=search.stop)
    return replace(found, rival=rival.alpha, rival_loglik=rival.loglik)


def _estimates(
    design: Design, method: Method, point: Point, full: Array, free: list[int], *, stop: Array
) -> Estimates:
    """Put the free coefficients back among the fixed ones; ±inf or nan for what a limit took."""
    q = len(full)
    alpha, stopped = full.copy(), full.copy()
    covariance, limit_vcov = np.full((2, q, q), math.nan)
    kept = free if point.limit is None else [free[j] for j in point.limit.kept]
    alpha[kept] = point.alpha
    stopped[free] = stop
    covariance[np.ix_(kept, kept)] = point.covariance
    limit_vcov[np.ix_(kept, kept)] = point.covariance_across
    flat = point.blind
    blind = np.zeros((q, flat.shape[1]))
    blind[kept] = flat
    divergence, limit_alpha = None, alpha
    if point.limit is not None:
        limit_alpha = alpha.copy()
        face = geometry_of(design.Z[:, free]).face_of(point.limit)
        signs, direction = face.signs
        for j, sign in signs.items():
            alpha[free[j]] = sign
        infinite = ~np.isfinite(alpha)
        covariance[infinite, :] = covariance[:, infinite] = np.nan
        divergence = _describe(design, point.limit, free, signs, direction)
    found = one_term(
        design, alpha, covariance, point.tau2, divergence, limit_alpha, limit_vcov, blind
    )
    return Estimates(
        design=design,
        method=method,
        beta=point.beta,
        vcov_location=point.vcov_location,
        terms={found.term.name: found},
        vcov_terms=covariance,
        limit_vcov=limit_vcov,
        loglik=point.value,
        converged=point.converged,
        stop=stopped,
    )


def one_term(
    design: Design,
    alpha: Array,
    vcov: Array,
    tau2: Array,
    divergence: Divergence | None,
    limit_alpha: Array,
    limit_vcov: Array,
    blind: Array,
) -> TermEstimate:
    """What was estimated of the only scale term, τ² (n,) being that of each row."""
    return TermEstimate(
        term=design.terms[0],
        alpha=alpha,
        vcov=vcov,
        tau2=tau2[:, None],
        kappa=_NO_KAPPA,
        vcov_kappa=_NO_VCOV,
        correlation=_ALONE,
        divergence=divergence,
        limit_alpha=limit_alpha,
        limit_vcov=limit_vcov,
        blind=blind,
    )


def _describe(
    design: Design, limit: Limit, free: list[int], signs: Mapping[int, float], direction: Array
) -> Divergence:
    names = [design.terms[0].names[j] for j in free]
    return Divergence(
        terms={names[j]: sign for j, sign in signs.items()},
        direction=dict(zip(names, map(float, direction), strict=True)),
        studies=tuple(design.labels[i] for i in np.flatnonzero(limit.zero)),
        everywhere=bool(limit.zero.all()),
    )
