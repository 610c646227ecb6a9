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
from dataclasses import dataclass
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from bayes_lsm.choices import require_count

# Rows of a table that are shown: nobody reads more, and a notebook would stand still.
LONGEST = 1000
# Below this a number is as good as 0; above that its fixed digits cannot be read.
_NOISE, _LARGEST = 1e-12, 1e8

_HEADINGS = {
    "location": "Location",
    "scale": "Scale (ln τ²)",
    "study_effects": "Study effects (Student t)",
    "scale_sd": "SDs of random intercepts of ln τ²",
    "scale_effect": "Random intercepts of ln τ²",
}

# Names of levels of an index that its rows explain themselves.
_UNNAMED = (None, "part", "term", "symbol")

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
        return html_table(self.cells(digits=digits))

    def to_latex(self, *, digits: int | None = None) -> str:
        """The table as LaTeX (for the package booktabs), with the notes below it."""
        return latex_table(self.cells(digits=digits))

    def cells(self, *, digits: int | None = None) -> Cells:
        """What is printed, cell by cell."""
        digits = self._digits if digits is None else digits
        return as_cells(self._table(), digits=digits, title=self.title, notes=self.notes)

    def _table(self) -> pd.DataFrame:
        """What is printed of the table: all but the columns in `_hidden`."""
        return self.to_dataframe().drop(columns=list(self._hidden))

    def __str__(self) -> str:
        return self.to_string()

    def _repr_html_(self) -> str:
        return self.to_html()


class Tabled(Printable):
    """A result that holds its table."""

    table: pd.DataFrame

    def to_dataframe(self) -> pd.DataFrame:
        """The table, unrounded."""
        return self.table.copy()


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


