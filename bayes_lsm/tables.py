"""How tables of coefficients look: as text, as HTML and as LaTeX.

A table here is a data frame whose index begins with the part (``location``, ``scale``) and ends
with the term, or just names the rows, and whose columns are statistics, or fits and their
statistics. `Printable` is what every fit, comparison and result inherits, so that all are printed
and published in the same way.
"""

from __future__ import annotations

import html
import textwrap
import zlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd

# Below this a number is as good as 0; above that its fixed digits cannot be read.
_NOISE, _LARGEST = 1e-12, 1e8

_HEADINGS = {
    "location": "Location",
    "scale": "Scale (ln τ²)",
    "study_effects": "Study effects (Student t)",
    "scale_sd": "SDs of random intercepts of ln τ²",
    "scale_effect": "Random intercepts of ln τ²",
}

_LATEX = {
    "\\": r"\textbackslash{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "τ²": r"$\tau^2$",
    "ln τ²": r"$\ln \tau^2$",
    "α": r"$\alpha$",
    "β": r"$\beta$",
    "τ": r"$\tau$",
    "²": r"$^2$",
    "×": r"$\times$",
    "−": r"$-$",
    "…": r"\ldots{}",
}


class Printable(ABC):
    """A result with a title, one table of coefficients, and notes that its reader must see."""

    _digits: ClassVar[int] = 4
    _hidden: ClassVar[Sequence[str]] = ()

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        # A dataclass would show every array that it holds, in a terminal and below a notebook.
        if "__repr__" not in vars(cls):
            cls.__repr__ = Printable.__str__  # type: ignore[assignment]

    @property
    @abstractmethod
    def title(self) -> str:
        """What the table is of."""

    @property
    @abstractmethod
    def notes(self) -> tuple[str, ...]:
        """What a reader of the table has to know."""

    @abstractmethod
    def to_dataframe(self) -> pd.DataFrame:
        """The table, unrounded."""

    def to_string(self, *, digits: int | None = None) -> str:
        """The table as text, with a missing number as ``.``, and the notes below it."""
        table = text_table(self._table(), digits=self._digits if digits is None else digits)
        return "\n".join([self.title, "", table, "", *wrap_notes(self.notes)]).rstrip()

    def to_html(self, *, digits: int | None = None) -> str:
        """The table as a fragment of HTML, with the notes below it."""
        return html_table(self, digits=self._digits if digits is None else digits)

    def to_latex(self, *, digits: int | None = None) -> str:
        """The table as LaTeX (for the package booktabs), with the notes below it."""
        return latex_table(self, digits=self._digits if digits is None else digits)

    def _table(self) -> pd.DataFrame:
        """What is printed of the table: all but the columns in `_hidden`."""
        return self.to_dataframe().drop(columns=list(self._hidden))

    def __str__(self) -> str:
        return self.to_string()

    def _repr_html_(self) -> str:
        return self.to_html()


def printed(result: Printable, digits: int | None = None) -> tuple[pd.DataFrame, int]:
    """What is printed of a result: its columns, unrounded, and how many decimals they get."""
    return result._table(), result._digits if digits is None else digits


def heading(part: str) -> str:
    """What stands above the coefficients of a part.

    Examples
    --------
    >>> heading("scale"), heading("scale (district)")
    ('Scale (ln τ²)', 'Scale (ln τ²): district')
    """
    kind, _, of = part.partition(" (")
    name = _HEADINGS.get(kind, kind.capitalize() if kind.isascii() else kind)
    return f"{name}: {of.removesuffix(')')}" if of else name


def format_cells(table: pd.DataFrame, *, digits: int) -> pd.DataFrame:
    """Each number as text: fixed digits, small p-values as ``<.01``, ``.`` for a missing one.

    A number that those digits would show as 0, and a very large one, get a power of ten: a τ of
    2e-09 is not 0.
    """
    columns = [
        [_format(str(last_label(label)), value, digits) for value in table.iloc[:, j]]
        for j, label in enumerate(table.columns)
    ]
    cells = pd.DataFrame(dict(enumerate(columns)), index=table.index, dtype=object)
    cells.columns = table.columns
    return cells


