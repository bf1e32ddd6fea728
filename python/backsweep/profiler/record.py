"""Taking a capture: `with profile() as prof:` around steps, and what is asked of it afterwards."""

from __future__ import annotations

import json
import os
import platform
import sys
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from .. import _core, errors
from ..optim.optimizer import after_step
from . import export, html, report
from .capture import SCHEMA, Capture
from .compare import Comparison
from .groups import grouped
from .ledger import Row
from .trials import Trials

MOST_EVENTS = 4_000_000


class Profile:
    """A capture and its views. Tables are lists of dicts, with bytes and seconds."""

    def __init__(self, capture: Capture, device: str | None = None) -> None:
        self.capture, self.device = capture, device

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Profile:
        """A capture saved earlier, also by a script that crashed.

        Raises: ValueError when the file is no capture.
        """
        return cls(Capture.read(path))

    @cached_property
    def tables(self) -> Comparison:
        """Everything that can be computed from the capture."""
        return Comparison(self.capture.of(self.device or next(iter(self.capture.devices))))

    def on(self, device: str) -> Profile:
        """The views of another device's memory; without this they are of the one on which most bytes were asked for.

        Raises: ValueError when the memory of that device was not used.
        """
        self.capture.of(device)
        return Profile(self.capture, device)

    def summary(self) -> Row:
        """The run on one screen: the peak, what it was made of, and the seconds by kind of work."""
        return self.tables.summary()

    def peak(self, group_by: str | None = None) -> list[Row]:
        """Every block alive at the peak: what, whose, why alive, bytes, and the cost of making it again.

        Raises: ValueError when group_by is none of module, op, line, category, why.
        """
        return self.tables.peak(group_by)

    def layers(self) -> list[Row]:
        """One row a module path: bytes, seconds and FLOPs."""
        return self.tables.layers()

    def saved(self, group_by: str | None = None) -> list[Row]:
        """What the graph keeps for the sweep, when that is most."""
        return self.tables.saved(group_by)

    def replays(self) -> list[Row]:
        """Values brought back by running their op again, by module and op."""
        return self.tables.replays()

    def steps(self) -> list[Row]:
        """One row a step: peak bytes, and seconds by kind of work."""
        return self.tables.steps()

    def timeline(self, bins: int = 1000) -> list[Row]:
        """Live bytes by category over time."""
        return self.tables.timeline(bins)

    def explain(self) -> Row | None:
        """The allocation that was refused and all that was alive then; None when the run had enough memory."""
        return self.tables.explain()

    def pareto(self) -> list[Row]:
        """Budget against recomputation, planned and measured; empty when the capture was taken without `pareto=True`."""
        return self.tables.pareto()

    def to_dict(self) -> Row:
        """All tables, as JSON has them; `schema` names their version."""
        return self.tables.to_dict()

    def export(self, path: str | os.PathLike[str], format: str | None = None) -> Path:
        """Write a view: html, json, csv, perfetto, svg, png, treemap.svg, treemap.png,
        pareto.svg or pareto.png; by the ending when not given.

        Raises: ValueError when there is no such format.
        """
        return export.write(self.tables, Path(path), format)

    def html(self, path: str | os.PathLike[str]) -> Path:
        """Write the report: one file that needs no network."""
        return export.write(self.tables, Path(path), "html")

    def _repr_html_(self) -> str:
        return html.fragment(self.tables)

    def __str__(self) -> str:
        return report.summary(self.summary())

    def __repr__(self) -> str:
        size, count = report.size(self.tables.peak_bytes), len(self.capture.events)
        return f"<profile: peak {size}, {len(self.steps())} steps, {count} events>"


class profile(Profile):
    """Capture every block and every op of a `with` block, and answer where the memory went.

    path: a file that the capture goes to as it is taken, readable after a crash; in memory when not given.
    steps: "optimizer" ends a step with each optimizer's step, "manual" with each call of `step()` only.
    pareto: take the third step down for the planner, and run the twenty after it under budgets, to measure what they cost.
        Their numbers have the same bits as without; they are left out of the peak and of the times.
    Raises: RuntimeError when a capture runs already.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        steps: str = "optimizer",
        pareto: bool = False,
        most_events: int = MOST_EVENTS,
    ) -> None:
        if steps not in ("optimizer", "manual"):
            raise errors.ValueError(f"profile: steps='{steps}'; 'optimizer' or 'manual' is needed")
        self.path, self.mode, self.most_events = None if path is None else Path(path), steps, most_events
        self._trials = Trials() if pareto else None
        self._capture: Capture | None = None
        self.device = None

    @property
    def capture(self) -> Capture:  # type: ignore[override]
        """What was captured.

        Raises: RuntimeError before the block has ended.
        """
        if self._capture is None:
            raise RuntimeError("profile: the capture has not ended; ask after the with block")
        return self._capture

    def __enter__(self) -> profile:
        facts = {
            "schema": SCHEMA,
            "backsweep": _core.__version__,
            "python": platform.python_version(),
            "platform": platform.platform(),
            "command": sys.argv,
            "most_events": self.most_events,
            **dict(_core.cpu_info()),
        }
        text = json.dumps(facts, default=str)
        _core.trace_start(None if self.path is None else os.fspath(self.path), self.most_events, self.mode == "optimizer")
        _core.trace_facts(text)
        if self._trials is not None and self.mode == "optimizer":
            after_step.append(self._trials.step_ended)
        return self

    def step(self) -> None:
        """End a step here."""
        _core.trace_step(False)
        if self._trials is not None:
            self._trials.step_ended()

    def attach(self, name: str, value: Any) -> None:
        """Add a fact to the capture, such as the rows of a table computed during the run; JSON must hold it."""
        _core.trace_facts(json.dumps({name: value}))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._trials is not None:
            if self._trials.step_ended in after_step:
                after_step.remove(self._trials.step_ended)
            _core.trace_facts(json.dumps(self._trials.end()))
        if error is not None and not (isinstance(error, SystemExit) and not error.code):
            _core.trace_facts(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        log = _core.trace_stop() or b""
        self._capture = Capture.parse(log) if self.path is None else Capture.read(self.path)


def explain(group_by: str | None = None, device: str = "cpu") -> list[Row]:
    """Everything alive now in a device's memory, and why: for use after an out-of-memory error, without a capture.

    `visits_away` counts the vjps that a backward from the newest node runs before the one that reads the block.
    """
    needs = _core.memory_needs(device)
    rows: list[Row] = []
    for block in _core.memory_snapshot(device):
        row: Row = {**block, "block": block["id"], "needed_by": None, "visits_away": None, "recompute_seconds": None}
        del row["id"]
        readers = needs.get(block["id"], [])
        if readers:
            first = readers[0]
            row.update(needed_by=first["op"], visits_away=first["visits_away"])
            place = f" in {first['module']}" if first["module"] else f" at {first['line']}" if first["line"] else ""
            row["why"] = f"vjp of {first['op']}{place}"
        else:
            row["why"] = "a variable, or the work in progress"
        rows.append(row)
    rows.sort(key=lambda r: (-r["bytes"], r["category"], r["module"], r["op"], r["block"]))
    return grouped(rows, group_by)