@dataclass(frozen=True)
class Row:
    """A row: the part that it belongs to (where there are parts), its names and its cells."""

    part: str
    names: tuple[str, ...]
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Cells:
    """A table as text, in whatever language it is written then.

    `groups` are headings above several columns, with the positions of these, empty where there are
    none; `stubs` head the columns with the rows' names; `words` says which columns hold words.
    """

    title: str
    groups: tuple[tuple[str, list[int]], ...]
    stubs: tuple[str, ...]
    columns: tuple[str, ...]
    words: tuple[bool, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def parts(self) -> list[tuple[str, list[Row]]]:
        """The rows under the headings of their parts."""
        return [(part, list(rows)) for part, rows in groupby(self.rows, lambda row: row.part)]


def as_cells(
    table: pd.DataFrame, *, digits: int, title: str = "", notes: Sequence[str] = ()
) -> Cells:
    """Format a table."""
    keys = [map(str, key) if isinstance(key, tuple) else ("", str(key)) for key in table.index]
    texts = format_cells(table, digits=digits).itertuples(index=False, name=None)
    rows = [
        Row(heading(part) if part else "", tuple(names), cells)
        for (part, *names), cells in zip(keys, texts, strict=True)
    ]
    columns = table.columns
    above = [str(label[0]) for label in columns] if columns.nlevels > 1 else [""] * len(columns)
    groups = [
        (name, list(members)) for name, members in groupby(range(len(columns)), above.__getitem__)
    ]
    stubs = table.index.names[1:] if table.index.nlevels > 1 else table.index.names
    return Cells(
        title=title,
        groups=tuple(groups) if any(name for name, _ in groups) else (),
        stubs=tuple("" if name in _UNNAMED else str(name) for name in stubs),
        columns=tuple(map(str, columns.get_level_values(-1))),
        words=tuple(not pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes),
        rows=tuple(rows),
        notes=tuple(notes),
    )


def format_cells(table: pd.DataFrame, *, digits: int) -> pd.DataFrame:
    """Each number as text: fixed digits, small p-values as ``<.01``, ``.`` for a missing one.

    A number that those digits would show as 0, and a very large one, get a power of ten: a τ of
    2e-09 is not 0.
    """
    require_count("digits", digits, 0)
    names = map(str, table.columns.get_level_values(-1))
    columns = [
        [_format(name, value, digits) for value in table.iloc[:, j]] for j, name in enumerate(names)
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


def format_table(table: pd.DataFrame, *, digits: int = 4) -> str:
    """One table without parts, as text."""
    cells = format_cells(table, digits=digits)
    return str(cells.rename_axis(None).to_string(line_width=10_000))


def text_table(table: pd.DataFrame, *, digits: int) -> str:
    """For a terminal: the parts below each other, a fit's name above its statistics."""
    cells = as_cells(table, digits=digits)
    stubs = [max(map(len, names)) for names in zip(*(row.names for row in cells.rows), strict=True)]
    columns = zip(cells.columns, *(row.cells for row in cells.rows), strict=True)
    widths = [max(map(len, column)) + 2 for column in columns]
    for name, members in cells.groups:
        widths[members[0]] += max(0, len(name) + 2 - sum(widths[j] for j in members))
    indent = "  " if any(part for part, _ in cells.parts) else ""
    margin = " " * (len(indent) + sum(stubs) + 2 * (len(stubs) - 1))
    above = (
        "  " + name.center(sum(widths[j] for j in members) - 2) for name, members in cells.groups
    )
    lines = [margin + "".join(above)] if cells.groups else []
    lines.append(margin + "".join(map(str.rjust, cells.columns, widths)))
    for part, rows in cells.parts:
        lines += [part] if part else []
        for row in rows:
            names = "  ".join(map(str.ljust, row.names, stubs))
            lines.append(indent + names + "".join(map(str.rjust, row.cells, widths)))
    return "\n".join(line.rstrip() for line in lines)


def wrap_notes(notes: Sequence[str], *, width: int = 88) -> list[str]:
    """Each note as a paragraph."""
    return [
        textwrap.fill(f"Note: {note}", width, subsequent_indent="  ", break_long_words=False)
        for note in notes
    ]


def html_table(cells: Cells) -> str:
    """A fragment of HTML, with its own style."""
    import great_tables as gt

    keyed = [f"key{i}" for i in range(1, len(cells.stubs) + 1)]
    texts = [(row.part, *map(html.escape, (*row.names, *row.cells))) for row in cells.rows]
    names = ["part", *keyed, *(f"c{j}" for j in range(len(cells.columns)))]
    frame = pd.DataFrame(texts, columns=names)
    parts = "part" if frame["part"].any() else None
    if parts is None:
        frame = frame.drop(columns="part")
    labels = {f"c{j}": html.escape(name) for j, name in enumerate(cells.columns)}
    shown = (
        gt.GT(frame, groupname_col=parts, id=f"t{zlib.crc32(frame.to_csv().encode()):08x}")
        .tab_header(title=gt.html(html.escape(cells.title)))
        .cols_label(**dict.fromkeys(keyed, ""), **labels)
        .cols_align("left", columns=keyed)
        .cols_align("right", columns=list(labels))
    )
    for name, members in cells.groups:
        if name:
            columns = [f"c{j}" for j in members]
            shown = shown.tab_spanner(html.escape(name), columns=columns, id=f"fit{members[0]}")
    for note in cells.notes:
        shown = shown.tab_source_note(gt.html(f"Note: {html.escape(note)}"))
    return str(shown.as_raw_html())


def latex_table(cells: Cells) -> str:
    """A LaTeX table; its document needs ``\\usepackage{booktabs}``."""
    stubs, columns = len(cells.stubs), len(cells.columns)
    lines = [
        r"\begin{table}",
        rf"\caption{{{_tex(cells.title)}}}",
        rf"\begin{{tabular}}{{{'l' * stubs}{'r' * columns}}}",
        r"\toprule",
    ]
    if cells.groups:
        names = [rf"\multicolumn{{{len(m)}}}{{c}}{{{_tex(name)}}}" for name, m in cells.groups]
        rules = [
            rf"\cmidrule(lr){{{stubs + m[0] + 1}-{stubs + m[-1] + 1}}}" for _, m in cells.groups
        ]
        lines += [" & " * stubs + " & ".join(names) + r" \\", " ".join(rules)]
    lines.append(" & " * stubs + " & ".join(map(_tex, cells.columns)) + r" \\")
    for part, rows in cells.parts:
        lines.append(r"\midrule")
        if part:
            above = rf"\textit{{{_tex(part)}}}"
            lines.append(rf"\multicolumn{{{stubs + columns}}}{{l}}{{{above}}} \\")
        for row in rows:
            texts = [*map(_tex_symbol, row.names), *map(_tex_number, row.cells)]
            lines.append(" & ".join(texts) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\footnotesize Note: {_tex(note)}" for note in cells.notes]
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
