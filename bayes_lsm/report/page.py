"""What a page holds: sections of blocks, all of them plain values.

A page has a title, a lead (the answer, before anything else), sections and a colophon (how it was
made). A section has a heading and blocks; a section among the blocks is a subsection. The blocks:

======== ====================================================================================
Text     a paragraph, of plain words and of `Strong`, `Mono` and `Link` pieces
Items    a list of such paragraphs
Verdicts short judgements, each with a label, a status and a sentence
Table    a data frame or any `Printable` (its notes go below it)
Picture  a matplotlib figure, with the text for those who do not see it
Equation lines of mathematics in plain characters
Code     lines to copy
======== ====================================================================================

Words are words: nothing in them is read as HTML or Markdown, so a study called ``<script>`` is a
study. Names of tables and pictures are names of files (``tau_by_study``), each used once in a page.

    from bayes_lsm.report import Page, Section, Table, Text, Strong, write_page

    page = Page("My report", lead=(Text("The answer is ", Strong("no"), "."),), sections=(
        Section("Coefficients", (Table("coefficients", fit),)),
    ))
    write_page(page, Path("report.html"))           # or .md
    write_tables(page, Path("tables"))              # each table as csv, unrounded
    page.as_section("Sensitivity")                  # inside another page

What makes a page of a result is a function of this room, in a module of the result's name:
``diagnosis_page(diagnosis)``, ``sensitivity_page(sensitivity)``, ``analysis_page(model)``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal

import pandas as pd

from bayes_lsm.choices import require_choice
from bayes_lsm.errors import FitError
from bayes_lsm.tables import Printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Status = Literal["good", "caution", "bad", "note"]

_WORDS: dict[Status, str] = {"good": "good", "caution": "look", "bad": "bad", "note": "note"}


@dataclass(frozen=True)
class Strong:
    """Words that matter most in a paragraph."""

    tag: ClassVar[str] = "strong"
    words: str


@dataclass(frozen=True)
class Mono:
    """A formula, a name of a column, a piece of code in a paragraph."""

    tag: ClassVar[str] = "code"
    words: str


@dataclass(frozen=True)
class Link:
    """Words that lead somewhere when they are clicked, and load nothing before.

    Attributes
    ----------
    words : str
    address : str
        ``https://…``, or ``#…`` for a place in the page.
    """

    tag: ClassVar[str] = "a"
    words: str
    address: str

    def __post_init__(self) -> None:
        if not self.address.startswith(("https://", "#")):
            raise FitError(f"a link's address must begin with https:// or #, got {self.address!r}")


Piece = str | Strong | Mono | Link


@dataclass(frozen=True, init=False)
class Text:
    """A paragraph.

    Examples
    --------
    >>> Text("The scale part is ", Mono("~ weeks"), ".").plain
    'The scale part is ~ weeks.'
    """

    pieces: tuple[Piece, ...]

    def __init__(self, *pieces: Piece) -> None:
        object.__setattr__(self, "pieces", pieces)

    @property
    def plain(self) -> str:
        """Its words alone."""
        return "".join(each if isinstance(each, str) else each.words for each in self.pieces)


@dataclass(frozen=True)
class Items:
    """A list of paragraphs."""

    texts: tuple[Text, ...]


@dataclass(frozen=True)
class Verdict:
    """A judgement.

    Attributes
    ----------
    label : str
        What is judged: a coefficient, a diagnostic.
    status : {"good", "caution", "bad", "note"}
        Its colour.
    sentence : str
    word : str
        What the colour says in a word, such as ``prior-dominated``; by default good, look, bad or
        note.
    """

    label: str
    status: Status
    sentence: str
    word: str = ""

    def __post_init__(self) -> None:
        require_choice("the status of a verdict", self.status, Status)
        object.__setattr__(self, "word", self.word or _WORDS[self.status])


@dataclass(frozen=True)
class Verdicts:
    """Judgements below each other."""

    verdicts: tuple[Verdict, ...]


@dataclass(frozen=True, eq=False)
class Table:
    """A table.

    Attributes
    ----------
    name : str
        Of its csv file: small letters, digits, ``_`` and ``-``.
    content : DataFrame or Printable
        A frame's index names its rows; with two levels or more the first is the part.
    caption : str
        By default the title of a Printable.
    digits : int, optional
        Decimals; by default those of a Printable, of a frame 3.
    notes : tuple of str
        Below the table, before those of a Printable.
    said : tuple of str
        Notes of a Printable that are left out, because the page says them elsewhere.
    """

    name: str
    content: pd.DataFrame | Printable
    caption: str = ""
    digits: int | None = None
    notes: tuple[str, ...] = ()
    said: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure.

    Attributes
    ----------
    name : str
        Of its file beside a Markdown page: small letters, digits, ``_`` and ``-``.
    figure : matplotlib Figure
        ``ax.figure`` of whatever `bayes_lsm.plots` returns.
    alt : str
        What is to be seen, for those who do not see it; required.
    caption : str
    """

    name: str
    figure: Figure
    alt: str
    caption: str = ""

    def __post_init__(self) -> None:
        if not self.alt.strip():
            raise FitError(f"the picture {self.name!r} needs a text that says what it shows (alt)")


