"""Formulas, read but not evaluated.

A formula is Python that will be evaluated, and a model file may come from anyone. So each formula
is taken apart here first, and only columns, numbers, arithmetic and the formula language's own
transforms pass; nothing has been evaluated when something else is refused. To allow one more
transform, add it to `TRANSFORMS`.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

from formulaic import Formula, SimpleFormula
from formulaic.errors import FormulaicError
from formulaic.parser import DefaultFormulaParser
from formulaic.parser.types import Factor, Token
from formulaic.utils.code import sanitize_variable_names

from bayes_lsm.errors import FormulaError

TRANSFORMS = frozenset(
    "C I Q bs cc cr cs center scale standardize poly log log10 log2 exp exp10 exp2 "
    "Treatment Sum Helmert Diff Poly".split()
)
CONTRASTS = frozenset("treatment sum helmert poly diff SAS".split())

_MAX_LENGTH = 10_000
_MAX_EXPONENT = 10
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.BitAnd, ast.BitOr)
_ANSI = re.compile(r"\x1b\[[0-9;]*m|[⧛⧚]|\[\d+(?:;\d+)*m")


@dataclass(frozen=True)
class ParsedFormula:
    """The right-hand side of a formula, checked.

    Attributes
    ----------
    text : str
        As the user wrote it, without the left-hand side.
    terms : formulaic.SimpleFormula
    columns : tuple of str
        The data columns that it needs, in the order of their appearance.
    """

    text: str
    terms: SimpleFormula
    columns: tuple[str, ...]


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
    left, right = split(formula)
    body = right[1:].strip()
    if left is not None or "~" in body:
        raise FormulaError(f"the formula {formula!r} must have the form '~ a + b'")
    if not body:
        raise FormulaError(f"the formula {formula!r} is empty; write '~ 1' for a constant only")
    if len(formula) > _MAX_LENGTH:
        raise FormulaError(f"the formula has {len(formula)} characters; at most {_MAX_LENGTH}")
    try:
        _check_numbers(formula, body)
        terms = Formula(body)
    except FormulaError:
        raise
    except FormulaicError as error:
        reason = " ".join(_ANSI.sub("", str(error)).split())
        raise FormulaError(f"cannot read the formula {formula!r}: {reason}") from None
    except (SyntaxError, RecursionError, ValueError, TypeError) as error:
        raise FormulaError(f"cannot read the formula {formula!r}: {error}") from None
    if not isinstance(terms, SimpleFormula):
        raise FormulaError(f"the formula {formula!r} must be one sum of terms, without '|'")
    columns: dict[str, None] = {}
    for term in terms:
        for factor in term.factors:
            columns.update(dict.fromkeys(_factor_columns(factor, formula)))
    if not terms:
        raise FormulaError(f"the formula {formula!r} has no terms; write '~ 1' for a constant only")
    return ParsedFormula(right, terms, tuple(columns))


def _check_numbers(formula: str, body: str) -> None:
    """Bare numbers other than 0 and 1 mean nothing in a formula, and vanish without a word."""
    before = ""
    for token in DefaultFormulaParser().get_tokens(body):
        text = str(token.token)
        if token.kind is Token.Kind.VALUE and text[0].isdigit():
            power = before in {"**", "^"}
            if power and float(text) > _MAX_EXPONENT:
                raise FormulaError(f"the formula {formula!r} has a power above {_MAX_EXPONENT}")
            if not power and text not in {"0", "1"}:
                raise FormulaError(
                    f"the formula {formula!r} has the bare number {text}, which a formula cannot "
                    "use; write arithmetic inside I(), such as I(weeks - 40)"
                )
        before = text


def _factor_columns(factor: Factor, formula: str) -> list[str]:
    kind = factor.eval_method.value
    if kind == "literal":
        return []
    if kind == "lookup":
        return [factor.expr]
    aliases: dict[str, str] = {}
    code = sanitize_variable_names(factor.expr, {}, aliases, template="_quoted_{}")
    try:
        tree = ast.parse(code, mode="eval").body
    except (SyntaxError, ValueError, RecursionError) as error:
        raise FormulaError(f"cannot read {factor.expr!r} in {formula!r}: {error}") from None
    reader = _Reader(factor.expr, formula)
    reader.visit(tree)
    return [aliases.get(name, name) for name in reader.columns]


class _Reader(ast.NodeVisitor):
    """Walks one factor; collects its columns and refuses whatever is not on the list."""

    def __init__(self, factor: str, formula: str) -> None:
        self.factor, self.formula = factor, formula
        self.columns: list[str] = []

    def refuse(self, what: str, cure: str = "") -> FormulaError:
        allowed = cure or (
            "only columns, numbers, arithmetic and these transforms are allowed: "
            + ", ".join(sorted(TRANSFORMS))
        )
        return FormulaError(f"the formula {self.formula!r} uses {what}; {allowed}")

    def generic_visit(self, node: ast.AST) -> None:
        raise self.refuse(f"{ast.unparse(node)!r} ({type(node).__name__.lower()})")

    def visit_Name(self, node: ast.Name) -> None:
        if node.id.startswith("__"):
            raise self.refuse(f"the name {node.id!r}")
        self.columns.append(node.id)

    def visit_Constant(self, node: ast.Constant) -> None:
        if not isinstance(node.value, int | float | str | None):
            raise self.refuse(f"the constant {node.value!r}")

    def visit_BinOp(self, node: ast.BinOp) -> None:
        if isinstance(node.op, ast.Pow):
            self._check_power(node)
        elif not isinstance(node.op, _ARITHMETIC):
            self.generic_visit(node)
        for side in (node.left, node.right):
            if isinstance(side, ast.Constant) and isinstance(side.value, str):
                raise self.refuse(f"text in arithmetic, {ast.unparse(node)!r}")
            self.visit(side)

    def _check_power(self, node: ast.BinOp) -> None:
        exponent = node.right
        if isinstance(exponent, ast.UnaryOp) and isinstance(exponent.op, ast.USub):
            exponent = exponent.operand
        small = (
            isinstance(exponent, ast.Constant)
            and isinstance(exponent.value, int | float)
            and abs(exponent.value) <= _MAX_EXPONENT
        )
        has_column = any(isinstance(part, ast.Name) for part in ast.walk(node.left))
        if not (small and has_column):
            raise self.refuse(
                f"the power {ast.unparse(node)!r}",
                f"only a column to a number of at most {_MAX_EXPONENT} is allowed",
            )

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        self.visit(node.operand)

    def visit_Compare(self, node: ast.Compare) -> None:
        allowed = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)
        if len(node.ops) != 1 or not isinstance(node.ops[0], allowed):
            self.generic_visit(node)
        self.visit(node.left)
        self.visit(node.comparators[0])

    def visit_List(self, node: ast.List) -> None:
        for element in node.elts:
            if not isinstance(element, ast.Constant | ast.UnaryOp):
                raise self.refuse(f"{ast.unparse(element)!r} in a list")
            self.visit(element)

    visit_Tuple = visit_List  # type: ignore[assignment]

    def visit_Call(self, node: ast.Call) -> None:
        name = self._callee(node.func)
        if name == "Q":
            self._quoted_column(node)
            return
        for argument in node.args:
            self.visit(argument)
        for keyword in node.keywords:
            if keyword.arg is None or keyword.arg.startswith("_"):
                raise self.refuse(f"the arguments of {ast.unparse(node)!r}")
            self.visit(keyword.value)
        if name in {"bs", "cc", "cr", "cs", "poly"}:
            self._check_size(node)

    def _callee(self, function: ast.expr) -> str:
        match function:
            case ast.Name(id=name) if name in TRANSFORMS:
                return name
            case ast.Attribute(value=ast.Name(id="contr"), attr=name) if name in CONTRASTS:
                return name
            case _:
                raise self.refuse(f"the call of {ast.unparse(function)!r}")

    def _quoted_column(self, node: ast.Call) -> None:
        match node:
            case ast.Call(args=[ast.Constant(value=str(column))], keywords=[]):
                self.columns.append(column)
            case _:
                raise self.refuse(f"{ast.unparse(node)!r}", "Q takes one column name in quotes")

    def _check_size(self, node: ast.Call) -> None:
        settings = [*node.args[1:], *(keyword.value for keyword in node.keywords)]
        for setting in settings:
            value = setting.value if isinstance(setting, ast.Constant) else None
            if isinstance(value, int) and value > 100:
                raise self.refuse(f"{ast.unparse(node)!r}", "at most 100 basis functions")
