"""Trials: while a script trains, one step is taken down for the planner, and a few run under budgets of its plans.

A step has the same bits under any budget, so the training does not notice; where a budget cannot be kept, it is lifted. Steps
on trial are named in the capture, and left out of its peak and its times.
"""

from __future__ import annotations

from typing import Any

from .. import _core, errors

# Steps as they are before the first that is taken down: by then an optimizer has its state.
_WARM = 2
# Steps under one budget: the first two are planned as they begin, the fastest of the others is what the budget costs.
REPEATS, PLANNING = 5, 2
# Between the least feasible peak, 0, and the peak when nothing is dropped, 1; in the order of being tried.
SHARES = (0.5, 0.1, 0.75, 0.25)


class Trials:
    """What happens at the end of each step of a run, until all budgets have been tried."""

    def __init__(self) -> None:
        self._steps, self._seen, self._waiting = 0, _core.steps_seen(), True
        self._before, self.device = dict(_core.memory_devices()), "cpu"
        self._watch: _core.Watch | None = None
        self._budget: _core.Budget | None = None
        self._todo: list[int] = []
        self.steps: list[int] = []
        self.rungs: list[dict[str, Any]] = []
        self.tape: _core.Tape | None = None

    def step_ended(self) -> None:
        """A step of the run has ended: set up the next one."""
        self._steps += 1
        if self._waiting and self._steps >= _WARM:
            self._waiting = False
            asked = {name: size - self._before.get(name, 0) for name, size in _core.memory_devices()}
            self.device = max(asked, key=lambda name: asked[name])
            # A run with a budget of its own is left alone: its steps are taken down anyhow.
            budgets = [_core.memory_stats(name)["budget"] for name in asked]
            if not any(budgets) and _core.steps_seen() == self._seen:
                self._watch = _core.watch_steps(self.device)
        elif self._watch is not None:
            self.steps.append(self._steps)
            self.tape, self._watch = self._watch.end(), None
            if self.tape is not None:
                least, most = self.tape.least().peak, self.tape.peak
                self._todo = [least + int((most - least) * share) for share in SHARES if most > least]
                self._next()
        elif self._budget is not None:
            self.steps.append(self._steps)
            rung, plan = self.rungs[-1], _core.current_plan()
            rung["steps"].append(self._steps)
            rung["kept"] &= _core.memory_stats(self.device)["budget"] == rung["budget_bytes"]
            if plan is not None:
                rung["planned_peak_bytes"] = plan.peak
                rung["planned_overhead"] = plan.recompute / plan.base if plan.base else 0.0
            if len(rung["steps"]) == REPEATS:
                self._lift()
                self._next()

    def _next(self) -> None:
        if not self._todo:
            # The step after the last still holds what that one recorded for replays.
            self.steps.append(self._steps + 1)
        while self._todo and self._budget is None:
            size = self._todo.pop(0)
            try:
                self._budget = _core.set_budget(size, self.device, True)
            except errors.OutOfMemoryError:
                continue
            self.rungs.append(
                {"budget_bytes": size, "steps": [], "kept": True, "planned_peak_bytes": None, "planned_overhead": None}
            )

    def _lift(self) -> None:
        if self._budget is not None:
            self._budget.restore()
            self._budget = None

    def end(self) -> dict[str, Any]:
        """The run is over: everything as it was, and what the capture is to know."""
        # A step that has only begun is on trial as well.
        if self._budget is not None or self._watch is not None:
            self.steps.append(self._steps + 1)
        self._lift()
        if self._watch is not None:
            self._watch.end()
            self._watch = None
        tape, device = (self.tape, self.device) if self.tape else (_core.latest_tape(self._seen), _core.steps_device())
        facts: dict[str, Any] = {"trial_steps": self.steps, "trials": [rung for rung in self.rungs if rung["steps"]]}
        return facts if tape is None else {**facts, "tape": tape.json(), "tape_device": device}
