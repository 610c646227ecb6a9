"""The checks of arguments that many functions have: a word, a level, a number, a seed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any, get_args

import numpy as np

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
    end = f"; {cure}" if cure else did_you_mean(given, allowed)
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
    number = isinstance(level, int | float | np.number) and not isinstance(level, bool)
    if not number or not 0 < level < 1:
        raise FitError(f"level must be between 0 and 1, such as 0.95, got {level!r}")


def require_count(name: str, given: Any, least: int) -> None:
    """Raise an error unless `given` is a whole number, and at least `least`.

    Raises
    ------
    FitError
    """
    whole = isinstance(given, int | np.integer) and not isinstance(given, bool)
    if not whole or given < least:
        raise FitError(f"{name} must be a whole number of at least {least}, got {given!r}")


def seed_or_new(seed: int | None) -> int:
    """The seed, or a new one where there is none: what is drawn can be drawn again."""
    return seed_or(int(np.random.SeedSequence().generate_state(1)[0]), seed)


def seed_or(own: int, seed: int | None) -> int:
    """The seed that is given, or else the one that a result has of its own.

    A FitError refuses what is no whole number from 0 on.
    """
    if seed is None:
        return own
    require_count("seed", seed, 0)
    return int(seed)


def closest(given: object, allowed: Iterable[str]) -> str | None:
    """The word that is meant, if one is close."""
    folded = {word.casefold(): word for word in allowed}
    close = difflib.get_close_matches(str(given).casefold(), folded, n=1)
    return folded[close[0]] if close else None


def did_you_mean(given: object, allowed: Iterable[str]) -> str:
    """For the end of a message: ``"; did you mean 'REML'?"``, or nothing."""
    word = closest(given, allowed)
    return f"; did you mean {word!r}?" if word else ""


def _in_words(allowed: tuple[str, ...]) -> str:
    *others, last = map(repr, allowed)
    return f"{', '.join(others)} or {last}" if others else last
