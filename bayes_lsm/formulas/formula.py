"""Formulas, read but not evaluated.

A formula is Python that will be evaluated, and a model file may come from anyone. So each formula
is taken apart here first, and only columns, numbers, arithmetic and the formula language's own
transforms pass; nothing has been evaluated when something else is refused. To allow one more
transform, add it to `grammar.TRANSFORMS`.
"""

from __future__ import annotations

import keyword
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from formulaic import Formula, SimpleFormula
from formulaic.parser import DefaultFormulaParser
from formulaic.parser.algos.tokenize import tokenize
from formulaic.parser.types import ASTNode, Factor, Token

from bayes_lsm.errors import FormulaError
from bayes_lsm.formulas.grammar import TRANSFORMS, FactorUse, read_factor

_MAX_LENGTH = 10_000
_MAX_POWER = 10
_MAX_TERMS = 1000
_OPERATORS = frozenset("+-*/:^")
_NOISE = re.compile(r"\x1b\[[0-9;]*m|[⧛⧚]|\[\d+(?:;\d+)*m|\(<unknown>, line \d+\)")


@dataclass(frozen=True)
class ParsedFormula:
    """The right-hand side of a formula, checked.

    Attributes
    ----------
    text : str
        As the user wrote it, without the left-hand side.
    terms : formulaic.SimpleFormula
    factors : mapping of str to FactorUse
        What each factor, keyed by its expression, does with which columns.
    """

    text: str
    terms: SimpleFormula
    factors: Mapping[str, FactorUse]

    @property
    def columns(self) -> tuple[str, ...]:
        """The data columns that it needs, in the order of their appearance."""
        return tuple(dict.fromkeys(name for use in self.factors.values() for name in use.columns))

    @property
    def computed(self) -> frozenset[str]:
        """The columns that it does arithmetic with, which must hold numbers."""
        return frozenset(name for use in self.factors.values() for name in use.computed)


def split(formula: str) -> tuple[str | None, str]:
    """The left-hand side (None when there is none) and the right-hand side of a formula.

    Examples
    --------
    >>> split("yi ~ weeks")
    ('yi', '~ weeks')
    """
    left, tilde, right = formula.partition("~")
    if not tilde:
        return None, f"~ {formula.strip()}"
    return left.strip().strip("`") or None, f"~ {right.strip()}"


def parse(formula: str) -> ParsedFormula:
    """Read and check the right-hand side ``"~ a + b"``.

    Raises
    ------
    FormulaError
        When it is broken, or uses anything but columns and the allowed transforms.

    Examples
    --------
    >>> parse("~ continent + I(weeks - 40)").columns
    ('continent', 'weeks')
    """
    if len(formula) > _MAX_LENGTH:
        raise FormulaError(
            f"a formula has {len(formula)} characters; at most {_MAX_LENGTH} are allowed"
        )
    left, text = split(formula)
    body = text[1:].strip()
    shown = formula if len(formula) <= 200 else formula[:200] + "…"
    if left is not None or "~" in body:
        raise FormulaError(f"the formula {shown!r} must have the form '~ a + b', with one '~'")
    if not body:
        raise FormulaError(f"the formula {shown!r} is empty; write '~ 1' for a constant only")
    for nothing in ("``", "{}", "%%"):
        if nothing in body:
            raise FormulaError(
                f"the formula {shown!r} has {nothing} with no column name between; write one or "
                "leave it out"
            )
    with warnings.catch_warnings():
        # Python's own remarks on odd code, which is refused in any case.
        warnings.simplefilter("ignore", SyntaxWarning)
        terms, read = _read(shown, body)
    # Only the factors of terms that are left ("- a" takes one away), and in their order.
    used = (factor for term in terms for factor in term.factors)
    factors = {
        factor.expr: _checked(shown, factor.expr, read)
        for factor in used
        if factor.eval_method is not Factor.EvalMethod.LITERAL
    }
    if not terms:
        raise FormulaError(f"the formula {shown!r} has no terms; write '~ 1' for a constant only")
    _check_shadows(shown, factors.values())
    return ParsedFormula(text, terms, factors)


def _checked(formula: str, expr: str, read: Mapping[str, FactorUse]) -> FactorUse:
    """Nothing may be evaluated that was not checked, whatever the formula library made of it."""
    if expr not in read:
        raise FormulaError(f"the formula {formula!r} uses {expr!r} in a way that is not understood")
    return read[expr]


def plain(error: BaseException) -> str:
    """The first line of the formula library's own message, without its terminal colours.

    Examples
    --------
    >>> plain(ValueError("no \x1b[1mbold\x1b[0m"))
    'no bold'
    """
    lines = _NOISE.sub("", str(error)).strip().splitlines()
    return " ".join(lines[0].split()) if lines else type(error).__name__


