"""The checks of arguments that many functions have: one of a few words, a confidence level."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, get_args

from bayes_lsm.errors import BayesLsmError, FitError


def require_choice(
    name: str, given: object, choices: Any, *, cure: str = "", error: type[BayesLsmError] = FitError
) -> None:
    """Raise an error unless `given` is one of the words that are allowed.

    Parameters
    ----------
    name : str
        Of the argument, or what it is, as the message begins.
    given : object
    choices : a `Literal` type, or iterable of str
        What is allowed.
    cure : str, optional
        What to do instead, where that is not one of the words; by default the word that is meant,
        if one is close.
    error : type of BayesLsmError, default FitError

    Raises
    ------
    BayesLsmError
        The one that was asked for.

    Examples
    --------
    >>> from typing import Literal
    >>> require_choice("method", "reml", Literal["REML", "ML"])
    Traceback (most recent call last):
        ...
    bayes_lsm.errors.FitError: method must be 'REML' or 'ML', got 'reml'; did you mean 'REML'?
    """
    allowed: tuple[str, ...] = get_args(choices) or tuple(choices)
    # An array or a list compares in its own way.
    if isinstance(given, str) and given in allowed:
        return
    cure = cure or _meant(given, allowed)
    end = f"; {cure}" if cure else ""
    raise error(f"{name} must be {_in_words(allowed)}, got {given!r}{end}")


def require_known(whose: str, what: str, given: str, known: Iterable[str]) -> None:
    """Raise an error unless a name is among those that a model, a table or a result has.

    Raises
    ------
    FitError

    Examples
    --------
    >>> require_known("the scale part", "term", "weeks", ["intrcpt", "age"])
    Traceback (most recent call last):
        ...
    bayes_lsm.errors.FitError: the scale part has no term 'weeks'; it has 'intrcpt', 'age'
    """
    names = list(known)
    if given not in names:
        listed = ", ".join(map(repr, names)) or "none"
        raise FitError(f"{whose} has no {what} {given!r}; it has {listed}")


def require_level(level: float) -> None:
    """Raise an error unless a confidence level lies between 0 and 1.

    Raises
    ------
    FitError

    Examples
    --------
    >>> require_level(95)
    Traceback (most recent call last):
        ...
    bayes_lsm.errors.FitError: level must be between 0 and 1, such as 0.95, got 95
    """
    if not 0 < level < 1:
        raise FitError(f"level must be between 0 and 1, such as 0.95, got {level!r}")


def _meant(given: object, allowed: Iterable[str]) -> str:
    folded = {word.casefold(): word for word in allowed}
    close = difflib.get_close_matches(str(given).casefold(), folded, n=1)
    return f"did you mean {folded[close[0]]!r}?" if close else ""


def _in_words(allowed: tuple[str, ...]) -> str:
    *others, last = map(repr, allowed)
    return f"{', '.join(others)} or {last}" if others else last