@dataclass(frozen=True)
class Equation:
    """Mathematics in plain characters, line by line: ``yᵢ ~ Normal(μᵢ, vᵢ + τᵢ²)``."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Code:
    """Lines to copy."""

    text: str


@dataclass(frozen=True)
class Section:
    """A heading and what stands below it; a `Section` among the blocks is a subsection."""

    heading: str
    blocks: tuple[Block, ...]

    @property
    def anchor(self) -> str:
        """Its name inside a page."""
        return re.sub(r"\W+", "-", self.heading.lower()).strip("-")


Block = Text | Items | Verdicts | Table | Picture | Equation | Code | Section


@dataclass(frozen=True)
class Page:
    """A page.

    Attributes
    ----------
    title : str
    lead : tuple of blocks
        The answer: what someone reads who reads nothing else.
    sections : tuple of Section
    colophon : tuple of Text
        How the page was made: versions, seed.

    Raises
    ------
    FitError
        When two tables, two pictures or two sections have one name, or a name is no file's.
    """

    title: str
    lead: tuple[Block, ...]
    sections: tuple[Section, ...]
    colophon: tuple[Text, ...] = ()

    def __post_init__(self) -> None:
        for kind, names in (
            ("tables", [table.name for table in self.tables]),
            ("pictures", [picture.name for picture in self.pictures]),
            ("sections", [section.anchor for section in self.sections]),
        ):
            twice = [name for name, count in Counter(names).items() if count > 1]
            if twice:
                raise FitError(f"names of {kind} must differ in a page, got {twice[0]!r} twice")
            for name in names if kind != "sections" else []:
                if not re.fullmatch(r"[a-z0-9_-]+", name):
                    raise FitError(
                        f"names of {kind} are of small letters, digits, _ and -, got {name!r}"
                    )

    @property
    def blocks(self) -> Iterator[Block]:
        """All blocks, those of sections and subsections too, in their order."""
        yield from _walk((*self.lead, *self.sections))

    @property
    def tables(self) -> list[Table]:
        """All tables, in their order."""
        return [block for block in self.blocks if isinstance(block, Table)]

    @property
    def pictures(self) -> list[Picture]:
        """All pictures, in their order."""
        return [block for block in self.blocks if isinstance(block, Picture)]

    def as_section(self, heading: str | None = None, *, prefix: str = "") -> Section:
        """The page as a section of another one, its lead first, without its colophon.

        `prefix` is put before the names of its tables and pictures.
        """
        blocks = (*self.lead, *self.sections)
        return Section(heading or self.title, tuple(_renamed(each, prefix) for each in blocks))


def _renamed(block: Block, prefix: str) -> Block:
    if isinstance(block, Section):
        return replace(block, blocks=tuple(_renamed(each, prefix) for each in block.blocks))
    if isinstance(block, Table | Picture):
        return replace(block, name=f"{prefix}{block.name}")
    return block


def _walk(blocks: tuple[Block, ...]) -> Iterator[Block]:
    for block in blocks:
        yield block
        if isinstance(block, Section):
            yield from _walk(block.blocks)
