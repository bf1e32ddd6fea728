"""The picture of the trade-off: what each budget costs, by our plans and by other methods."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from . import report
from .canvas import Canvas
from .compare import Comparison
from .picture import FAINT, GRID, INK, PAPER, WIDTH, legend, ticks

METHODS = {"overhead": "backsweep", "every_sqrt": "every √n", "dtr": "DTR", "keep_all": "keep all"}
METHOD_COLORS = {"overhead": "#3866c8", "every_sqrt": "#d97a2b", "dtr": "#2e9461", "keep_all": "#7d848c"}
_MEASURED = "#12306e"
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 56, 52


def steps_of(most: float) -> float:
    """A round step for an axis of shares up to `most`."""
    return next((s for s in (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0) if most / s <= 6), 10.0)


def draw_pareto(tables: Comparison, canvas: Canvas, height: int) -> None:
    """Stairs: a budget costs what the plan for the next lower rung costs. Squares are what was measured."""
    canvas.rect(0, 0, WIDTH, height, PAPER)
    if tables.trade_off is None:
        canvas.text(20, 30, "no step was taken down for the planner: take the capture with --pareto", INK, 13)
        return
    found: dict[str, Any] = tables.trade_off.to_dict()
    rows = found["rows"]
    low, high = found["bound_bytes"], rows[0]["budget_bytes"]
    start, end = low - 0.04 * (high - low), high + 0.04 * (high - low) + 1
    ours = max(r["overhead"] for r in rows)
    every = [r[name] for r in rows for name in (*METHODS, "measured_overhead") if r[name] is not None]
    # Another method may cost many times what ours does; it then leaves the picture at the top.
    top = 1.15 * max(min(max(every), 2.2 * ours), 0.01)
    bottom = height - _BOTTOM
    width = WIDTH - _LEFT - _RIGHT

    def x_of(size: float) -> float:
        return _LEFT + width * (size - start) / (end - start)

    def y_of(share: float) -> float:
        return bottom - (bottom - _TOP) * max(min(share, top), 0) / top

    canvas.text(_LEFT, 18, f"time that a budget adds to a step: from a peak of {report.size(high)} down to the least", INK, 13)
    shown = [n for n in METHODS if any(r[n] is not None for r in rows)]
    x = legend(canvas, _LEFT, 38, {METHODS[n]: METHOD_COLORS[n] for n in shown})
    if any(r["measured_overhead"] is not None for r in rows):
        legend(canvas, x, 38, {"backsweep, measured": _MEASURED})
    share, step = 0.0, steps_of(top)
    while share <= top:
        canvas.line(_LEFT, y_of(share), _LEFT + width, y_of(share), GRID)
        canvas.text(_LEFT - 8, y_of(share) + 4, f"{100 * share:g} %", INK, 10, "end")
        share = round(share + step, 9)
    last = -1e9
    for size in ticks(end, 8):
        if size >= start and x_of(size) - last > 70:
            last = x_of(size)
            canvas.line(last, bottom, last, bottom + 5, FAINT)
            canvas.text(last, bottom + 19, report.size(int(size)), INK, 10, "middle")
    canvas.line(_LEFT, bottom, _LEFT + width, bottom, FAINT)
    canvas.text(_LEFT + width / 2, bottom + 40, "budget, in bytes alive at most", INK, 10, "middle")
    canvas.line(x_of(low), _TOP, x_of(low), bottom, "#c62828", dashed=True)
    canvas.text(x_of(low) + 5, bottom - 6, f"no plan below {report.size(low)}", "#c62828", 10)
    for name in reversed(shown):
        _stairs(canvas, [(x_of(r["budget_bytes"]), y_of(r[name])) for r in rows if r[name] is not None], METHOD_COLORS[name])
    for row in rows:
        if row["measured_overhead"] is not None:
            x, y = x_of(row["budget_bytes"]), y_of(row["measured_overhead"])
            canvas.rect(x - 4, y - 4, 8, 8, _MEASURED, title=f"measured: {100 * row['measured_overhead']:.1f} %")
            if row["measured_overhead"] > top:
                canvas.text(x + 7, y + 4, f"{100 * row['measured_overhead']:.0f} %", _MEASURED, 10)


def _stairs(canvas: Canvas, points: list[tuple[float, float]], color: str) -> None:
    for (x, y), (x2, y2) in pairwise(points):
        canvas.rect(x2, y2 - 1, x - x2, 2, color)
        canvas.rect(x - 1, min(y, y2) - 1, 2, abs(y - y2) + 2, color)
    for x, y in points:
        canvas.rect(x - 2.5, y - 2.5, 5, 5, color)
