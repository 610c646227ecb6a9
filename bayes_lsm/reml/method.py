"""Which likelihood is climbed, and where to find what other programs call a method."""

from __future__ import annotations

from typing import get_args

from bayes_lsm.choices import require_choice
from bayes_lsm.design.design import Design
from bayes_lsm.errors import FitError
from bayes_lsm.reml.prediction.tau2_estimators import Estimator
from bayes_lsm.specification import Method

# What metafor calls a model without heterogeneity.
_WITHOUT_HETEROGENEITY = ("FE", "EE", "CE")


def require_method(method: str) -> None:
    """Refuse all but REML and ML, and say which verb has an estimator of another name."""
    if method not in get_args(Method):
        require_choice("method", method, Method, cure=_cure(str(method).upper()))


def require_informed(design: Design, method: Method) -> None:
    """Refuse what the restricted likelihood cannot see: a level of one study with its own mean."""
    for lone in design.lone_levels:
        if lone.is_absorbed and method == "REML":
            raise FitError(
                f"{lone.said}, and the location part has a coefficient of its own there, so that "
                "the data do not inform its heterogeneity; merge the level with another, leave the "
                "term out of one of the parts, or use fit_bayes(), where the prior gives it"
            )


def _cure(method: str) -> str:
    classical = [each for each in get_args(Estimator) if each not in get_args(Method)]
    if method in classical:
        return f"reml.estimate_tau2(design, {method!r}) estimates one τ² of all studies so"
    if method in _WITHOUT_HETEROGENEITY:
        return (
            "a model without heterogeneity is that of scale='~ 1' with fixed={'intrcpt': -50}, "
            "where τ² is 0"
        )
    return ""
