"""Fitting a design by REML or ML: the settings, the estimate, and the warnings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields

from bayes_lsm.capabilities import require_capable
from bayes_lsm.choices import require_choice
from bayes_lsm.design.coefficients import coefficients, find
from bayes_lsm.design.design import Design
from bayes_lsm.errors import ConvergenceWarning, DivergentScaleWarning, FitError, warn
from bayes_lsm.reml.estimates import Estimates, Test
from bayes_lsm.reml.method import require_informed, require_method
from bayes_lsm.reml.reml_fit import RemlFit
from bayes_lsm.reml.search.maximum import Bounds, maximise
from bayes_lsm.reml.uninformed import say
from bayes_lsm.specification import Method

_FACTS = tuple(each.name for each in fields(Estimates))


def fit_reml(
    design: Design,
    *,
    method: Method = "REML",
    test: Test = "z",
    fixed: Mapping[str, float] | None = None,
    bounds: Bounds | None = None,
    start: Mapping[str, float] | None = None,
) -> RemlFit:
    """Fit a location-scale model, whatever its scale terms, by REML or ML.

    Parameters
    ----------
    design : Design
        Its specification names the link: ``"log"`` (ln τ² = z'α) or ``"identity"`` (τ² = z'α ≥ 0).
    method : {"REML", "ML"}, default "REML"
    test : {"z", "t", "knha"}, default "z"
        Reference distribution of the Wald tests: normal; t with k − p (location) and k − q (scale)
        degrees of freedom; or that, with the location covariance scaled as by Knapp & Hartung
        (2003, doi:10.1002/sim.1482).
    fixed : mapping of scale term to value, optional
        Scale coefficients that are not estimated.
    bounds : mapping of scale term to (lower, upper), optional
        Where scale coefficients must lie; infinite ends are allowed.
    start : mapping of scale term to value, optional
        One more starting point, for every scale coefficient that is not fixed.

    Returns
    -------
    RemlFit

    Raises
    ------
    FitError
        For an unknown method, test or term, Student-t study effects, bounds that are crossed or
        exclude the start or a fixed value, and an identity link for which no τ² ≥ 0 is possible.

    Warns
    -----
    DivergentScaleWarning
        When a scale coefficient has no finite estimate.
    ConvergenceWarning
        When the optimiser stopped early, or the data do not inform a scale coefficient.

    Examples
    --------
    >>> from bayes_lsm import Specification, build_design, load_dataset
    >>> spec = Specification("yi ~ ablat", "vi", scale="~ ablat")
    >>> fit = fit_reml(build_design(spec, load_dataset("bcg")), test="knha")
    >>> fit.location["df"].to_list()
    [11, 11]

    References
    ----------
    Viechtbauer, W., & López-López, J. A. (2022). Location-scale models for meta-analysis.
    Research Synthesis Methods, 13(6), 697-715. doi:10.1002/jrsm.1562
    """
    fixed, bounds = _by_label(design, fixed or {}), _by_label(design, bounds or {})
    start = None if start is None else _by_label(design, start)
    require_method(method)
    require_choice("test", test, Test)
    require_capable("fit_reml", design)
    require_informed(design, method)
    if fixed or bounds or start is not None:
        _check_coefficients(design, fixed, bounds, start)
    found = maximise(design, method, fixed=fixed, bounds=bounds, start=start)
    facts = {name: getattr(found, name) for name in _FACTS}
    facts |= {"test": test, "fixed": fixed}
    if test == "knha":
        facts["vcov_location"] = found.vcov_location * found.knapp_hartung
    fit = RemlFit(**facts)
    _warn(fit)
    return fit


def _by_label[T](design: Design, given: Mapping[str, T]) -> dict[str, T]:
    """What is given by coefficient, whose grouping may be left out where no other has its name."""
    known = coefficients(design) if given else []
    return {find(term, known, "scale term").label: value for term, value in given.items()}


def _check_coefficients(
    design: Design,
    fixed: Mapping[str, float],
    bounds: Bounds,
    start: Mapping[str, float] | None,
) -> None:
    names = [each.label for each in coefficients(design)]
    for term, value in fixed.items():
        if not math.isfinite(value):
            raise FitError(f"the fixed value of {term!r} must be finite, got {value}")
        if term in bounds:
            raise FitError(f"{term!r} is both fixed and bounded; choose one")
    if design.specification.link == "identity" and fixed.keys() >= set(names):
        raise FitError(
            "with link='identity' some scale coefficient must be free, got all of them fixed; fix "
            "those of ln τ², with link='log'"
        )
    for term, ends in bounds.items():
        low, high = ends
        if not low < high:
            raise FitError(f"the bounds of {term!r} must be (lower, upper), got {ends}")
        if start is not None and term in start and not low <= start[term] <= high:
            raise FitError(
                f"the bounds {ends} of {term!r} exclude its start {start[term]}; change one of them"
            )
    missing = [name for name in names if start is not None and name not in {**start, **fixed}]
    if missing:
        raise FitError(f"start must give every scale coefficient; missing: {', '.join(missing)}")


def _warn(fit: RemlFit) -> None:
    if fit.divergence is not None:
        warn(
            f"{fit.divergence}. Fit the model with fit_bayes(), where a prior keeps it finite, or "
            "drop the term from the scale formula.",
            DivergentScaleWarning,
        )
    if fit.uninformed:
        warn(f"{say(fit.uninformed)}; simplify the scale formula", ConvergenceWarning)
    if not fit.converged:
        warn(
            "the optimiser did not converge; simplify the scale formula or use fit_bayes()",
            ConvergenceWarning,
        )
