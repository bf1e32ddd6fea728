"""Budget against recomputation: what each budget would cost, by the planner and by other methods, and what it did cost.

The one place where the profiler asks the planner. The step is one that the run has taken down (see trials.py); the cost of
the other methods is that of their plans for the same step.
"""

from __future__ import annotations

import statistics
from functools import cached_property
from typing import Any

from .. import _core
from .capture import Capture
from .trials import PLANNING, REPEATS

Row = dict[str, Any]

# Our names for what the planner calls them.
METHODS = {"every_sqrt": "checkpoints", "dtr": "h_DTR"}
_RUNGS = 8


class TradeOff:
    """The Pareto table of a step, and what each of its plans drops."""

    def __init__(self, capture: Capture, steps: list[Row], peak_bytes: int) -> None:
        self._peak_bytes = peak_bytes
        self.tape = _core.Tape.from_json(capture.facts["tape"])
        self._trials: list[Row] = capture.facts.get("trials", [])
        self._free_steps: list[int] = capture.facts.get("trial_free_steps", [])
        self._steps = {row["step"]: row for row in steps}

    @cached_property
    def _plans(self) -> list[tuple[int, _core.Plan]]:
        least, peak = self.tape.least(), self.tape.peak
        budgets = {least.peak + (peak - least.peak) * i // _RUNGS for i in range(_RUNGS + 1)}
        tried = {rung["budget_bytes"] for rung in self._trials if least.peak <= rung["budget_bytes"] <= peak}
        # A budget that is nearly one that was tried says nothing more.
        near = (peak - least.peak) // (4 * _RUNGS)
        budgets = {b for b in budgets if all(abs(b - t) > near for t in tried)} | tried
        wanted = sorted(budgets, reverse=True)
        found = zip(wanted, self.tape.ladder(wanted), strict=True)
        # Only a search finds the lowest peak again.
        return [(budget, plan or least) for budget, plan in found if plan or budget == least.peak]

    def _seconds(self, numbers: list[int]) -> float | None:
        found = [self._steps[n]["busy_seconds"] for n in numbers if n in self._steps]
        # The work is the same each time: what takes longer is the machine, or a plan being made.
        return min(found, default=None)

    @cached_property
    def step_seconds(self) -> float | None:
        """The fastest step without a budget of those that took turns with the budgets.

        In a run that was too short for them: the fastest of as many others, the first two left out, by the median of such runs.
        The fastest of all would be faster than the fastest of three on a machine that has other work.
        """
        in_turns = self._seconds(self._free_steps[PLANNING:])
        if in_turns is not None:
            return in_turns
        numbers, few = [n for n, row in self._steps.items() if not row["trial"] and n > 2], REPEATS - PLANNING
        runs = [numbers[i : i + few] for i in range(0, max(len(numbers) - few + 1, 1), few)]
        found = [seconds for run in runs if (seconds := self._seconds(run)) is not None]
        return statistics.median(found) if found else None

    @cached_property
    def rows(self) -> list[Row]:
        """One row a budget, the largest first. Overheads are shares of a step's seconds; None where there is no plan."""
        base, rows = self.tape.seconds, []
        tried = {rung["budget_bytes"]: rung for rung in self._trials if rung["kept"]}
        for budget, plan in self._plans:
            methods = self.tape.methods(budget, list(METHODS.values()))
            others = {name: methods[known] for name, known in METHODS.items()}
            row: Row = {
                "budget_bytes": budget,
                "peak_bytes": plan.peak,
                "overhead": plan.recompute / base,
                "recompute_seconds": plan.recompute,
                "keep_all": 0.0 if self.tape.peak <= budget else None,
            }
            row |= {name: None if found is None else found[1] / base for name, found in others.items()}
            rows.append({**row, **self._measured(tried.get(budget))})
        return rows

    def _measured(self, rung: Row | None) -> Row:
        names = ("planned_peak_bytes", "measured_peak_bytes", "measured_seconds", "measured_overhead")
        row: Row = dict.fromkeys(names)
        known = [] if rung is None else [self._steps[n] for n in rung["steps"] if n in self._steps]
        if rung is None or not known:
            return row
        row["planned_peak_bytes"] = rung["planned_peak_bytes"]
        row["measured_peak_bytes"] = known[-1]["peak_bytes"]
        seconds = self._seconds(rung["steps"][PLANNING:])
        if seconds is not None and self.step_seconds:
            row |= {"measured_seconds": seconds, "measured_overhead": seconds / self.step_seconds - 1}
        return row

    @cached_property
    def dropped(self) -> list[list[Row]]:
        """For each row: what its plan drops, summed by module and op."""
        tables = []
        for _, plan in self._plans:
            table: dict[tuple[str, str, str], Row] = {}
            for value in self.tape.dropped(plan):
                key = (value["module"], value["op"], value["state"])
                row = table.setdefault(key, dict(zip(("module", "op", "state"), key, strict=True)) | {"values": 0, "bytes": 0, "seconds": 0.0})
                row["values"] += 1
                row["bytes"] += value["bytes"]
                row["seconds"] += value["seconds"]
            tables.append(sorted(table.values(), key=lambda r: -r["bytes"]))
        return tables

    @cached_property
    def knee(self) -> int:
        """The row after which less memory begins to cost much: the farthest from the line between the ends."""
        sizes = [r["budget_bytes"] for r in self.rows]
        costs = [r["overhead"] for r in self.rows]
        wide, high = max(sizes[0] - sizes[-1], 1), max(costs[-1] - costs[0], 1e-12)
        saved = [(sizes[0] - s) / wide - (c - costs[0]) / high for s, c in zip(sizes, costs, strict=True)]
        return saved.index(max(saved))

    def to_dict(self) -> Row:
        """The table, and what holds for all of it."""
        return {
            "run_peak_bytes": self._peak_bytes,
            "step_peak_bytes": self.tape.peak,
            "step_base_bytes": self.tape.base,
            "least_bytes": self._plans[-1][1].peak,
            "bound_bytes": self.tape.bound(),
            "step_seconds": self.step_seconds,
            "model_seconds": self.tape.seconds,
            "knee": self.knee,
            "rows": self.rows,
        }
