"""A page as one HTML file: figures inside it, nothing from a network, no scripts.

The templates are in `templates`: `page.html` has the order of things, `blocks.html` a macro for
each kind of block, and `style.css` how it looks, on paper and on a dark screen too. Everything that
is put into them is escaped.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from bayes_lsm.report.cells import cells_of
from bayes_lsm.report.drawing import Image, draw
from bayes_lsm.report.page import Block, Page

if TYPE_CHECKING:
    import jinja2


def to_html(page: Page) -> str:
    """The page as one HTML document that needs nothing else.

    Figures of at most 200 kB are drawings (SVG), larger ones pixels (PNG).

    Examples
    --------
    >>> from bayes_lsm.report import Page, Section, Text
    >>> page = Page("A page", lead=(Text("a < b"),), sections=(Section("More", (Text("c"),)),))
    >>> "<p>a &lt; b</p>" in to_html(page)
    True
    """
    return _environment().get_template("page.html").render(page=page)


def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("bayes_lsm.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cells": cells_of, "draw": draw, "address": _address, "kind": _kind}
    return environment


def _kind(block: Block) -> str:
    """What a block is: the name of its macro."""
    return type(block).__name__.lower()


def _address(image: Image) -> str:
    """The bytes of an image as the address of itself."""
    return f"data:{image.media};base64,{base64.b64encode(image.data).decode('ascii')}"
