"""The report: one HTML file that needs no network. Python bins the events and fills in the data; page.html draws it.

However many events there are, the page holds at most `MOST_BINS` moments: the fullest of each equal run of events.
"""

from __future__ import annotations

import base64
import json
import zlib
from html import escape
from importlib import resources
from typing import Any

import numpy as np

from ..memory import CATEGORIES
from . import picture, report
from .capture import BACKWARD, FORWARD, OPTIMIZER, REPLAY, WORK
from .compare import Comparison

MOST_BINS = 1 << 17
_MOST_ROWS = 3000
_MOST_OPS = 20_000


def _packed(array: np.ndarray) -> str:
    return base64.b64encode(zlib.compress(np.ascontiguousarray(array).tobytes(), 6)).decode()


def _rounded(rows: list[dict[str, Any]], names: tuple[str, ...]) -> list[list[Any]]:
    def cell(value: Any) -> Any:
        return float(f"{value:.4g}") if isinstance(value, float) else value

    return [[cell(row.get(name)) for name in names] for row in rows]


def _table(rows: list[dict[str, Any]], names: tuple[str, ...]) -> dict[str, Any]:
    return {"names": names, "rows": _rounded(rows[:_MOST_ROWS], names), "count": len(rows)}


def data(tables: Comparison) -> dict[str, Any]:
    """What the page draws, as JSON."""
    at = tables.fullest(MOST_BINS)
    live = tables.live[at]
    used = [i for i in range(len(CATEGORIES)) if live[:, i].any()]
    start, end, _ = tables.window()
    ops = [
        [round(s["from"], 7), round(s["until"], 7), WORK[s["work"]], s["op"], s["module"], s["line"]]
        for s in tables.spans
        if s["work"] in (FORWARD, BACKWARD, REPLAY, OPTIMIZER) and s["until"] >= start and s["from"] <= end
    ][:_MOST_OPS]
    block = ("bytes", "category", "op", "module", "line", "why", "ops_away", "recompute_seconds", "seconds_per_mib", "since", "until", "maker")
    order = [c for c in picture.COLORS if CATEGORIES.index(c) in used]
    return {
        "summary": tables.summary(),
        "colors": picture.COLORS,
        "phase_colors": picture.PHASES,
        "timeline": {
            "count": len(at),
            "events": len(tables.events),
            "categories": order,
            "seconds": _packed(tables.seconds[at].astype(np.float64)),
            # One row a category; in KiB, so that a float is exact enough.
            "live": _packed((live[:, [CATEGORIES.index(c) for c in order]].T / 1024).astype(np.float32)),
            "phases": [[round(p["from"], 7), round(p["until"], 7), p["phase"]] for p in tables.phases],
            "steps": [round(s["until"], 7) for s in tables.steps()],
            "window": [start, end],
            "ops": ops,
            "names": tables.names if ops else [],
            "limit": tables.limit_at(tables.peak_at),
        },
        "treemap": picture.treemap_svg(tables),
        "peak": _table(tables.peak(), block),
        "saved": _table(
            sorted(
                (r for r in tables.saved() if r["category"] == "activation" and r["seconds_per_mib"] is not None),
                key=lambda r: r["seconds_per_mib"],
            ),
            block,
        ),
        "layers": _table(
            tables.layers(),
            (
                "module",
                "parameter_bytes",
                "gradient_bytes",
                "optimizer_bytes",
                "saved_bytes",
                "saved_inclusive_bytes",
                "peak_bytes",
                "forward_seconds",
                "backward_seconds",
                "replay_seconds",
                "recompute_seconds",
                "forward_flops",
            ),
        ),
        "replays": _table(tables.replays(), ("seconds", "count", "flops", "op", "module", "line")),
        "steps": _table(
            tables.steps(),
            ("step", "peak_bytes", "forward_seconds", "backward_seconds", "replay_seconds", "optimizer_seconds"),
        ),
        "explain": _explained(tables, block),
        "pareto": tables.pareto(),
    }


def _explained(tables: Comparison, names: tuple[str, ...]) -> dict[str, Any] | None:
    refused = tables.explain()
    if refused is None:
        return None
    return {"text": report.out_of_memory_line(refused), "table": _table(refused["rows"], names)}


def page(tables: Comparison) -> str:
    """The whole file."""
    # "<" never ends the script element early.
    text = json.dumps(data(tables), separators=(",", ":"), default=str).replace("<", "\\u003c")
    template = resources.files(__package__).joinpath("page.html").read_text(encoding="utf-8")
    return template.replace("/*DATA*/null", text)


def fragment(tables: Comparison, svg: str) -> str:
    """A notebook's display: the summary and the timeline."""
    text = escape(report.summary(tables.summary()))
    return f'<div style="max-width:1000px">{svg}<pre style="line-height:1.25">{text}</pre></div>'
