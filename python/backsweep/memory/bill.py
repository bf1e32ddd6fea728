"""The bill: every byte of the arena by category, op, module and source line.

Figures are bytes that the arena has handed out, its rounding included. Memory of NumPy arrays shared with tensors, and of
the Python objects themselves, is not on the bill.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .. import _core
from .sizes import format_bytes

CATEGORIES = ("parameter", "buffer", "gradient", "optimizer", "input", "activation", "temporary", "workspace")


def stats(device: str = "cpu") -> dict[str, Any]:
    """Bytes live, at the peak and reserved, one entry a category, and the counts of nodes and blocks.

    Raises: DeviceError when there is no such device.
    """
    return dict(_core.memory_stats(device))


def snapshot(device: str = "cpu") -> list[dict[str, Any]]:
    """Every live block of a device's memory: id, bytes, category, op, module, line."""
    return list(_core.memory_snapshot(device))


def reset_peak(device: str = "cpu") -> None:
    """Let the peak start again from the bytes live now."""
    _core.reset_peak(device)


class Recording:
    """The block events of a `record()` block, once it has ended."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int, int, str]] = []
        self._peak: list[dict[str, Any]] = []

    def at_peak(self) -> list[dict[str, Any]]:
        """The blocks alive at the peak of the recording."""
        return self._peak


@contextmanager
def record(device: str = "cpu") -> Iterator[Recording]:
    """Keep every event of a device's memory in the block, so that its peak can be taken apart."""
    recording = Recording()
    _core.record_start(device)
    try:
        yield recording
    finally:
        recording._peak, recording.events = _core.record_stop(device)


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
