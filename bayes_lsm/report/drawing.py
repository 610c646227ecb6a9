"""Figures as bytes: drawings where those are small, pixels where they are not."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from bayes_lsm.errors import FitError
from bayes_lsm.report.page import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# A drawing (SVG) is sharp at every size, but it grows with what is drawn.
_LARGEST_DRAWING = 200_000
_DOTS, _MOST_PIXELS = 192, 16_000
_CSS_PIXELS = 96


@dataclass(frozen=True)
class Image:
    """A figure as it is written: its bytes, svg or png, and its size in CSS pixels."""

    data: bytes
    ending: Literal["svg", "png"]
    width: int
    height: int

    @property
    def media(self) -> str:
        """Its media type."""
        return {"svg": "image/svg+xml", "png": "image/png"}[self.ending]


def figure_of(ax: Axes) -> Figure:
    """The whole figure that axes are part of."""
    found = ax.get_figure(root=True)
    if found is None:
        raise FitError("these axes have been taken out of their figure; draw it again")
    return found


def draw(picture: Picture) -> Image:
    """The figure as SVG of at most 200 kB, else as PNG; the same figure gives the same bytes."""
    width, height = (float(inches) for inches in picture.figure.get_size_inches())
    size = round(width * _CSS_PIXELS), round(height * _CSS_PIXELS)
    drawing = _save(picture, "svg", _DOTS)
    if len(drawing) <= _LARGEST_DRAWING:
        return Image(drawing, "svg", *size)
    dots = min(_DOTS, _MOST_PIXELS / max(width, height))
    return Image(_save(picture, "png", dots), "png", *size)


def _save(picture: Picture, ending: str, dots: float) -> bytes:
    import matplotlib as mpl

    target = io.BytesIO()
    metadata = {"Date": None} if ending == "svg" else {"Software": None}
    # Names inside the drawing are random otherwise.
    with mpl.rc_context({"svg.hashsalt": picture.name, "svg.fonttype": "path"}):
        picture.figure.savefig(target, format=ending, dpi=dots, metadata=metadata)
    return target.getvalue()
