"""Bytes as people write them."""

from __future__ import annotations

import re

from .. import errors

_UNITS = {"b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "kb": 10**3, "mb": 10**6, "gb": 10**9}


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


def format_bytes(amount: int) -> str:
    """1536 → 1.5 KiB"""
    value, unit = float(amount), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