def _format(column: str, value: object, digits: int) -> str:
    if not isinstance(value, int | float | np.number):
        return str(value)
    if np.isnan(value):
        return "."
    smallest = 10.0**-digits
    if column == "pval" and value < smallest:
        return f"<{smallest:.{digits}f}".replace("0.", ".", 1)
    if isinstance(value, int | np.integer) or column.startswith("ess"):
        return f"{value:.0f}"
    size = abs(float(value))
    if _NOISE < size < smallest / 2 or _LARGEST < size < np.inf:
        return f"{value:.0e}" if size < 1 else f"{value:.2e}"
    return f"{0.0 if size <= _NOISE else value:.{digits}f}"


def format_pval(pval: float) -> str:
    """``p = .0410``, or ``p < .0001``."""
    return "p < .0001" if pval < 1e-4 else f"p = {pval:.4f}"


def last_label(label: object) -> object:
    """The statistic that a column holds, without the fit that it is of."""
    return label[-1] if isinstance(label, tuple) else label


def format_table(table: pd.DataFrame, *, digits: int = 4) -> str:
    """One table without parts, as text."""
    cells = format_cells(table, digits=digits)
    return str(cells.rename_axis(None).to_string(line_width=10_000))


def text_table(table: pd.DataFrame, *, digits: int) -> str:
    """For a terminal: the parts below each other, a fit's name above its statistics."""
    cells = format_cells(table, digits=digits)
    keys = [row_key(key) for key in cells.index]
    stubs = [max(len(key[i]) for key in keys) for i in range(1, len(keys[0]))]
    indent = "  " if any(key[0] for key in keys) else ""
    left = [indent + "  ".join(map(str.ljust, key[1:], stubs)) for key in keys]
    stub = len(left[0])
    groups = column_groups(table.columns)
    widths = [
        max(len(str(last_label(label))), *(len(cell) for cell in cells.iloc[:, j])) + 2
        for j, label in enumerate(table.columns)
    ]
    for name, members in groups:
        widths[members[0]] += max(0, len(name) + 2 - sum(widths[j] for j in members))
    above = "".join(
        "  " + name.center(sum(widths[j] for j in members) - 2) for name, members in groups
    )
    below = "".join(str(last_label(c)).rjust(w) for c, w in zip(table.columns, widths, strict=True))
    lines = [" " * stub + above] if any(name for name, _ in groups) else []
    lines += [" " * stub + below]
    part = ""
    for i, key in enumerate(keys):
        if key[0] != part:
            part = key[0]
            lines.append(heading(part))
        row = "".join(map(str.rjust, cells.iloc[i], widths))
        lines.append(left[i] + row)
    return "\n".join(line.rstrip() for line in lines)


def wrap_notes(notes: Sequence[str], *, width: int = 88) -> list[str]:
    """Each note as a paragraph."""
    return [
        textwrap.fill(f"Note: {note}", width, subsequent_indent="  ", break_long_words=False)
        for note in notes
    ]


def html_table(result: Printable, *, digits: int) -> str:
    """A fragment of HTML, with its own style."""
    import great_tables as gt

    table = result._table()
    cells = format_cells(table, digits=digits)
    keys = [row_key(key) for key in cells.index]
    frame = pd.DataFrame(
        {
            "part": [heading(key[0]) for key in keys],
            **{f"key{i}": [html.escape(key[i]) for key in keys] for i in range(1, len(keys[0]))},
            **{f"c{j}": cells.iloc[:, j].map(html.escape).to_list() for j in range(cells.shape[1])},
        }
    )
    parts = "part" if any(key[0] for key in keys) else None
    if parts is None:
        frame = frame.drop(columns="part")
    keyed = [f"key{i}" for i in range(1, len(keys[0]))]
    labels = {f"c{j}": html.escape(str(last_label(c))) for j, c in enumerate(table.columns)}
    shown = (
        gt.GT(frame, groupname_col=parts, id=f"t{zlib.crc32(frame.to_csv().encode()):08x}")
        .tab_header(title=gt.html(html.escape(result.title)))
        .cols_label(**dict.fromkeys(keyed, ""), **labels)
        .cols_align("left", columns=keyed)
        .cols_align("right", columns=list(labels))
    )
    for name, members in column_groups(table.columns):
        if name:
            shown = shown.tab_spanner(
                label=html.escape(name), columns=[f"c{j}" for j in members], id=f"fit{members[0]}"
            )
    for note in result.notes:
        shown = shown.tab_source_note(gt.html(f"Note: {html.escape(note)}"))
    return str(shown.as_raw_html())