def _read(formula: str, body: str) -> tuple[SimpleFormula, dict[str, FactorUse]]:
    # The formula library meets any text here, and fails on some in ways of its own.
    try:
        parser = DefaultFormulaParser()
        _check_as_written(formula, body)
        tokens = list(parser.get_tokens(body))
        _check_tokens(formula, tokens)
        code = Token.Kind.PYTHON
        factors = {
            str(token.token): read_factor(str(token.token), formula, token.kind is code)
            for token in tokens
            if token.kind in (code, Token.Kind.NAME)
        }
        _check_expansion(formula, parser.get_ast(body))
        terms = Formula(body)
    except FormulaError:
        raise
    except (RecursionError, MemoryError):
        raise FormulaError(f"the formula {formula!r} is nested too deeply") from None
    except Exception as error:
        raise FormulaError(
            f"cannot read the formula {formula!r}: {plain(error)}; write it as '~ a + b' of "
            "columns and transforms"
        ) from None
    if not isinstance(terms, SimpleFormula):
        raise FormulaError(f"the formula {formula!r} must be one sum of terms, such as '~ a + b'")
    return terms, factors


def _check_as_written(formula: str, body: str) -> None:
    """What can be seen only before the formula library rewrites it.

    It would read ``x 0``, where an operator was forgotten, as ``x - 1``.
    """
    before: Token | None = None
    for token in tokenize(body):
        free = before is None or before.kind is Token.Kind.OPERATOR or before.token == "("
        if token.token == "0" and not free:
            raise FormulaError(
                f"the formula {formula!r} has 0 without an operator before it; write '~ 0 + x' for "
                "a formula without a constant"
            )
        words = re.findall("`([^`]*)`", token.token) if token.kind is Token.Kind.PYTHON else ()
        for word in filter(keyword.iskeyword, words):
            raise FormulaError(
                f"the formula {formula!r} computes with the column {word!r}, which is a word of "
                "Python; rename the column"
            )
        before = token


def _check_tokens(formula: str, tokens: Iterable[Token]) -> None:
    before = ""
    for token in tokens:
        text = str(token.token)
        if token.kind is Token.Kind.OPERATOR and not _OPERATORS.issuperset(text):
            raise FormulaError(
                f"the formula {formula!r} uses {text!r}; between terms only + - * / : ** ^ and "
                "round brackets are allowed, and columns are named one by one"
            )
        if token.kind is Token.Kind.CONTEXT and text not in "()":
            raise FormulaError(f"the formula {formula!r} uses {text!r}; only ( ) are allowed")
        if token.kind is Token.Kind.VALUE:
            _check_value(formula, text, before)
        elif before in {"**", "^"}:
            raise FormulaError(
                f"the formula {formula!r} has a power that is not a whole number; write a number "
                f"from 1 to {_MAX_POWER}, and arithmetic inside I()"
            )
        before = text


def _check_value(formula: str, text: str, before: str) -> None:
    """Bare numbers other than 0 and 1 mean nothing in a formula, and vanish without a word."""
    if before in {"**", "^"}:
        if not (text.isdecimal() and 1 <= int(text) <= _MAX_POWER):
            raise FormulaError(
                f"the formula {formula!r} has the power {text}; only whole numbers from 1 to "
                f"{_MAX_POWER} are allowed"
            )
    elif text not in {"0", "1"}:
        raise FormulaError(
            f"the formula {formula!r} has the bare number or text {text}, which a formula cannot "
            "use; write arithmetic inside I(), such as I(weeks - 40)"
        )


def _check_expansion(formula: str, tree: Any) -> None:
    """``(a + b + c)**9`` is short to write and long to expand: count before expanding."""
    counts: dict[int, int] = {}
    todo = [(tree, False)]
    while todo:
        node, seen = todo.pop()
        if not isinstance(node, ASTNode):
            counts[id(node)] = 1
            continue
        if not seen:
            todo += [(node, True), *((part, False) for part in node.args)]
            continue
        sizes = [counts[id(part)] for part in node.args]
        counts[id(node)] = _expanded(node, sizes)
        if counts[id(node)] > _MAX_TERMS:
            raise FormulaError(
                f"the formula {formula!r} expands to more than {_MAX_TERMS} terms; name "
                "the terms that you need"
            )


def _expanded(node: Any, sizes: list[int]) -> int:
    """How many terms an operator makes at most from operands of these sizes."""
    if len(sizes) < 2:
        return sum(sizes)
    left, right = sizes
    symbol = node.operator.symbol
    if symbol in {"**", "^"}:
        power = str(getattr(node.args[1], "token", ""))
        return int(left ** int(power)) if power.isdecimal() else _MAX_TERMS + 1
    if symbol == ":":
        return left * right
    return left + right + (left * right if symbol == "*" else 0)


def _check_shadows(formula: str, factors: Iterable[FactorUse]) -> None:
    """A name must not stand for two things, or data would be called, or a transform computed."""
    columns = {name for use in factors for name in use.columns}
    called = {name for use in factors for name in use.transforms}
    for name in sorted(columns & called):
        raise FormulaError(
            f"the formula {formula!r} uses {name!r} both as a column and as a transform; rename "
            "the column"
        )
    for alias, name in ((alias, name) for use in factors for alias, name in use.quoted.items()):
        if alias in columns or alias in TRANSFORMS:
            raise FormulaError(
                f"in the formula {formula!r} the column {name!r} cannot be told from {alias!r}; "
                "rename one of them"
            )
