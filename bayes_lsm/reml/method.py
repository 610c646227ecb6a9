"""Which likelihood is climbed, and where to find what other programs call a method."""

from __future__ import annotations

from typing import get_args

from bayes_lsm.choices import require_choice
from bayes_lsm.reml.prediction.tau2_estimators import Estimator
from bayes_lsm.specification import Method

# What metafor calls a model without heterogeneity.
_WITHOUT_HETEROGENEITY = ("FE", "EE", "CE")


def require_method(method: str) -> None:
    """Refuse all but REML and ML, and say which verb has an estimator of another name.

    Raises
    ------
    FitError
        For any other method.
    """
    require_choice("method", method, Method, cure=_cure(str(method).upper()))


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
