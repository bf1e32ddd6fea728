"""Pictures of a capture: bytes over time, and a map of the peak. Drawn on either canvas, without any library."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..memory import CATEGORIES
from . import report
from .canvas import Canvas, Png, Svg
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
INK, FAINT, PAPER = "#22262b", "#9aa1a9", "#ffffff"
_WIDTH, _LEFT, _RIGHT = 1000, 76, 14


def ticks(most: float, about: int = 5) -> list[float]:
    """Round byte figures from 0 up to at most `most`: a power of two times 1, 2 or 5 hundreds."""
    unit = 1.0
    while most / (unit * 1024) >= 1:
        unit *= 1024
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if most / (s * unit) <= about)
    return [i * step * unit for i in range(int(most / (step * unit)) + 1)]


def draw_timeline(tables: Comparison, canvas: Canvas, height: int) -> None:
    """Live bytes by category, the phases below, and the limit if there is one."""
    top, bottom = 52, height - 58
    width = _WIDTH - _LEFT - _RIGHT
    canvas.rect(0, 0, _WIDTH, height, PAPER)
    if not len(tables.events):
        canvas.text(20, 30, "an empty capture", INK)
        return
    start, end, name = tables.window()
    end = max(end, start + 1e-9)
    at = tables.columns(start, end, width)
    limit = tables.limit_at(tables.peak_at)
    highest = float(max(tables.total[at].max(), 1))
    # A limit far above would press the picture flat.
    shown = limit is not None and limit < 2.5 * highest
    scale = (bottom - top) / (1.06 * max(highest, float(limit or 0) if shown else 0.0))

    def x_of(second: float) -> float:
        return _LEFT + width * (min(max(second, start), end) - start) / (end - start)

    canvas.text(_LEFT, 18, f"live bytes by category, {name}: peak {report.size(int(highest))}", INK, 13)
    x = float(_LEFT)
    present = [c for c in COLORS if tables.live[at][:, CATEGORIES.index(c)].any()]
    for category in present:
        canvas.rect(x, 29, 10, 10, COLORS[category])
        canvas.text(x + 14, 38, category, INK, 10)
        x += 24 + 6.4 * len(category)
    for value in ticks(1.06 * highest):
        y = bottom - value * scale
        canvas.line(_LEFT, y, _LEFT + width, y, "#e4e7ea")
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
            if canvas.fits(phase["phase"], x2 - x1 - 4, 9) and not inside:
                canvas.text((x1 + x2) / 2, bottom + 12, phase["phase"], "#ffffff", 9, "middle")
    canvas.line(_LEFT, bottom, _LEFT + width, bottom, FAINT)
    for i in range(6):
        second = start + (end - start) * i / 5
        anchor = "start" if i == 0 else "end" if i == 5 else "middle"
        canvas.text(x_of(second), bottom + 30, report.seconds(second), INK, 10, anchor)
    x = float(_LEFT)
    for phase_name, color in PHASES.items():
        if any(p["phase"] == phase_name for p in tables.phases):
            canvas.rect(x, height - 18, 10, 10, color)
            canvas.text(x + 14, height - 9, phase_name, INK, 10)
            x += 24 + 6.4 * len(phase_name)
    if shown and limit is not None:
        y = bottom - limit * scale
        canvas.line(_LEFT, y, _LEFT + width, y, "#c62828", dashed=True)
        canvas.text(_LEFT + width, y - 4, f"limit {report.size(limit)}", "#c62828", 10, "end")


def squarify(sizes: list[float], x: float, y: float, w: float, h: float) -> list[tuple[float, float, float, float]]:
    """Rectangles of the given areas that fill one, as square as can be.   Bruls, Huizing and van Wijk 2000"""
    total = sum(sizes)
    if not total:
        return []
    areas = [s * w * h / total for s in sizes]
    placed: list[tuple[float, float, float, float]] = []
    at = 0
    while at < len(areas):
        short = max(min(w, h), 1e-9)
        best, count, row = float("inf"), 0, 0.0
        for n in range(at, len(areas)):
            row += areas[n]
            thick = row / short
            worst = max(max(thick * thick / a, a / (thick * thick)) for a in areas[at : n + 1] if a > 0)
            if worst > best:
                row -= areas[n]
                break
            best, count = worst, count + 1
        thick, offset = row / short, 0.0
        for area in areas[at : at + count]:
            length = area / thick if thick else 0.0
            placed.append((x + offset, y, length, thick) if w <= h else (x, y + offset, thick, length))
            offset += length
        x, y, w, h = (x, y + thick, w, h - thick) if w <= h else (x + thick, y, w - thick, h)
        at += count
    return placed


def draw_treemap(tables: Comparison, canvas: Canvas, height: int) -> None:
    """The peak as a map: a field a module, in it a field for each category and op, its area the bytes."""
    canvas.rect(0, 0, _WIDTH, height, PAPER)
    modules: dict[str, dict[tuple[str, str], int]] = {}
    rows = tables.peak()
    for row in rows:
        parts = modules.setdefault(row["module"] or "(no module)", {})
        key = (row["category"], row["op"])
        parts[key] = parts.get(key, 0) + row["bytes"]
    order = sorted(((sum(parts.values()), name) for name, parts in modules.items()), key=lambda item: (-item[0], item[1]))
    order = [(amount, name) for amount, name in order if amount > 0]
    canvas.text(10, 18, f"the peak by module: {report.size(tables.peak_bytes)}", INK, 13)
    x = 300.0
    for category in COLORS:
        if any(r["category"] == category for r in rows):
            canvas.rect(x, 9, 10, 10, COLORS[category])
            canvas.text(x + 14, 18, category, INK, 10)
            x += 24 + 6.4 * len(category)
    fields = squarify([amount for amount, _ in order], 8, 30, _WIDTH - 16, height - 38)
    for (amount, name), (fx, fy, fw, fh) in zip(order, fields, strict=True):
        if fw < 1 or fh < 1:
            continue
        head = 16 if fh > 34 and fw > 40 else 0
        canvas.rect(fx, fy, fw - 1.5, fh - 1.5, "#e4e7ea")
        if head:
            label = f"{name} {report.size(amount)}"
            for text in (label, name, *(".".join(name.split(".")[-n:]) for n in (2, 1))):
                if canvas.fits(text, fw - 8, 10):
                    canvas.text(fx + 4, fy + 12, text, INK, 10)
                    break
        parts_sorted = sorted(modules[name].items(), key=lambda item: (-item[1], item[0]))
        inner = squarify([float(v) for _, v in parts_sorted], fx + 1, fy + head + 1, fw - 3.5, fh - head - 3.5)
        for ((category, op), size), (x, y, w, h) in zip(parts_sorted, inner, strict=True):
            title = f"{name}: {category} of {op or '-'}, {report.size(size)}"
            canvas.rect(x, y, max(w - 0.7, 0.3), max(h - 0.7, 0.3), COLORS[category], title=title)
            for n, text in enumerate((op, report.size(size))):
                if h > 13 * (n + 1) + 3 and canvas.fits(text, w - 6, 9):
                    canvas.text(x + 3, y + 11 + 12 * n, text, INK, 9)


def timeline_svg(tables: Comparison, height: int = 360) -> str:
    """The timeline as SVG text."""
    canvas = Svg(_WIDTH, height)
    draw_timeline(tables, canvas, height)
    return canvas.finish().decode()


def treemap_svg(tables: Comparison, height: int = 420) -> str:
    """The treemap as SVG text."""
    canvas = Svg(_WIDTH, height)
    draw_treemap(tables, canvas, height)
    return canvas.finish().decode()


def png(tables: Comparison, what: str) -> bytes:
    """The "timeline" or the "treemap" as a PNG file."""
    height = 360 if what == "timeline" else 420
    canvas = Png(_WIDTH, height)
    (draw_timeline if what == "timeline" else draw_treemap)(tables, canvas, height)
    return canvas.finish()
