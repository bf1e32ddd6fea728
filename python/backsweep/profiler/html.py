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
from . import curve, picture, report
from .capture import BACKWARD, FORWARD, OPTIMIZER, REPLAY, WORK
from .compare import Comparison
from .drawing import drawn

MOST_BINS = 1 << 17
_MOST_ROWS = 3000
_MOST_OPS = 20_000
_MOST_PHASES = 30_000
_MOST_DROPPED = 300


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
            "phases": _phases(tables),
            "steps": [round(s["until"], 7) for s in tables.steps()],
            "trials": _trials(tables),
            "window": [start, end],
            "ops": ops,
            "names": tables.names if ops else [],
            "limit": tables.limit_at(tables.peak_at),
        },
        "treemap": drawn(tables, "treemap", "svg").decode(),
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
            ("step", "peak_bytes", "forward_seconds", "backward_seconds", "replay_seconds", "optimizer_seconds", "trial"),
        ),
        "explain": _explained(tables, block),
        "pareto": _pareto(tables),
    }


def _phases(tables: Comparison) -> list[list[Any]]:
    """Phases as a picture can show them: of too many, those wide enough to see."""
    rows = tables.phases
    if len(rows) > _MOST_PHASES:
        least = sorted(p["until"] - p["from"] for p in rows)[-_MOST_PHASES]
        rows = [p for p in rows if p["until"] - p["from"] >= least]
    return [[round(p["from"], 7), round(p["until"], 7), p["phase"]] for p in rows]


def _trials(tables: Comparison) -> list[list[Any]]:
    """Stretches of steps on trial: from, until, and what was tried."""
    tried = {step: rung["budget_bytes"] for rung in tables.capture.facts.get("trials", ()) for step in rung["steps"]}
    rows: list[list[Any]] = []
    for step in tables.steps():
        if step["trial"]:
            budget = tried.get(step["step"])
            if rows and rows[-1][2] == budget:
                rows[-1][1] = round(step["until"], 7)
            else:
                rows.append([round(step["from"], 7), round(step["until"], 7), budget])
    return rows


def _pareto(tables: Comparison) -> dict[str, Any] | None:
    if tables.trade_off is None:
        return None
    names = ("module", "op", "state", "values", "bytes", "seconds")
    dropped = [_rounded(rows[:_MOST_DROPPED], names) for rows in tables.trade_off.dropped]
    return {
        **tables.trade_off.to_dict(),
        "names": names,
        "dropped": dropped,
        "methods": curve.METHODS,
        "colors": curve.METHOD_COLORS,
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


def fragment(tables: Comparison) -> str:
    """A notebook's display: the summary and the timeline."""
    svg = drawn(tables, "timeline", "svg").decode()
    text = escape(report.summary(tables.summary()))
    return f'<div style="max-width:1000px">{svg}<pre style="line-height:1.25">{text}</pre></div>'
