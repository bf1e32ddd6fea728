"""From a capture to tables. Rows are plain dicts, so that `pandas.DataFrame(rows)` is a table; sizes are in bytes, times in
seconds since the capture began. Nothing here formats.
"""

from __future__ import annotations

import bisect
import shlex
import statistics
from functools import cached_property

import numpy as np

from ..memory import CATEGORIES
from .blocks import Blocks
from .capture import DONE, FORWARD, LIMIT, NEED, OPTIMIZER, PRESENT, REFUSED, REPLAY, SCHEMA, STEP, SWEEP
from .groups import grouped
from .ledger import Row
from .pareto import TradeOff
from .work import clock, own_seconds

# Steps that a picture shows; of more, those around the peak.
_MOST_STEPS = 5
# Facts that are no use to a reader.
_LARGE = ("tape",)
_CLOCKS = ("forward_seconds", "backward_seconds", "replay_seconds", "optimizer_seconds")


class Comparison(Blocks):
    """The tables of one capture."""

    def peak(self, group_by: str | None = None) -> list[Row]:
        """What was alive at the peak, block by block or grouped; the bytes of the rows sum to the peak.

        Raises: ValueError when there is no such group.
        """
        return grouped(self.alive(self.peak_at), group_by)

    @cached_property
    def saved_at(self) -> int:
        """The event with the most activation bytes alive, once it is known who needs them."""
        if not len(self.events):
            return -1
        kind = self.events["kind"]
        activation = np.where(self.on_trial, -1, self.live[:, CATEGORIES.index("activation")])
        first = int(np.argmax(activation))
        # A block becomes an activation a little before its node says that it needs it.
        over = np.flatnonzero((activation[first:] != activation[first]) | (kind[first:] == DONE))
        last = first + int(over[0]) if len(over) else len(kind)
        needs = np.flatnonzero(kind[first:last] == NEED)
        return first + int(needs[-1]) if len(needs) else first

    @property
    def saved_bytes(self) -> int:
        """The most activation bytes that were ever alive."""
        return int(self.live[self.saved_at, CATEGORIES.index("activation")]) if len(self.events) else 0

    def saved(self, group_by: str | None = None) -> list[Row]:
        """What the graph keeps for the sweep, at the moment when that is most."""
        return grouped([row for row in self.alive(self.saved_at) if row["needs"]], group_by)

    def steps(self) -> list[Row]:
        """One row a step: peak bytes, and seconds by kind of work; `trial` says that the profiler set it a budget."""
        return [dict(row) for row in self._steps]

    @cached_property
    def _steps(self) -> list[Row]:
        e, at = self.events, self.step_ends
        ends = [float(self.seconds[i]) for i in at]
        rows: list[Row] = [
            {"step": int(e["id"][i]), "peak_bytes": int(e["number"][i]), "from": start, "until": end, "events": True}
            | {"trial": bool(self.on_trial[i]), "busy_seconds": 0.0}
            | dict.fromkeys(_CLOCKS, 0.0)
            for i, start, end in zip(at, [0.0, *ends], ends, strict=False)
        ]
        for row, i, before in zip(rows, at.tolist(), [-1, *at.tolist()], strict=False):
            row["events"] = i - before > 1
        for span in self.spans:
            row_at = bisect.bisect_right(ends, span["from"])
            if row_at < len(rows):
                row = rows[row_at]
                row[clock(span)] += own_seconds(span)
                # Spans come in order: the first of a step says when it began to work.
                row["busy_seconds"] = row["busy_seconds"] or row["until"] - span["from"]
        if self.timed:
            # The CPU only records, and runs ahead.
            for row in rows:
                row["busy_seconds"] = sum(row[name] for name in _CLOCKS)
        return rows

    def work(self) -> Row:
        """Seconds and FLOPs by kind of work, over the whole capture, steps on trial left out."""
        totals: Row = dict.fromkeys(_CLOCKS, 0.0)
        totals["forward_flops"] = totals["replay_flops"] = 0
        for span in self._asked_for:
            totals[clock(span)] += own_seconds(span)
            if span["work"] == FORWARD and span["parent"] < 0:
                totals["forward_flops"] += int(span["flops"])
            if span["work"] == REPLAY:
                totals["replay_flops"] += int(span["flops"])
        useful = totals["forward_seconds"] + totals["backward_seconds"] + totals["optimizer_seconds"]
        totals["recompute_share"] = totals["replay_seconds"] / useful if useful else 0.0
        return totals

    def _usual_step(self, steps: list[Row]) -> Row | None:
        """The median of the steps, those on trial and the first left out where there are others; None without any."""
        usual = [row for row in steps if not row["trial"] and row["events"]]
        usual = usual[1:] or usual
        if not usual:
            return None
        found: Row = {name: statistics.median(row[name] for row in usual) for name in _CLOCKS}
        found["seconds"] = statistics.median(row["busy_seconds"] for row in usual)
        return found

    @property
    def _asked_for(self) -> list[Row]:
        """The work of all steps but those on trial."""
        return [s for s in self.spans if not self.on_trial[s["begin"]]] if self.trial_steps else self.spans

    def layers(self) -> list[Row]:
        """One row a module path: bytes at the peak and kept for the sweep, seconds and FLOPs; own and inclusive."""
        empty: Row = dict.fromkeys(
            ("parameter_bytes", "gradient_bytes", "optimizer_bytes", "peak_bytes", "saved_bytes", "saved_inclusive_bytes"),
            0,
        )
        empty |= dict.fromkeys(("forward_seconds", "backward_seconds", "replay_seconds"), 0.0)
        empty |= {"forward_flops": 0, "ops": 0, "recompute_seconds": 0.0}
        table: dict[str, Row] = {}

        def at(module: str) -> Row:
            return table.setdefault(module, {"module": module, **empty})

        for row in self.alive(self.peak_at):
            layer = at(row["module"])
            layer["peak_bytes"] += row["bytes"]
            if (name := f"{row['category']}_bytes") in layer:
                layer[name] += row["bytes"]
        for row in grouped([r for r in self.saved() if r["category"] == "activation"], "module"):
            at(row["module"])["saved_bytes"] = row["bytes"]
            at(row["module"])["recompute_seconds"] = row["recompute_seconds"]
        for span in self._asked_for:
            if span["work"] not in (OPTIMIZER, SWEEP):
                layer = at(self.names[span["module"]])
                layer[clock(span)] += own_seconds(span)
                if span["work"] == FORWARD:
                    layer["forward_flops"] += int(span["flops"])
                    layer["ops"] += 1
        for module, row in list(table.items()):
            for outer in _around(module):
                at(outer)["saved_inclusive_bytes"] += row["saved_bytes"]
        return [table[module] for module in sorted(table, key=_natural)]

    def replays(self) -> list[Row]:
        """Each value brought back by running its op again: how often, seconds, FLOPs; by module and op."""
        table: dict[tuple[int, int, int], Row] = {}
        for span in self._asked_for:
            if span["work"] == REPLAY:
                key = (span["module"], span["op"], span["line"])
                module, op, line = (self.names[i] for i in key)
                row = table.setdefault(
                    key, {"module": module, "op": op, "line": line, "count": 0, "seconds": 0.0, "flops": 0}
                )
                row["count"] += 1
                row["seconds"] += own_seconds(span)
                row["flops"] += int(span["flops"])
        return sorted(table.values(), key=lambda r: -r["seconds"])

    def timeline(self, bins: int = 1000, between: tuple[float, float] | None = None) -> list[Row]:
        """Live bytes by category over time.

        The fullest moment of each of so many equal runs of events, or of each equal span of time between two moments.
        """
        rows = []
        moments = self.fullest(bins) if between is None else self.columns(*between, bins)
        for at in moments.tolist() if len(self.events) else ():
            row: Row = {"seconds": float(self.seconds[at]), "live": int(self.total[at]), "phase": self.phase_at(at)}
            row |= {name: int(size) for name, size in zip(CATEGORIES, self.live[at], strict=True)}
            rows.append(row)
        return rows

    def window(self) -> tuple[float, float, str]:
        """The span of time that a picture shows, and its name: all from the first event on, or the steps around the peak."""
        if not len(self.events):
            return 0.0, 0.0, "an empty capture"
        begun = np.flatnonzero(~np.isin(self.events["kind"], (LIMIT, PRESENT)))
        end = float(self.seconds[-1])
        start = float(self.seconds[begun[0]]) if len(begun) else 0.0
        steps = [s for s in self._steps if s["events"]]
        if len(steps) <= _MOST_STEPS:
            return start, end, f"{len(steps)} step{'s' * (len(steps) != 1)}" if steps else "the whole capture"
        at = min(self.step_at(self.peak_at), len(steps)) - 1
        first, last = max(at - 1, 0), min(at + 1, len(steps) - 1)
        # A step on trial has another peak, and would only puzzle beside those that count.
        first, last = (at if steps[first]["trial"] else first), (at if steps[last]["trial"] else last)
        name = f"steps {steps[first]['step']} to {steps[last]['step']} of {len(steps)}" if last > first else f"step {steps[at]['step']} of {len(steps)}"
        return max(float(steps[first]["from"]), start), float(steps[last]["until"]), name

    def step_at(self, moment: int) -> int:
        """The number of the step that a moment lies in, from 1."""
        return 1 + int(np.count_nonzero(self.events["kind"][:moment] == STEP))

    def summary(self) -> Row:
        """The capture on one screen."""
        e = self.events
        at = self.peak_at
        by_category = dict.fromkeys(CATEGORIES, 0)
        where: Row = {}
        if at >= 0:
            by_category = {name: int(size) for name, size in zip(CATEGORIES, self.live[at], strict=True)}
            thread = e["thread"][at : at + 1].astype(np.int64)
            span_at = int(self._span_at(np.array([at]), thread)[0])
            names = self.spans[span_at] if span_at >= 0 else e[at]
            where = {name: self.names[names[name]] for name in ("op", "module", "line")}
            where |= {"seconds": float(self.seconds[at]), "step": self.step_at(at), "phase": self.phase_at(at)}
        steps = self._steps
        on_trial = [row for row in steps if row["trial"]]
        refusal = self.explain()
        return {
            "schema": SCHEMA,
            "view": "summary",
            "facts": {name: fact for name, fact in self.capture.facts.items() if name not in _LARGE},
            "whole": self.capture.whole,
            "events": len(e),
            "seconds": float(self.seconds[-1]) if len(e) else 0.0,
            "device": self.capture.device,
            "device_peaks": self.peaks,
            "times_of": self.capture.device if self.timed else "cpu",
            "steps": len(steps) - len(on_trial),
            "trial_steps": len(on_trial),
            "peak_bytes": self.peak_bytes,
            "peak_by_category": by_category,
            "peak_where": where,
            "unknown_bytes": int(self.unknown.max(initial=0)),
            "saved_bytes": self.saved_bytes,
            "end_bytes": int(self.total[-1]) if len(e) else 0,
            "limit_bytes": self.limit_at(at),
            "out_of_memory": None if refusal is None else {k: v for k, v in refusal.items() if k != "rows"},
            "step": self._usual_step(steps),
            "modules": grouped(self.peak(), "module")[:8],
            "budgets": self._advice(),
            **self.work(),
        }

    def explain(self) -> Row | None:
        """The last allocation that was refused, and all that was alive then; None when none was."""
        at = np.flatnonzero(self.events["kind"] == REFUSED)
        if not len(at):
            return None
        moment = int(at[-1])
        event = self.events[moment]
        return {
            "asked_bytes": int(event["number"]),
            "live_bytes": int(self.total[moment]),
            "limit_bytes": self.limit_at(moment),
            "op": self.names[event["op"]],
            "module": self.names[event["module"]],
            "line": self.names[event["line"]],
            "step": self.step_at(moment),
            "phase": self.phase_at(moment),
            "rows": self.alive(moment),
            "ways_out": self._ways_out(),
            "budgets": self._advice(),
        }

    def _ways_out(self) -> list[str]:
        """What the error said would help, and where to learn more."""
        lines = str(self.capture.facts.get("error", "")).splitlines()
        said = next((i for i, line in enumerate(lines) if line.startswith("help: ")), len(lines))
        ways = lines[said].removeprefix("help: ").split("; ") if said < len(lines) else []
        # What the engine knows of budgets comes after, a line each.
        ways += [line.removeprefix("help: ").strip() for line in lines[said + 1 :]]
        command = [str(word) for word in self.capture.facts.get("command") or ()]
        script = shlex.join(command) if command and command[0].endswith(".py") else "SCRIPT"
        if self.trade_off is not None:
            ways.append("a budget, such as `with bs.memory.budget(bytes):` around the training, at these costs:")
        elif not any("least budget found" in way for way in ways):
            ways.append(f"a budget: `backsweep profile forecast --budgets {script}` tells the least one, without running it")
        return ways

    @cached_property
    def trade_off(self) -> TradeOff | None:
        """Budgets and what they cost, where the run has taken a step down for the planner."""
        facts = self.capture.facts
        known = "tape" in facts and facts.get("tape_device", "cpu") == self.capture.device
        return TradeOff(self.capture, self._steps, self.peak_bytes) if known else None

    def pareto(self) -> list[Row]:
        """Budget against recomputation, the largest budget first; empty when the run has taken no step down."""
        return [] if self.trade_off is None else self.trade_off.rows

    def _advice(self) -> list[Row]:
        """A few budgets and their costs: half way to the knee, at the knee, and the least."""
        if self.trade_off is None:
            return []
        rows, knee = self.trade_off.rows, self.trade_off.knee
        picked = [i for i in sorted({knee // 2, knee, len(rows) - 1}) if rows[i]["overhead"] > 0]
        names = ("budget_bytes", "overhead", "measured_overhead")
        return [{name: rows[i][name] for name in names} | {"of_bytes": self.trade_off.tape.peak} for i in picked]

    def to_dict(self) -> Row:
        """All tables; JSON can hold them."""
        tables: Row = {
            **self.summary(),
            "view": "all",
            "peak": self.peak(),
            "layers": self.layers(),
            "saved": self.saved(),
            "replays": self.replays(),
            "step_table": self.steps(),
            "phases": self.phases,
            "timeline": self.timeline(),
        }
        if (explained := self.explain()) is not None:
            tables["explain"] = explained
        if self.trade_off is not None:
            tables["pareto"] = self.trade_off.to_dict()
        return tables


def _around(module: str) -> list[str]:
    """"a.b.c" → "a.b.c", "a.b", "a"."""
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(len(parts), 0, -1)]


def _natural(module: str) -> list[tuple[int, int, str]]:
    return [(1, int(p), "") if p.isdigit() else (0, 0, p) for p in module.split(".")]
