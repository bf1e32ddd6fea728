"""Which pictures there are, and a picture as a file."""

from __future__ import annotations

from pathlib import Path

from .. import errors
from .canvas import Png, Svg
from .compare import Comparison
from .curve import draw_pareto
from .picture import WIDTH, draw_timeline
from .treemap import draw_treemap

# How each is drawn, and how high it is.
_PICTURES = {"timeline": (draw_timeline, 360), "treemap": (draw_treemap, 420), "pareto": (draw_pareto, 360)}


def drawn(tables: Comparison, what: str, kind: str) -> bytes:
    """The "timeline", "treemap" or "pareto" as a file of a kind: "svg" or "png"."""
    draw, height = _PICTURES[what]
    canvas = Svg(WIDTH, height) if kind == "svg" else Png(WIDTH, height)
    draw(tables, canvas, height)
    return canvas.finish()


def picture_format(view: str, path: str) -> str:
    """The format in which a view is drawn to a file.

    Raises: ValueError when its ending is no picture's.
    """
    ending = Path(path).suffix.lower().lstrip(".")
    if ending not in ("svg", "png"):
        raise errors.ValueError(f"profile {view}: '{path}' is no picture's name; one that ends with .svg or .png is needed")
    what = {"timeline": "", "peak": "treemap.", "pareto": "pareto."}[view]
    return what + ending
