"""The picture of bytes over time, by category, with the phases below it. Drawn on either canvas, without any library."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..memory import CATEGORIES
from . import report
from .canvas import Canvas
from .compare import Comparison

Row = dict[str, Any]

COLORS = {
    "parameter": "#4878a8",
    "buffer": "#8aa7c4",
    "optimizer": "#9a7bb8",
    "gradient": "#e07b54",
    "input": "#76a96a",
    "activation": "#e5b94a",
    "temporary": "#63b8c4",
    "workspace": "#9aa0a6",
}
PHASES = {"forward": "#5b8def", "backward": "#e0604c", "replay": "#b14fc5", "optimizer": "#3fa66b"}
INK, FAINT, PAPER, GRID = "#22262b", "#9aa1a9", "#ffffff", "#e4e7ea"
# Of words on the paper itself: the report turns these two round in the dark.
TITLE = "#22262a"
WIDTH, _LEFT, _RIGHT = 1000, 76, 14


def ticks(most: float, about: int = 5) -> list[float]:
    """Round byte figures from 0 up to at most `most`: a power of two times 1, 2 or 5 hundreds."""
    unit = 1.0
    while most / (unit * 1024) >= 1:
        unit *= 1024
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if most / (s * unit) <= about)
    return [i * step * unit for i in range(int(most / (step * unit)) + 1)]


def legend(canvas: Canvas, x: float, y: float, colors: dict[str, str]) -> float:
    """Names beside their colours, in a row on a base line; returns where the row ends."""
    for name, color in colors.items():
        canvas.rect(x, y - 9, 10, 10, color)
        canvas.text(x + 14, y, name, TITLE, 10)
        x += 26 + canvas.long(name, 10)
    return x


def draw_timeline(tables: Comparison, canvas: Canvas, height: int) -> None:
    """Live bytes by category, the phases below, and the limit if there is one."""
    top, bottom = 52, height - 58
    width = WIDTH - _LEFT - _RIGHT
    canvas.rect(0, 0, WIDTH, height, PAPER)
    if not len(tables.events):
        canvas.text(20, 30, "an empty capture", INK)
        return
    start, end, name = tables.window()
    end = max(end, start + 1e-9)
    at = tables.columns(start, end, width)
    limit = tables.limit_at(tables.peak_at)
    highest = float(max(tables.total[at].max(), 1))
    peak = int(np.where(tables.on_trial[at], 0, tables.total[at]).max())
    # A limit far above would press the picture flat.
    shown = limit is not None and limit < 2.5 * highest
    scale = (bottom - top) / (1.06 * max(highest, float(limit or 0) if shown else 0.0))

    def x_of(second: float) -> float:
        return _LEFT + width * (min(max(second, start), end) - start) / (end - start)

    canvas.text(_LEFT, 18, f"live bytes by category, {name}: peak {report.size(peak)}", INK, 13)
    present = [c for c in COLORS if tables.live[at][:, CATEGORIES.index(c)].any()]
    legend(canvas, _LEFT, 38, {c: COLORS[c] for c in present})
    for value in ticks(1.06 * highest):
        y = bottom - value * scale
        canvas.line(_LEFT, y, _LEFT + width, y, GRID)
        canvas.text(_LEFT - 6, y + 4, report.size(int(value)), INK, 10, "end")
    for phase in tables.phases:
        if phase["until"] > start and phase["from"] < end:
            x1, x2 = x_of(phase["from"]), x_of(phase["until"])
            canvas.rect(x1, top, max(x2 - x1, 0.5), bottom - top, PHASES[phase["phase"]], 0.08)
    floor = np.zeros(width)
    for category in present:
        amount = tables.live[at, CATEGORIES.index(category)]
        roof = floor + amount
        tops, bottoms = bottom - roof * scale, bottom - floor * scale
        canvas.columns(_LEFT, tops.tolist(), bottoms.tolist(), COLORS[category])
        floor = roof
    for phase in sorted(tables.phases, key=lambda p: p["phase"] == "replay"):
        if phase["until"] > start and phase["from"] < end:
            x1, x2 = x_of(phase["from"]), x_of(phase["until"])
            inside = phase["phase"] == "replay"
            canvas.rect(x1, bottom + 4, max(x2 - x1, 0.5), 10, PHASES[phase["phase"]])
            if canvas.long(phase["phase"], 9) <= x2 - x1 - 4 and not inside:
                canvas.text((x1 + x2) / 2, bottom + 12, phase["phase"], "#ffffff", 9, "middle")
    canvas.line(_LEFT, bottom, _LEFT + width, bottom, FAINT)
    for i in range(6):
        second = start + (end - start) * i / 5
        anchor = "start" if i == 0 else "end" if i == 5 else "middle"
        canvas.text(x_of(second), bottom + 30, report.seconds(second), INK, 10, anchor)
    seen = {p["phase"] for p in tables.phases}
    legend(canvas, _LEFT, height - 9, {name: color for name, color in PHASES.items() if name in seen})
    if shown and limit is not None:
        y = bottom - limit * scale
        canvas.line(_LEFT, y, _LEFT + width, y, "#c62828", dashed=True)
        canvas.text(_LEFT + width, y - 4, f"limit {report.size(limit)}", "#c62828", 10, "end")
