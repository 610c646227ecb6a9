"""What a verb needs of a fit, and says when it is not there."""

from __future__ import annotations

from bayes_lsm.errors import FitError
from bayes_lsm.reml.estimates import Estimates


def require_log_link(fit: Estimates, what: str) -> None:
    """Refuse fits of τ² itself."""
    if fit.design.specification.link != "log":
        raise FitError(f"{what} needs a fit with link='log', got link='identity'")


def require_no_bounds(fit: Estimates, what: str) -> None:
    """Refuse fits whose coefficients are held by a bound."""
    if fit.at_bound:
        raise FitError(
            f"{what} needs a fit that no bound holds, got {', '.join(fit.at_bound)} at a bound; "
            "refit without bounds, or with fixed values in their place"
        )


def require_free_log_link(fit: Estimates, what: str) -> None:
    """Refuse fits whose scale part is not an unconstrained model of ln τ²."""
    require_log_link(fit, what)
    if fit.fixed or fit.at_bound:
        held = ", ".join([*fit.fixed, *fit.at_bound])
        raise FitError(
            f"{what} needs a fit in which every scale coefficient is free, got one that holds "
            f"{held}; refit without fixed values and bounds"
        )
