"""Tables as text for a terminal. The only module that formats numbers for people; the HTML report has its own in script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..memory import format_bytes as size

Row = dict[str, Any]
_BAR = 30


def seconds(value: float | None) -> str:
    """0.0123 → 12.3 ms"""
    if value is None:
        return "–"
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if value * scale >= 1 or unit == "µs":
            return f"{value * scale:.3g} {unit}" if value * scale < 1000 else f"{value * scale:.0f} {unit}"
    return ""


def flops(value: float) -> str:
    """1.2e9 → 1.2 GFLOP"""
    step = min(int(math.log10(value) // 3), 5) if value >= 1 else 0
    return f"{value / 1000**step:.3g} {' kMGTP'[step].strip()}FLOP"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Columns under their heads; the last `left` columns stand left, the others right."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = []
    for row in [head, ["─" * w for w in widths], *rows]:
        first_left = len(row) - left
        cells = [cell.ljust(w) if i >= first_left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _bars(by_category: dict[str, int], total: int) -> list[str]:
    lines = []
    for name, amount in sorted(by_category.items(), key=lambda item: -item[1]):
        if amount:
            bar = "█" * max(round(_BAR * amount / max(total, 1)), 1)
            lines.append(f"  {name:11} {size(amount):>10} {100 * amount / max(total, 1):5.1f} %  {bar}")
    return lines


def summary(s: Row) -> str:
    """The run on one screen."""
    where = s["peak_where"]
    lines = [f"peak {size(s['peak_bytes'])} ({s['peak_bytes']:,} bytes)"]
    if where:
        place = " ".join(filter(None, [where["op"], where["module"] and f"in {where['module']}", where["line"] and f"at {where['line']}"]))
        lines.append(f"  in step {where['step']}, {where['phase']}: {place or 'outside any op'}")
    if s["limit_bytes"]:
        lines.append(f"  limit {size(s['limit_bytes'])}, {100 * s['peak_bytes'] / s['limit_bytes']:.1f} % of it used")
    lines += _bars(s["peak_by_category"], sum(s["peak_by_category"].values()))
    if s["peak_bytes"] > sum(s["peak_by_category"].values()):
        lines.append("  a later step, after the last event kept, rose higher than what is taken apart here")
    lines.append(f"unknown {size(s['unknown_bytes'])}")
    lines.append("")
    lines.append(f"kept for backward, at most {size(s['saved_bytes'])}; alive at the end {size(s['end_bytes'])}")
    count = max(s["steps"], 1)
    parts = [
        f"{name} {seconds(s[f'{name}_seconds'] / count)}" for name in ("forward", "backward", "replay", "optimizer")
    ]
    of = f"{s['steps']} steps, each on average" if s["steps"] else "no optimizer step; in total"
    lines.append(f"{of}: {', '.join(parts)} ({flops(s['forward_flops'] / count)} forward)")
    if s["replay_seconds"]:
        lines.append(f"recomputation adds {100 * s['recompute_share']:.1f} % to the work")
    lines += ["", "at the peak, by module"]
    lines += [f"  {size(r['bytes']):>10}  {r['module'] or '(no module)'}" for r in s["modules"]]
    if (refused := s["out_of_memory"]) is not None:
        lines += ["", out_of_memory_line(refused)]
    if not s["whole"]:
        lines += ["", "the capture is cut short: its last events were not written"]
    if "error" in s["facts"]:
        lines += ["", f"the run ended with {s['facts']['error'].splitlines()[0]}"]
    return "\n".join(lines)


def out_of_memory_line(refused: Row) -> str:
    """One sentence about a refused allocation."""
    cap = f" under a limit of {size(refused['limit_bytes'])}" if refused["limit_bytes"] else ""
    place = " ".join(filter(None, [refused["module"] and f"in {refused['module']}", refused["line"] and f"at {refused['line']}"]))
    return (
        f"out of memory in step {refused['step']}, {refused['phase']}: {refused['op'] or 'an allocation'} {place} asked for "
        f"{size(refused['asked_bytes'])} with {size(refused['live_bytes'])} live{cap}"
    ).replace("  ", " ")


def blocks(rows: list[Row], most: int = 30) -> str:
    """Rows of peak() or saved(), block by block."""
    cells = []
    for r in rows[:most]:
        away = "–" if r.get("ops_away") is None else str(r["ops_away"])
        again = "–" if r["recompute_seconds"] is None else seconds(r["recompute_seconds"])
        what = f"{r['category']} of {r['op'] or '-'}"
        cells.append([size(r["bytes"]), again, away, what, r["module"] or "–", r["line"] or "–", r["why"]])
    text = table(["bytes", "make again", "ops away", "what", "module", "line", "why alive"], cells, left=4)
    return text + _rest(rows, most)


def groups(rows: list[Row], most: int = 30) -> str:
    """Rows summed by a column."""
    by = next(iter(rows[0])) if rows else "group"
    total = sum(r["bytes"] for r in rows)
    cells = [
        [
            size(r["bytes"]),
            f"{100 * r['bytes'] / max(total, 1):.1f} %",
            str(r["blocks"]),
            seconds(r["recompute_seconds"] or None),
            r[by] or "–",
        ]
        for r in rows[:most]
    ]
    return table(["bytes", "share", "blocks", "make again", by], cells) + _rest(rows, most)


def _rest(rows: list[Row], most: int) -> str:
    rest = rows[most:]
    left = f"\n… and {len(rest)} more, {size(sum(r['bytes'] for r in rest))}" if rest else ""
    return f"{left}\ntotal {size(sum(r['bytes'] for r in rows))}"


def layers(rows: list[Row]) -> str:
    """One line a module."""
    cells = [
        [
            size(r["parameter_bytes"]),
            size(r["gradient_bytes"]),
            size(r["optimizer_bytes"]),
            size(r["saved_bytes"]),
            size(r["saved_inclusive_bytes"]),
            seconds(r["forward_seconds"]),
            seconds(r["backward_seconds"]),
            seconds(r["replay_seconds"]),
            flops(r["forward_flops"]),
            r["module"] or "(no module)",
        ]
        for r in rows
    ]
    head = ["params", "grads", "optimizer", "kept", "kept incl.", "forward", "backward", "replay", "FLOPs", "module"]
    return table(head, cells)


def timeline(rows: list[Row]) -> str:
    """Live bytes over time, a line a moment."""
    most = max((r["live"] for r in rows), default=1)
    cells = [
        [seconds(r["seconds"]), size(r["live"]), r["phase"], "█" * round(60 * r["live"] / max(most, 1))] for r in rows
    ]
    return table(["time", "live", "phase", ""], cells, left=2)


def replays(rows: list[Row]) -> str:
    """Values brought back by running their op again."""
    cells = [
        [seconds(r["seconds"]), str(r["count"]), flops(r["flops"]), r["op"], r["module"] or "–", r["line"] or "–"] for r in rows
    ]
    return table(["time", "times", "FLOPs", "op", "module", "line"], cells, left=3)


def steps(rows: list[Row]) -> str:
    """One line a step."""
    clocks = ("forward_seconds", "backward_seconds", "replay_seconds", "optimizer_seconds")
    cells = [[str(r["step"]), size(r["peak_bytes"]), *(seconds(r[name]) for name in clocks)] for r in rows]
    return table(["step", "peak", "forward", "backward", "replay", "optimizer"], cells, left=0)


def explain(refused: Row | None) -> str:
    """What was wanted, what was alive, and why."""
    if refused is None:
        return "no allocation was refused in this capture"
    return f"{out_of_memory_line(refused)}\nalive then:\n{blocks(refused['rows'])}"


def difference(d: Row, most: int = 30) -> str:
    """Two runs side by side."""
    a, b = d["before"], d["after"]
    change = b["peak_bytes"] - a["peak_bytes"]
    lines = [f"peak {size(a['peak_bytes'])} → {size(b['peak_bytes'])} ({_signed(change)})"]
    for name in a["peak_by_category"]:
        before, after = a["peak_by_category"][name], b["peak_by_category"][name]
        if before or after:
            lines.append(f"  {name:11} {size(before):>10} → {size(after):>10}  {_signed(after - before)}")
    cells = [
        [_signed(r["change_bytes"]), size(r["before_bytes"]), size(r["after_bytes"]), f"{r['category']} of {r['op'] or '-'}", r["module"] or "–"]
        for r in d["rows"][:most]
        if r["change_bytes"]
    ]
    if not cells:
        return "\n".join([*lines, "the same holders at both peaks"])
    return "\n".join([*lines, "", table(["change", "before", "after", "what", "module"], cells, left=2)])


def _signed(amount: int) -> str:
    return f"{'+' if amount > 0 else '−' if amount < 0 else '±'}{size(abs(amount))}"
