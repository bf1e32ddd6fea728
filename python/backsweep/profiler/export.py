"""A capture written as a file for people or for other tools."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

from .. import errors
from ..memory import CATEGORIES
from . import html
from .capture import WORK
from .compare import Comparison
from .drawing import drawn

FORMATS = ("html", "json", "csv", "perfetto", "svg", "png", "treemap.svg", "treemap.png", "pareto.svg", "pareto.png")


def write(tables: Comparison, path: Path, format: str | None) -> Path:
    """Write one of FORMATS; by the file's ending when not given.

    Raises: ValueError when there is no such format.
    """
    name = path.name.lower()
    if format is None:
        double = ("perfetto.json", *(f for f in FORMATS if "." in f))
        ending = next((end for end in double if name.endswith(f".{end}")), path.suffix.lower().lstrip("."))
        ending = ending.removesuffix(".json")
        format = {"htm": "html"}.get(ending, ending)
    if format not in FORMATS:
        raise errors.ValueError(f"profile.export: format '{format}'; one of {', '.join(FORMATS)} is needed")
    if format == "html":
        data = html.page(tables).encode()
    elif format == "json":
        data = json.dumps(tables.to_dict(), indent=1).encode()
    elif format == "csv":
        data = table_csv(tables.peak()).encode()
    elif format == "perfetto":
        data = json.dumps(perfetto(tables), separators=(",", ":")).encode()
    else:
        what, _, kind = format.rpartition(".")
        data = drawn(tables, what or "timeline", kind)
    path.write_bytes(data)
    return path


def table_csv(rows: list[dict[str, Any]]) -> str:
    """Rows with their names on top."""
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def perfetto(tables: Comparison) -> dict[str, Any]:
    """Chrome's trace format, which ui.perfetto.dev opens: a counter a category, a slice an op; replays are named so."""
    micros = tables.seconds * 1e6
    events: list[dict[str, Any]] = [
        {"ph": "M", "pid": 1, "name": "process_name", "args": {"name": "backsweep"}},
    ]
    for thread in sorted({int(s["thread"]) for s in tables.spans}):
        events.append({"ph": "M", "pid": 1, "tid": thread, "name": "thread_name", "args": {"name": f"work {thread}"}})
    for number, category in enumerate(CATEGORIES):
        column = tables.live[:, number]
        changed = [i for i in range(len(column)) if i == 0 or column[i] != column[i - 1]] if column.any() else []
        for i in changed:
            events.append(
                {"ph": "C", "pid": 1, "name": category, "ts": float(micros[i]), "args": {"bytes": int(column[i])}}
            )
    for span in tables.spans:
        op, work = tables.names[span["op"]], WORK[span["work"]]
        events.append(
            {
                "ph": "X",
                "pid": 1,
                "tid": int(span["thread"]),
                "name": f"recompute {op}" if work == "replay" else op,
                "cat": work,
                "ts": 1e6 * span["from"],
                "dur": 1e6 * (span["until"] - span["from"]),
                "args": {"module": tables.names[span["module"]], "line": tables.names[span["line"]], "flops": int(span["flops"])},
            }
        )
    for step in tables.steps():
        events.append({"ph": "i", "s": "g", "pid": 1, "tid": 0, "name": f"step {step['step']} ends", "ts": 1e6 * step["until"]})
    return {"traceEvents": events, "displayTimeUnit": "ms"}
