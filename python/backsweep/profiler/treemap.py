"""The picture of the peak: a field a module, in it a field for each category and op, its area the bytes."""

from __future__ import annotations

from . import report
from .canvas import Canvas
from .compare import Comparison
from .picture import COLORS, INK, PAPER, TITLE, WIDTH, legend


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
            some = [a for a in areas[at : n + 1] if a > 0]
            worst = max((max(thick * thick / a, a / (thick * thick)) for a in some), default=0.0)
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
    canvas.rect(0, 0, WIDTH, height, PAPER)
    modules: dict[str, dict[tuple[str, str], int]] = {}
    rows = tables.peak()
    for row in rows:
        parts = modules.setdefault(row["module"] or "(no module)", {})
        key = (row["category"], row["op"])
        parts[key] = parts.get(key, 0) + row["bytes"]
    order = sorted(((sum(parts.values()), name) for name, parts in modules.items()), key=lambda item: (-item[0], item[1]))
    order = [(amount, name) for amount, name in order if amount > 0]
    canvas.text(10, 18, f"the peak by module: {report.size(tables.peak_bytes)}", TITLE, 13)
    seen = {row["category"] for row in rows}
    legend(canvas, 300, 18, {c: COLORS[c] for c in COLORS if c in seen})
    fields = squarify([amount for amount, _ in order], 8, 30, WIDTH - 16, height - 38)
    for (amount, name), (fx, fy, fw, fh) in zip(order, fields, strict=True):
        if fw < 1 or fh < 1:
            continue
        head = 16 if fh > 34 and fw > 40 else 0
        canvas.rect(fx, fy, fw - 1.5, fh - 1.5, "#e4e7ea")
        if head:
            label = f"{name} {report.size(amount)}"
            for text in (label, name, *(".".join(name.split(".")[-n:]) for n in (2, 1))):
                if canvas.long(text, 10) <= fw - 8:
                    canvas.text(fx + 4, fy + 12, text, INK, 10)
                    break
        parts_sorted = sorted(modules[name].items(), key=lambda item: (-item[1], item[0]))
        # A field of a few points has no room for its border.
        wide, high = max(fw - 3.5, 0.3), max(fh - head - 3.5, 0.3)
        inner = squarify([float(v) for _, v in parts_sorted], fx + 1, fy + head + 1, wide, high)
        for ((category, op), size), (x, y, w, h) in zip(parts_sorted, inner, strict=True):
            title = f"{name}: {category} of {op or '-'}, {report.size(size)}"
            canvas.rect(x, y, max(w - 0.7, 0.3), max(h - 0.7, 0.3), COLORS[category], title=title)
            for n, text in enumerate((op, report.size(size))):
                if h > 13 * (n + 1) + 3 and canvas.long(text, 9) <= w - 6:
                    canvas.text(x + 3, y + 11 + 12 * n, text, INK, 9)
