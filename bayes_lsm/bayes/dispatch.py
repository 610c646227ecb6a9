"""One verb for fits of one scale term and of several: each does it in its own way."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, Protocol, cast, overload

from bayes_lsm.errors import FitError

if TYPE_CHECKING:
    from bayes_lsm.bayes.clustered_fit import ClusteredBayesFit
    from bayes_lsm.bayes.posterior import BayesFit


class Verb[**P, R](Protocol):
    """A function of a fit."""

    @overload
    def __call__(self, fit: BayesFit, /, *args: P.args, **kwargs: P.kwargs) -> R: ...

    @overload
    def __call__(self, fit: ClusteredBayesFit, /, *args: Any, **kwargs: Any) -> Any: ...


def of_either_fit[**P, R](function: Callable[Concatenate[BayesFit, P], R]) -> Verb[P, R]:
    """A verb of one scale term that hands a fit of several on to the fit's own of that name.

    Raises
    ------
    FitError
        Of the verb, for a fit that has none.
    """
    name = function.__name__

    @wraps(function)
    def verb(fit: Any, /, *args: Any, **kwargs: Any) -> Any:
        from bayes_lsm.bayes.clustered_fit import ClusteredBayesFit

        if not isinstance(fit, ClusteredBayesFit):
            return function(fit, *args, **kwargs)
        if not hasattr(type(fit), name):
            raise FitError(
                f"{name} takes a fit with one scale term, got a {fit.design.kind}; with several "
                "there are predict, heterogeneity and blup"
            )
        own = getattr(fit, name)
        return own(*args, **kwargs) if callable(own) else own

    return cast("Verb[P, R]", verb)
