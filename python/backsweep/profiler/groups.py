"""Rows summed by a column, and two runs side by side."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from .. import errors
from .capture import SCHEMA
from .ledger import Row

if TYPE_CHECKING:
    from .compare import Comparison

GROUPS = ("module", "op", "line", "category", "why")


def grouped(rows: list[Row], by: str | None) -> list[Row]:
    """Rows summed by a column: bytes, blocks and the cost of making them again; largest first.

    Raises: ValueError when there is no such group.
    """
    if by is None:
        return rows
    if by not in GROUPS:
        raise errors.ValueError(f"profile: group_by '{by}'; one of {', '.join(GROUPS)} is needed")
    table: dict[str, Row] = {}
    counted: set[tuple[str, int | None]] = set()
    for row in rows:
        group = table.setdefault(row[by], {by: row[by], "bytes": 0, "blocks": 0, "recompute_seconds": 0.0, "categories": {}})
        group["bytes"] += row["bytes"]
        group["blocks"] += 1
        # One op may have made several of the blocks.
        if (made := (row[by], row.get("maker"))) not in counted:
            counted.add(made)
            group["recompute_seconds"] += row["recompute_seconds"] or 0.0
        group["categories"][row["category"]] = group["categories"].get(row["category"], 0) + row["bytes"]
    return sorted(table.values(), key=lambda r: (-r["bytes"], r[by]))


def difference(before: Comparison, after: Comparison) -> Row:
    """Two runs side by side: their peaks, and what is alive at each by category, module and op."""

    def holders(of: Comparison) -> dict[tuple[str, str, str], int]:
        sums: dict[tuple[str, str, str], int] = defaultdict(int)
        for row in of.peak():
            sums[row["category"], row["module"], row["op"]] += row["bytes"]
        return sums

    a, b = holders(before), holders(after)
    rows: list[Row] = [
        {
            "category": k[0],
            "module": k[1],
            "op": k[2],
            "before_bytes": a.get(k, 0),
            "after_bytes": b.get(k, 0),
            "change_bytes": b.get(k, 0) - a.get(k, 0),
        }
        for k in {**a, **b}
    ]
    rows.sort(key=lambda r: (-abs(r["change_bytes"]), r["category"], r["module"], r["op"]))
    names = ("peak_bytes", "peak_by_category", "saved_bytes", "recompute_share", "steps", "seconds")
    summaries = [{name: of.summary()[name] for name in names} for of in (before, after)]
    return {"schema": SCHEMA, "view": "diff", "before": summaries[0], "after": summaries[1], "rows": rows}