def latex_table(result: Printable, *, digits: int) -> str:
    """A LaTeX table; its document needs ``\\usepackage{booktabs}``."""
    table = result._table()
    cells = format_cells(table, digits=digits)
    keys = [row_key(key) for key in cells.index]
    stubs, width = len(keys[0]) - 1, len(keys[0]) - 1 + cells.shape[1]
    lines = [
        r"\begin{table}",
        rf"\caption{{{_tex(result.title)}}}",
        rf"\begin{{tabular}}{{{'l' * stubs}{'r' * cells.shape[1]}}}",
        r"\toprule",
    ]
    groups = column_groups(table.columns)
    if any(name for name, _ in groups):
        names = [rf"\multicolumn{{{len(m)}}}{{c}}{{{_tex(name)}}}" for name, m in groups]
        rules = [rf"\cmidrule(lr){{{stubs + m[0] + 1}-{stubs + m[-1] + 1}}}" for _, m in groups]
        lines += [" & " * stubs + " & ".join(names) + r" \\", " ".join(rules)]
    heads = [_tex(str(last_label(label))) for label in table.columns]
    lines += [" & " * stubs + " & ".join(heads) + r" \\"]
    part = ""
    if not keys[0][0]:
        lines.append(r"\midrule")
    for key, row in zip(keys, cells.to_numpy(), strict=True):
        if key[0] != part:
            part = key[0]
            above = _tex(heading(part))
            lines += [r"\midrule", rf"\multicolumn{{{width}}}{{l}}{{\textit{{{above}}}}} \\"]
        stub = [_tex_symbol(text) for text in key[1:]]
        lines.append(" & ".join([*stub, *map(_tex_number, row)]) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\footnotesize Note: {_tex(note)}" for note in result.notes]
    return "\n".join([*lines, r"\end{table}", ""])


def _tex(text: str) -> str:
    for plain in ("ln τ²", "τ²"):
        pieces = text.split(plain)
        if len(pieces) > 1:
            return _LATEX[plain].join(map(_tex, pieces))
    return "".join(_LATEX.get(character, character) for character in text)


def _tex_symbol(text: str) -> str:
    for greek in ("alpha", "beta"):
        number = text.removeprefix(greek)
        if number != text and number.isdigit():
            return rf"$\{greek}_{{{number}}}$"
    return _tex(text)


def _tex_number(text: str) -> str:
    if text.endswith("inf"):
        return r"$-\infty$" if text.startswith("-") else r"$\infty$"
    number, power, exponent = text.partition("e")
    if power:
        return rf"${number} \times 10^{{{int(exponent)}}}$"
    return text.replace("-", "$-$", 1) if text.startswith("-") else _tex(text)


def row_key(key: object) -> tuple[str, ...]:
    """Part and names of a row; the part is empty where the index has one level only."""
    return tuple(map(str, key)) if isinstance(key, tuple) else ("", str(key))


def column_groups(columns: pd.Index) -> list[tuple[str, list[int]]]:
    """Neighbouring columns of one fit: its name and their positions."""
    found: list[tuple[str, list[int]]] = []
    for j, label in enumerate(columns):
        name = str(label[0]) if isinstance(label, tuple) else ""
        if found and found[-1][0] == name:
            found[-1][1].append(j)
        else:
            found.append((name, [j]))
    return found
