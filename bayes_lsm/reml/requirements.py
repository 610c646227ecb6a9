"""What a verb needs of a fit, and says when it is not there."""

from __future__ import annotations

from bayes_lsm.errors import FitError
from bayes_lsm.reml.estimates import Estimates


def require_no_bounds(fit: Estimates, what: str) -> None:
    """Refuse fits whose coefficients are held by a bound."""
    if fit.at_bound:
        raise FitError(
            f"{what} needs a fit that no bound holds, got {', '.join(fit.at_bound)} at a bound; "
            "refit without bounds, or with fixed values in their place"
        )
