"""Tensors as text, in PyTorch's form: the corners of large ones, four digits, the dtype where it is not the default."""

from __future__ import annotations

import math
from typing import Any

from ._core import Tensor
from .attach import method
from .dtypes import bool as bool_
from .dtypes import float32, int64

PRECISION = 4
THRESHOLD = 1000
EDGE = 3
WIDTH = 80


@method
def __repr__(self: Tensor) -> str:
    """The values, and what is not the default of dtype and history."""
    values = self.detach()
    prefix = "tensor("
    suffixes = []
    if not self.numel():
        body = "[]"
        if self.ndim != 1:
            suffixes.append(f"size={tuple(self.shape)}")
    else:
        few = _corners(values) if self.numel() > THRESHOLD else values
        body = _body(few.tolist(), _Form(few), list(self.shape), len(prefix))
    if self.dtype not in (float32, int64, bool_) or (self.dtype is int64 and not self.numel()):
        suffixes.append(f"dtype={self.dtype!r}")
    if self.grad_fn is not None:
        suffixes.append(f"grad_fn=<{self.grad_fn}>")
    elif self.requires_grad:
        suffixes.append("requires_grad=True")
    text = prefix + body
    last = len(text) - text.rfind("\n") - 1
    for suffix in suffixes:
        if last + len(suffix) + 2 > WIDTH:
            text += ",\n" + " " * len(prefix) + suffix
            last = len(prefix) + len(suffix)
        else:
            text += ", " + suffix
            last += len(suffix) + 2
    return text + ")"


def _corners(x: Tensor) -> Tensor:
    """The first and last few along every dim."""
    for dim, size in enumerate(x.shape):
        if size > 2 * EDGE:
            places = [*range(EDGE), *range(size - EDGE, size)]
            x = x.index_select(dim, x.new_tensor(places, dtype=int64))
    return x


class _Form:
    """How all numbers of a tensor are written, so that they line up."""

    def __init__(self, x: Tensor) -> None:
        """Look at the numbers that will be shown."""
        flat = x.reshape(-1).tolist()
        self.floats = x.dtype.is_floating_point
        self.width = 0
        self.whole = self.scientific = False
        finite = [abs(value) for value in flat if math.isfinite(value) and value != 0]
        if self.floats:
            self.whole = all(value == math.floor(value) for value in finite)
            if finite:
                least, most = min(finite), max(finite)
                self.scientific = most / least > 1000.0 or most > 1e8 or (not self.whole and least < 1e-4)
        self.width = max((len(self.bare(value)) for value in flat), default=0)

    def bare(self, value: Any) -> str:
        """One number, not padded."""
        if not self.floats:
            return str(value)
        if not math.isfinite(value):
            return str(value)
        if self.scientific:
            return f"{value:.{PRECISION}e}"
        return f"{value:.0f}." if self.whole else f"{value:.{PRECISION}f}"

    def __call__(self, value: Any) -> str:
        return self.bare(value).rjust(self.width)


def _body(values: Any, form: _Form, shape: list[int], indent: int) -> str:
    if not shape:
        return form.bare(values)
    shortened = len(values) < shape[0]
    if len(shape) == 1:
        cells = [form(value) for value in values]
        if shortened:
            cells.insert(EDGE, "...")
        per_line = max(1, (WIDTH - indent) // (form.width + 2))
        lines = [", ".join(cells[start : start + per_line]) for start in range(0, len(cells), per_line)]
        return "[" + (",\n" + " " * (indent + 1)).join(lines) + "]"
    parts = [_body(part, form, shape[1:], indent + 1) for part in values]
    if shortened:
        parts.insert(EDGE, "...")
    return "[" + ("," + "\n" * (len(shape) - 1) + " " * (indent + 1)).join(parts) + "]"
