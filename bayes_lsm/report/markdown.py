"""A page as Markdown (of GitHub's kind), its figures as files beside it.

Figures are files because few readers of Markdown show images that are inside the text.
"""

from __future__ import annotations

import re
from functools import singledispatch

from bayes_lsm.report.cells import cells_of
from bayes_lsm.report.drawing import Image
from bayes_lsm.report.page import (
    Code,
    Equation,
    Items,
    Link,
    Mono,
    Page,
    Picture,
    Piece,
    Section,
    Strong,
    Table,
    Text,
    Verdicts,
)

_MARKS = re.compile(r"([\\`*_{}\[\]<>#|~$])")
# What begins a list, or underlines a heading, at the beginning of a line.
_AT_START = re.compile(r"^(\s*)(\d*)([-+=.)])", re.MULTILINE)


def to_markdown(page: Page, images: dict[str, str]) -> str:
    """The page as Markdown.

    Parameters
    ----------
    page : Page
    images : dict of str to str
        Where the file of each picture is, by the picture's name.

    Examples
    --------
    >>> from bayes_lsm.report import Page, Section, Text
    >>> page = Page("A page", lead=(Text("a < b"),), sections=(Section("More", (Text("c"),)),))
    >>> print(to_markdown(page, {}))
    # A page
    <BLANKLINE>
    a \\< b
    <BLANKLINE>
    ## More
    <BLANKLINE>
    c
    <BLANKLINE>
    """
    blocks = [_block(block, 2, images) for block in (*page.lead, *page.sections)]
    foot = ["---", *(_pieces(text.pieces) for text in page.colophon)] if page.colophon else []
    return "\n\n".join([f"# {_words(page.title)}", *blocks, *foot]) + "\n"


def image_file(picture: Picture, image: Image) -> str:
    """The name of a picture's file."""
    return f"{picture.name}.{image.ending}"


@singledispatch
def _block(block: object, level: int, images: dict[str, str]) -> str:
    raise TypeError(f"a page holds no {type(block).__name__}")


@_block.register
def _(block: Text, level: int, images: dict[str, str]) -> str:
    return _pieces(block.pieces)


@_block.register
def _(block: Items, level: int, images: dict[str, str]) -> str:
    return "\n".join(f"- {_pieces(text.pieces)}" for text in block.texts)


@_block.register
def _(block: Verdicts, level: int, images: dict[str, str]) -> str:
    return "\n".join(
        f"- **{_words(each.word)}** {_words(each.label)}: {_words(each.sentence)}"
        for each in block.verdicts
    )


@_block.register
def _(block: Table, level: int, images: dict[str, str]) -> str:
    cells = cells_of(block)
    above = [name for name, members in cells.groups for _ in members] or [""] * len(cells.columns)
    # Markdown has one row of headings: `REML estimate`.
    heads = [f"{name} {column}".strip() for name, column in zip(above, cells.columns, strict=True)]
    sides = "|".join(["---"] * len(cells.stubs) + ["---" if w else "--:" for w in cells.words])
    lines = [f"**{_words(cells.title)}**", ""] if cells.title else []
    lines += [_row([*cells.stubs, *heads]), f"|{sides}|"]
    for part, rows in cells.parts:
        if part:
            lines.append(_row([part, *[""] * (len(cells.stubs) + len(heads) - 1)]))
        lines += [_row([*row.names, *row.cells]) for row in rows]
    return "\n".join([*lines, *(f"\n{_words(note)}" for note in cells.notes)])


@_block.register
def _(block: Picture, level: int, images: dict[str, str]) -> str:
    caption = f"\n\n{_words(block.caption)}" if block.caption else ""
    return f"![{_words(block.alt)}]({images[block.name]}){caption}"


@_block.register
def _(block: Equation, level: int, images: dict[str, str]) -> str:
    return _fenced("\n".join(block.lines))


@_block.register
def _(block: Code, level: int, images: dict[str, str]) -> str:
    return _fenced(block.text)


@_block.register
def _(block: Section, level: int, images: dict[str, str]) -> str:
    below = [_block(each, min(level + 1, 6), images) for each in block.blocks]
    return "\n\n".join([f"{'#' * level} {_words(block.heading)}", *below])


def _row(texts: list[str]) -> str:
    return f"| {' | '.join(_escaped(' '.join(text.split())) for text in texts)} |"


def _pieces(pieces: tuple[Piece, ...]) -> str:
    return "".join(map(_piece, pieces))


@singledispatch
def _piece(piece: Piece) -> str:
    return _words(str(piece))


@_piece.register
def _(piece: Strong) -> str:
    return f"**{_words(piece.words)}**"


@_piece.register
def _(piece: Mono) -> str:
    return _span(piece.words)


@_piece.register
def _(piece: Link) -> str:
    return f"[{_words(piece.words)}]({piece.address})"


def _words(text: str) -> str:
    """Words that Markdown, and the HTML within it, take for nothing else."""
    return _AT_START.sub(r"\1\2\\\3", _escaped(text))


def _escaped(text: str) -> str:
    return _MARKS.sub(r"\\\1", text.replace("&", "&amp;"))


def _span(text: str) -> str:
    ticks = "`" * (_longest_ticks(text) + 1)
    return f"{ticks} {text} {ticks}" if "`" in text else f"`{text}`"


def _fenced(text: str) -> str:
    ticks = "`" * max(3, _longest_ticks(text) + 1)
    return f"{ticks}\n{text}\n{ticks}"


def _longest_ticks(text: str) -> int:
    return max((len(found) for found in re.findall("`+", text)), default=0)
