"""The bill: every byte of the arena by category, op, module and source line; and a hard limit on it.

Figures are bytes that the arena has handed out, its rounding included. Memory of NumPy arrays shared with tensors, and of
the Python objects themselves, is not on the bill.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from . import _core, errors
from ._core import Tensor

CATEGORIES = ("parameter", "buffer", "gradient", "optimizer", "input", "activation", "temporary", "workspace")
_UNITS = {"b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def stats(device: str = "cpu") -> dict[str, Any]:
    """Bytes live, at the peak and reserved, one entry a category, and the counts of nodes and blocks.

    Raises: DeviceError when there is no such device.
    """
    if device != "cpu":
        raise errors.DeviceError(f"memory.stats: device '{device}' is not there; cpu is")
    return dict(_core.memory_stats())


def snapshot() -> list[dict[str, Any]]:
    """Every live block: id, bytes, category, op, module, line."""
    return list(_core.memory_snapshot())


def reset_peak() -> None:
    """Let the peak start again from the bytes live now."""
    _core.reset_peak()


def parse_bytes(amount: int | str) -> int:
    """A number of bytes from an int or a text such as "512 MiB".

    Raises: ValueError when it is neither, or not above zero.
    """
    if isinstance(amount, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", amount)
        unit = _UNITS.get((match[2] or "B").lower()) if match else None
        if match is None or unit is None:
            raise errors.ValueError(f"memory: '{amount}' is no size; an int or a text such as '512 MiB' is needed")
        amount = int(float(match[1]) * unit)
    if isinstance(amount, bool) or not isinstance(amount, int) or amount <= 0:
        raise errors.ValueError(f"memory: {amount!r} bytes; a whole number above zero is needed")
    return amount


class limit:
    """A hard cap on live bytes, until it is lifted by `limit(None)` or, used with `with`, at the end of the block.

    Raises: OutOfMemoryError when more is alive already; any allocation over the cap raises it as well.
    """

    def __init__(self, amount: int | str | None) -> None:
        self.before = _core.set_limit(None if amount is None else parse_bytes(amount))

    def __enter__(self) -> limit:
        return self

    def __exit__(self, *exception: object) -> None:
        _core.set_limit(self.before)


class budget:
    """A cap on live bytes that the engine keeps by dropping activations and computing them again, bit for bit.

    Used with `with`, around unchanged training code. Gradients, losses, running statistics and random draws are those of the
    run without it. What is recorded outside the block is never dropped.

    Raises: OutOfMemoryError when nothing that could be dropped is left, here or at any allocation; the state is then as it
    was before that call. ValueError when `amount` is no size above zero.

    Example:
        with bs.memory.budget("512 MiB"):
            loss = model(x).square().mean()
            loss.backward()
            optimizer.step()
    """

    def __init__(self, amount: int | str) -> None:
        self.amount = parse_bytes(amount)
        self._entered: list[_core.Budget] = []

    def __enter__(self) -> budget:
        self._entered.append(_core.set_budget(self.amount))
        return self

    def __exit__(self, *exception: object) -> None:
        self._entered.pop().restore()


def must_keep(x: Tensor) -> Tensor:
    """Keep the value of x under any budget, once it is saved; returns x.

    For a value that is dear to make again in ways that the cost model does not see. Without a budget it does nothing.
    """
    _core.hint_value(x, True)
    return x


def must_drop(x: Tensor) -> Tensor:
    """Under a budget, let the value of x be the first to be dropped; returns x."""
    _core.hint_value(x, False)
    return x


class Recording:
    """The block events of a `record()` block, once it has ended."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int, int, str]] = []
        self._peak: list[dict[str, Any]] = []

    def at_peak(self) -> list[dict[str, Any]]:
        """The blocks alive at the peak of the recording."""
        return self._peak


@contextmanager
def record() -> Iterator[Recording]:
    """Keep every block event of the block, so that its peak can be taken apart."""
    recording = Recording()
    _core.record_start()
    try:
        yield recording
    finally:
        recording._peak, recording.events = _core.record_stop()


def bill(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """Blocks summed by category, and the ten largest holders by category, module and op."""
    by_category = dict.fromkeys(CATEGORIES, 0)
    holders: dict[tuple[str, str, str], list[int]] = {}
    for block in blocks:
        by_category[block["category"]] += block["bytes"]
        holder = holders.setdefault((block["category"], block["module"], block["op"]), [0, 0])
        holder[0] += block["bytes"]
        holder[1] += 1
    largest = sorted(holders.items(), key=lambda item: (-item[1][0], item[0]))[:10]
    return {
        "total": sum(by_category.values()),
        "by_category": by_category,
        "largest": [
            {"bytes": size, "blocks": count, "category": category, "module": module, "op": op}
            for (category, module, op), (size, count) in largest
        ],
    }


def format_bytes(amount: int) -> str:
    """1536 → 1.5 KiB"""
    value, unit = float(amount), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"


def bill_text(bill: dict[str, Any]) -> str:
    """A bill as a table for a terminal."""
    total = max(bill["total"], 1)
    lines = [f"memory at the peak of a step: {format_bytes(bill['total'])} ({bill['total']:,} bytes)"]
    for category, size in sorted(bill["by_category"].items(), key=lambda item: -item[1]):
        if size:
            lines.append(f"  {category:12} {format_bytes(size):>10}  {100 * size / total:5.1f} %")
    lines.append("the largest holders")
    for row in bill["largest"]:
        where = f"{row['category']} of {row['op'] or '-'} in {row['module'] or '-'}"
        lines.append(f"  {format_bytes(row['bytes']):>10}  {where} ({row['blocks']} blocks)")
    return "\n".join(lines)
