"""The grammar of one factor of a formula: what may be written, and nothing else.

A factor such as ``scale(weeks)`` is Python that the formula library will evaluate. It is read here
as a syntax tree, and only what this file names passes. The list is of what is allowed, so whatever
was not thought of is refused.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from formulaic.utils.code import sanitize_variable_names

from bayes_lsm.errors import FormulaError

_SPLINE = ("df", "knots", "lower_bound", "upper_bound", "constraints", "extrapolation")

# Each transform and its options, in the order of their positions after the column. Not on the
# list: formulaic's `exp10`, which computes x**10, `lag`, which leaves gaps, and `hashed`.
TRANSFORMS: dict[str, tuple[str, ...]] = {
    "C": ("contrasts", "levels", "spans_intercept"),
    "I": (),
    "Q": (),
    "bs": ("df", "knots", "degree", "include_intercept", *_SPLINE[2:4], "extrapolation"),
    "cc": _SPLINE,
    "cr": _SPLINE,
    "cs": _SPLINE,
    "center": (),
    "scale": ("center", "scale", "ddof"),
    "standardize": ("center", "rescale", "ddof"),
    "poly": ("degree", "raw"),
    "log": (),
    "log10": (),
    "log2": (),
    "exp": (),
    "exp2": (),
}
CONTRASTS: dict[str, tuple[str, ...]] = {
    "Treatment": ("reference",),
    "Sum": (),
    "Helmert": ("reverse", "scale"),
    "Diff": ("backward",),
    "Poly": ("scores",),
    "contr.treatment": ("base",),
    "contr.sum": (),
    "contr.helmert": ("reverse", "scale"),
    "contr.diff": ("backward",),
    "contr.poly": ("scores",),
    "contr.SAS": ("base",),
}

_MAX_EXPONENT = 10
_MAX_BASIS = 100
_MAX_DEPTH = 50
_ARITHMETIC = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.BitAnd, ast.BitOr)
_COMPARISONS = (ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_STATEFUL = frozenset("bs cc cr cs center scale standardize poly".split())
_ALIAS = "_quoted_"


@dataclass(frozen=True)
class FactorUse:
    """What one factor does with which columns.

    Of its `columns` it does arithmetic with those `computed`; `categories` is the column whose
    values are its levels, where it is a plain column or ``C(column)``; `width` how many columns a
    basis (a spline, a polynomial) makes at least, otherwise 1; `transforms` what it calls; `label`
    how the tables name it, before the level; `quoted` Python name → column, for columns in
    backticks that are not Python names.
    """

    columns: tuple[str, ...]
    computed: frozenset[str] = frozenset()
    categories: str | None = None
    width: int = 1
    transforms: frozenset[str] = frozenset()
    label: str = ""
    quoted: dict[str, str] = field(default_factory=dict)


def read_factor(factor: str, formula: str, is_code: bool) -> FactorUse:
    """Check one factor, a plain column name or Python code, without evaluating anything.

    A FormulaError refuses anything but columns, numbers, arithmetic and the transforms.

    Examples
    --------
    >>> read_factor("scale(weeks)", "~ scale(weeks)", True).columns
    ('weeks',)
    """
    if not is_code:
        return FactorUse((factor,), categories=factor, label=factor)
    code, quoted = _without_backticks(factor, formula)
    try:
        tree = ast.parse(code, mode="eval").body
    except SyntaxError as error:
        raise FormulaError(f"cannot read {factor!r} in {formula!r}: {error.msg}") from None
    reader = _Reader(formula, {f"{_ALIAS}{alias}": name for alias, name in quoted.items()})
    reader.read(tree, _MAX_DEPTH)
    columns = tuple(dict.fromkeys(reader.columns))
    if not columns:
        raise FormulaError(
            f"the term {factor!r} in {formula!r} uses no column; leave it out, or write '1' for "
            "the constant"
        )
    return FactorUse(
        columns,
        frozenset(reader.computed),
        _categories(tree, columns),
        _width(tree),
        frozenset(reader.transforms),
        _label(factor, tree, columns),
        quoted,
    )


def _without_backticks(factor: str, formula: str) -> tuple[str, dict[str, str]]:
    """The factor with a Python name for each quoted column, and name → column.

    formulaic names a quoted column by replacing what Python cannot read with ``_``. Where that name
    is taken it adds random letters, under which the training state would not be found again.
    """
    names = re.findall(r"`([^`]*)`", factor)
    quoted: dict[str, str] = {}
    for name in names:
        if not name.strip() or "\\" in name or not name.isprintable():
            raise FormulaError(f"{factor!r} in {formula!r} quotes no column name; correct it")
        if name.isidentifier():
            continue
        alias = re.sub(r"\W", "_", name)
        alias = f"_{alias}" if alias[0].isdigit() else alias
        if quoted.setdefault(alias, name) != name:
            raise FormulaError(
                f"in the formula {formula!r} the columns {quoted[alias]!r} and {name!r} cannot be "
                "told apart; rename one of them"
            )
    aliases: dict[str, str] = {}
    return sanitize_variable_names(factor, {}, aliases, template=_ALIAS + "{}"), quoted


def _categories(tree: ast.expr, columns: Sequence[str]) -> str | None:
    match tree:
        case ast.Call(func=ast.Name(id="C"), args=[ast.Name(), *_]):
            return columns[0]
        case ast.Call(func=ast.Name(id="C"), args=[ast.Call(func=ast.Name(id="Q")), *_]):
            return columns[0]
        case ast.Call(func=ast.Name(id="Q")):
            return columns[0]
    return None


def _label(factor: str, tree: ast.expr, columns: Sequence[str]) -> str:
    """``C(year)`` → ``year``, ``C(I(x > 3))`` → ``I(x > 3)``; anything else as it is."""
    if _categories(tree, columns) is not None:
        return columns[0]
    match tree:
        case ast.Call(func=ast.Name(id="C"), args=[inner, *_]) if "`" not in factor:
            return ast.unparse(inner)
    return factor


def _width(tree: ast.expr) -> int:
    width = 1
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="bs" | "cc" | "cr" | "cs" | "poly" as name)):
                given = _options(node, TRANSFORMS[name])
                sizes = [given[key] for key in ("df", "degree") if key in given]
                values = [
                    size.value
                    for size in sizes
                    if isinstance(size, ast.Constant) and isinstance(size.value, int)
                ]
                width = max([width, *(value - 1 for value in values)])
    return width


def _options(call: ast.Call, names: Sequence[str]) -> dict[str, ast.expr]:
    given = dict(zip(names, call.args[1:], strict=False))
    return given | {option.arg: option.value for option in call.keywords if option.arg}


class _Reader:
    """Walks one factor; collects its columns and refuses whatever is not on the list."""

    def __init__(self, formula: str, quoted: dict[str, str]) -> None:
        self.formula, self.quoted = formula, quoted
        self.columns: list[str] = []
        self.computed: list[str] = []
        self.transforms: list[str] = []
        self.inside: list[str] = []

    def refuse(self, what: str, cure: str = "") -> FormulaError:
        allowed = cure or (
            "only columns, numbers, arithmetic and these transforms are allowed: "
            + ", ".join(sorted(TRANSFORMS))
        )
        shown = what if len(what) <= 200 else what[:200] + "…"
        return FormulaError(f"the formula {self.formula!r} uses {shown}; {allowed}")

    def read(self, node: ast.expr, depth: int) -> None:
        """An expression of columns."""
        if depth == 0:
            raise self.refuse("too many nested parts", f"at most {_MAX_DEPTH} are allowed")
        match node:
            case ast.Name(id=name):
                self.column(name, computed=True)
            case ast.Constant(value=bool() | int() | float()):
                self.number(node)
            case ast.BinOp(op=ast.Pow()):
                self.power(node, depth)
            case ast.BinOp(left=left, op=operation, right=right) if isinstance(
                operation, _ARITHMETIC
            ):
                self.read(left, depth - 1)
                self.read(right, depth - 1)
            case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
                self.read(operand, depth - 1)
            case ast.Compare(left=left, ops=[operation], comparators=[right]) if isinstance(
                operation, _COMPARISONS
            ):
                self.compared(left, depth - 1)
                self.compared(right, depth - 1)
            case ast.Call():
                self.call(node, depth - 1)
            case _:
                raise self.refuse(f"{ast.unparse(node)!r} ({type(node).__name__.lower()})")

    def column(self, name: str, *, computed: bool) -> None:
        if name.startswith(("__", "_formulaic_")):
            raise self.refuse(f"the name {name!r}", "rename the column")
        name = self.quoted.get(name, name)
        self.columns.append(name)
        if computed:
            self.computed.append(name)

    def number(self, node: ast.Constant) -> None:
        # A formula of 10,000 digits would make every row a Python integer.
        if isinstance(node.value, int) and abs(node.value) >= 2**53:
            raise self.refuse("a whole number of more than 15 digits", "write it as 1e20")

    def text(self, text: str) -> None:
        # The formula library pastes this text, between quotes, into code of its own.
        if not text.isprintable() or set(text) & set("\"'`\\"):
            raise self.refuse(f"the text {text!r}", "it may not have quotes or backslashes")

    def power(self, node: ast.BinOp, depth: int) -> None:
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
        self.read(node.left, depth - 1)

    def compared(self, node: ast.expr, depth: int) -> None:
        match node:
            case ast.Name(id=name):
                self.column(name, computed=False)
            case ast.Constant(value=str(text)):
                self.text(text)
            case _:
                self.read(node, depth)

    def call(self, node: ast.Call, depth: int) -> None:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name not in TRANSFORMS:
            raise self.refuse(f"the call of {ast.unparse(node.func)!r}")
        self.transforms.append(name)
        names = TRANSFORMS[name]
        self.check_arguments(node, names)
        match name, node.args[0]:
            case "Q", _ if _STATEFUL & set(self.inside):
                raise self.refuse(f"Q inside {self.inside[-1]}", "write the column in backticks")
            case "Q", ast.Constant(value=str(column)) if column.strip():
                self.text(column)
                self.columns.append(column)
            case "Q", _:
                raise self.refuse(f"{ast.unparse(node)!r}", "Q takes one column name in quotes")
            case "C", ast.Name(id=column):
                self.column(column, computed=False)
            case _, first:
                self.inside.append(name)
                self.read(first, depth)
                self.inside.pop()
        for key, option in _options(node, names).items():
            if key == "contrasts":
                self.contrast(option)
            else:
                self.option(option)
                self.check_size(node, key, option)

    def check_arguments(self, node: ast.Call, names: Sequence[str]) -> None:
        too_many = not 1 <= len(node.args) <= 1 + len(names)
        given = [*names[: len(node.args) - 1], *(option.arg for option in node.keywords)]
        repeated = len(set(given)) < len(given)
        if too_many or repeated or not set(given) <= set(names):
            allowed = ", ".join(names) or "none"
            raise self.refuse(
                f"the arguments of {ast.unparse(node)!r}",
                f"a column first and then these options are allowed: {allowed}",
            )

    def contrast(self, node: ast.expr) -> None:
        call = node.func if isinstance(node, ast.Call) else node
        name = ast.unparse(call) if isinstance(call, ast.Name | ast.Attribute) else ""
        if name not in CONTRASTS or (name == "Treatment" and call is node):
            raise self.refuse(
                f"the contrasts {ast.unparse(node)!r}",
                f"these are allowed: Treatment('level'), {', '.join(list(CONTRASTS)[1:])}",
            )
        self.transforms.append(name.partition(".")[0])
        if isinstance(node, ast.Call):
            options = [option.arg for option in node.keywords]
            if len(node.args) + len(options) > len(CONTRASTS[name]) or not set(options) <= set(
                CONTRASTS[name]
            ):
                raise self.refuse(f"the arguments of {ast.unparse(node)!r}")
            for value in [*node.args, *(option.value for option in node.keywords)]:
                self.option(value)

    def option(self, node: ast.expr, *, in_list: bool = False) -> None:
        """A constant, or a list of constants."""
        match node:
            case ast.Constant(value=str(text)):
                self.text(text)
            case ast.Constant(value=None | bool() | int() | float()):
                if node.value is not None:
                    self.number(node)
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float()) as operand):
                self.number(operand)
            case ast.List(elts=elements) | ast.Tuple(elts=elements) if not in_list:
                for element in elements:
                    self.option(element, in_list=True)
            case _:
                raise self.refuse(
                    f"the option {ast.unparse(node)!r}",
                    "a number, a text in quotes, True, False, or a list of these is allowed",
                )

    def check_size(self, node: ast.Call, key: str, option: ast.expr) -> None:
        if key not in {"df", "degree", "knots"}:
            return
        size: object = None
        match option:
            case ast.Constant(value=value):
                size = value
            case ast.List(elts=elements) | ast.Tuple(elts=elements) if key == "knots":
                size = len(elements)
            case _:
                size = _MAX_BASIS + 1
        whole = size is None or (isinstance(size, int) and not isinstance(size, bool))
        if not whole or (isinstance(size, int) and not 0 <= size <= _MAX_BASIS):
            raise self.refuse(
                f"{ast.unparse(node)!r}",
                f"{key} may be a whole number up to {_MAX_BASIS}; knots a list of that many",
            )
