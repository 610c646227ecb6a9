"""The maximum of a design's likelihood, with some scale coefficients fixed or bounded."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import replace

from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.reml.estimates import Estimates
from bayes_lsm.reml.search.estimate import estimate
from bayes_lsm.specification import Method

Bounds = Mapping[str, tuple[float, float]]

# More bounded coefficients would mean more than 3^6 searches.
_MOST_BOUNDED = 6


def maximise(
    design: Design,
    method: Method,
    *,
    fixed: Mapping[str, float] | None = None,
    bounds: Bounds | None = None,
    start: Mapping[str, float] | None = None,
) -> Estimates:
    """Where the likelihood is highest, inside or at a limit at infinity.

    Scale coefficients may be fixed, or bounded by (lower, upper); `start` is one more starting
    point.
    """
    fixed, bounds = fixed or {}, bounds or {}
    if design.specification.link == "identity":
        from bayes_lsm.reml.search.identity import estimate_identity

        return estimate_identity(design, method, fixed=fixed, bounds=bounds, start=start)
    if bounds:
        return estimate_bounded(design, method, bounds, fixed=fixed, start=start)
    return estimate(design, method, fixed=fixed, start=start)


def estimate_bounded(
    design: Design,
    method: Method,
    bounds: Bounds,
    *,
    fixed: Mapping[str, float],
    start: Mapping[str, float] | None = None,
) -> Estimates:
    """The maximum under the log link, with some coefficients kept between bounds.

    Every choice of which bounded coefficients sit at a bound is a model with fixed coefficients;
    the highest of those whose other coefficients keep their bounds is the answer, limits at
    infinity included. A FitError for too many bounds, and where no maximum keeps them.
    """
    if len(bounds) > _MOST_BOUNDED:
        raise FitError(
            f"bounds are given for {len(bounds)} coefficients, at most {_MOST_BOUNDED} can have "
            "some; fix the others, or leave their bounds out"
        )
    best: Estimates | None = None
    places = [(None, *(end for end in ends if math.isfinite(end))) for ends in bounds.values()]
    for chosen in itertools.product(*places):
        held = {name: end for name, end in zip(bounds, chosen, strict=True) if end is not None}
        found = estimate(design, method, fixed={**fixed, **held}, start=start)
        if _inside(found, bounds) and (best is None or found.loglik > best.loglik + 1e-12):
            best = replace(found, at_bound=held)
            if not held:
                return best
    if best is None:
        raise FitError("no maximum was found within the bounds; widen them")
    return best


def _inside(found: Estimates, bounds: Bounds) -> bool:
    alpha = dict(zip(found.scale_names, found.alpha, strict=True))
    return all(low <= alpha[name] <= high for name, (low, high) in bounds.items())
