"""Trials: while a script trains, one step is taken down for the planner, and a few run under budgets of its plans.

Budgets take turns, and so does a step without one: what else the machine does meanwhile falls upon all alike.

A step has the same bits under any budget, so the training does not notice; where a budget cannot be kept, it is lifted. Steps
on trial are named in the capture, and left out of its peak and its times.
"""

from __future__ import annotations

from typing import Any

from .. import _core, errors

# Steps as they are before the first that is taken down: by then an optimizer has its state.
_WARM = 2
# Turns: in the first two, plans are made as steps begin; the fastest step of the others is what a budget costs.
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
        # Whose steps are still to come: a rung's, or those without a budget.
        self._todo: list[dict[str, Any]] = []
        self._now: dict[str, Any] | None = None
        self.steps: list[int] = []
        self.rungs: list[dict[str, Any]] = []
        self.free: dict[str, Any] = {"budget_bytes": None, "steps": []}
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
                sizes = [least + int((most - least) * share) for share in SHARES if most > least]
                self.rungs = [
                    {"budget_bytes": size, "steps": [], "kept": True, "planned_peak_bytes": None, "planned_overhead": None}
                    for size in sizes
                ]
                self._todo = [*self.rungs, self.free] * REPEATS if sizes else []
                self._next()
        elif self._now is not None:
            self.steps.append(self._steps)
            self._now["steps"].append(self._steps)
            if self._budget is not None:
                plan = _core.current_plan()
                self._now["kept"] &= _core.memory_stats(self.device)["budget"] == self._now["budget_bytes"]
                if plan is not None:
                    self._now["planned_peak_bytes"] = plan.peak
                    self._now["planned_overhead"] = plan.recompute / plan.base if plan.base else 0.0
            self._lift()
            self._next()

    def _next(self) -> None:
        self._now = None
        while self._todo and self._now is None:
            whose = self._todo.pop(0)
            if whose is not self.free:
                try:
                    self._budget = _core.set_budget(whose["budget_bytes"], self.device, True)
                except errors.OutOfMemoryError:
                    self._todo = [other for other in self._todo if other is not whose]
                    continue
            self._now = whose
        if self._now is None:
            # The step after the last still holds what that one recorded for replays.
            self.steps.append(self._steps + 1)

    def _lift(self) -> None:
        if self._budget is not None:
            self._budget.restore()
            self._budget = None

    def end(self) -> dict[str, Any]:
        """The run is over: everything as it was, and what the capture is to know."""
        # A step that has only begun is on trial as well.
        if self._now is not None or self._watch is not None:
            self.steps.append(self._steps + 1)
        self._lift()
        if self._watch is not None:
            self._watch.end()
            self._watch = None
        tape, device = (self.tape, self.device) if self.tape else (_core.latest_tape(self._seen), _core.steps_device())
        facts: dict[str, Any] = {"trial_steps": self.steps, "trials": [rung for rung in self.rungs if rung["steps"]]}
        facts["trial_free_steps"] = self.free["steps"]
        return facts if tape is None else {**facts, "tape": tape.json(), "tape_device": device}
