"""From a capture to tables: who is alive when, why, until when, and what it would cost to make again.

Everything is derived from the events. Rows are plain dicts, so that `pandas.DataFrame(rows)` is a table; sizes are in bytes,
times in seconds since the capture began. Nothing here formats.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import errors
from ..memory import CATEGORIES
from . import pareto
from .capture import (
    ALLOC,
    BACKWARD,
    BEGIN,
    DONE,
    END,
    FORWARD,
    FREE,
    LIMIT,
    NEED,
    OPTIMIZER,
    PLACE,
    PRESENT,
    REFUSED,
    REPLAY,
    RETAG,
    STEP,
    SWEEP,
    WORK,
    Capture,
)

SCHEMA = "backsweep.profile/1"
GROUPS = ("module", "op", "line", "category", "why")
# Steps that a picture shows; of more, those around the peak.
_MOST_STEPS = 5

Ints = npt.NDArray[np.int64]
Row = dict[str, Any]

_REASONS = {
    "parameter": "a parameter of a model",
    "buffer": "a buffer of a model",
    "gradient": "kept in .grad until the step, and zero_grad",
    "optimizer": "an optimizer's state",
    "input": "data that the program holds",
}


class Comparison:
    """The tables of one capture."""

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.events = capture.events
        self.names = capture.names

    # --- bytes over time -------------------------------------------------------------------------------------------

    @cached_property
    def live(self) -> Ints:
        """Bytes by category after each event: [events, categories]."""
        e = self.events
        change = np.zeros((len(e), len(CATEGORIES)), np.int64)
        size = e["number"].astype(np.int64)
        born = np.flatnonzero((e["kind"] == ALLOC) | (e["kind"] == PRESENT))
        freed = np.flatnonzero(e["kind"] == FREE)
        moved = np.flatnonzero(e["kind"] == RETAG)
        change[born, e["code"][born]] = size[born]
        change[freed, e["code"][freed]] = -size[freed]
        change[moved, e["code"][moved]] += size[moved]
        change[moved, e["extra"][moved]] -= size[moved]
        return np.cumsum(change, axis=0, out=change)

    @cached_property
    def total(self) -> Ints:
        """Live bytes after each event."""
        return np.asarray(self.live.sum(axis=1), np.int64)

    @cached_property
    def seconds(self) -> npt.NDArray[np.float64]:
        return np.asarray(self.events["nanos"] / 1e9, np.float64)

    @cached_property
    def peak_at(self) -> int:
        """The event with the most bytes alive, the first of them; -1 in an empty capture."""
        return int(np.argmax(self.total)) if len(self.events) else -1

    @property
    def peak_bytes(self) -> int:
        """The largest number of live bytes, the steps noted after the last full event included."""
        steps = self.events["number"][self.events["kind"] == STEP]
        return max(int(self.total.max(initial=0)), int(steps.max(initial=0)))

    @cached_property
    def limits(self) -> list[tuple[int, int]]:
        """(event, limit in bytes; 0 for none)."""
        at = np.flatnonzero(self.events["kind"] == LIMIT)
        return [(int(i), int(self.events["number"][i])) for i in at]

    def limit_at(self, moment: int) -> int | None:
        """The cap on live bytes at a moment."""
        before = [limit for at, limit in self.limits if at <= moment]
        return (before[-1] or None) if before else None

    @property
    def present_bytes(self) -> int:
        """Bytes that were alive when the capture began."""
        return int(self.events["number"][self.events["kind"] == PRESENT].sum())

    # --- work ------------------------------------------------------------------------------------------------------

    @cached_property
    def spans(self) -> list[Row]:
        """Pieces of work, in order of their beginning; `parent` is the number of the one around, -1 for none."""
        e = self.events
        at = np.flatnonzero((e["kind"] == BEGIN) | (e["kind"] == END))
        columns = [
            e[name][at].tolist() for name in ("kind", "code", "thread", "number", "op", "module", "line", "extra")
        ]
        flops_bytes = e["extra"][at].view(np.float32).tolist()
        seconds = self.seconds[at].tolist()
        spans: list[Row] = []
        stacks: dict[int, list[int]] = defaultdict(list)
        marks: dict[int, tuple[list[int], list[int]]] = defaultdict(lambda: ([], []))
        rows = zip(at.tolist(), seconds, flops_bytes, *columns, strict=True)
        for i, second, moved, kind, code, thread, number, op, module, line, _ in rows:
            stack = stacks[thread]
            if kind == BEGIN:
                spans.append(
                    {
                        "work": code,
                        "node": number - 1,
                        "op": op,
                        "module": module,
                        "line": line,
                        "begin": i,
                        "end": len(e),
                        "from": second,
                        "until": float(self.seconds[-1]),
                        "parent": stack[-1] if stack else -1,
                        "thread": thread,
                        "flops": 0,
                        "bytes": 0.0,
                        "inner": 0.0,
                    }
                )
                stack.append(len(spans) - 1)
            elif stack:
                span = spans[stack.pop()]
                span.update(end=i, until=second, flops=number, bytes=moved)
                if span["parent"] >= 0:
                    spans[span["parent"]]["inner"] += second - span["from"]
            places, tops = marks[thread]
            places.append(i)
            tops.append(stack[-1] if stack else -1)
        self._marks = {
            thread: (np.array(places), np.array(tops)) for thread, (places, tops) in marks.items()
        }
        return spans

    def _span_at(self, moments: Ints, threads: Ints) -> Ints:
        """The innermost work in progress on a thread at each moment; -1 for none."""
        _ = self.spans
        found = np.full(len(moments), -1, np.int64)
        for thread, (places, tops) in self._marks.items():
            mine = np.flatnonzero(threads == thread)
            place = np.searchsorted(places, moments[mine], "right") - 1
            found[mine] = np.where(place >= 0, tops[np.maximum(place, 0)], -1)
        return found

    @cached_property
    def _visit_of(self) -> dict[int, int]:
        """The span that is the vjp of each node."""
        return {s["node"]: i for i, s in reversed(list(enumerate(self.spans))) if s["work"] == BACKWARD}

    @cached_property
    def _op_starts(self) -> Ints:
        """Where each op application begins: forward ops and visits of the sweep."""
        starts = [s["begin"] for s in self.spans if s["work"] in (FORWARD, BACKWARD) and self.names[s["op"]] != "leaf"]
        return np.array(starts, np.int64)

    @cached_property
    def phases(self) -> list[Row]:
        """What the program did when: forward, backward, replay, optimizer, merged where nothing else lay between."""
        rows: list[Row] = []
        for span in self.spans:
            outer = span["parent"] < 0
            if span["work"] == SWEEP or (span["work"] in (FORWARD, OPTIMIZER) and outer) or span["work"] == REPLAY:
                name = "backward" if span["work"] == SWEEP else WORK[span["work"]]
                last = rows[-1] if rows else None
                # Replays with other work between them stay apart; forward ops are one phase, whatever Python does between.
                near = name in ("forward", "optimizer") or (name == "replay" and last and span["from"] - last["until"] < 5e-6)
                if last is not None and last["phase"] == name and near:
                    last["until"] = span["until"]
                else:
                    rows.append({"phase": name, "from": span["from"], "until": span["until"]})
        return rows

    def phase_at(self, moment: int) -> str:
        """The kind of work at a moment: forward, backward, replay, optimizer, or none."""
        thread = np.array([self.events["thread"][moment]], np.int64)
        at = int(self._span_at(np.array([moment]), thread)[0])
        while at >= 0:
            span = self.spans[at]
            if span["work"] != FORWARD or span["parent"] < 0:
                return "backward" if span["work"] == SWEEP else WORK[span["work"]]
            at = span["parent"]
        return "none"

    # --- blocks ----------------------------------------------------------------------------------------------------

    @cached_property
    def _births(self) -> tuple[Ints, Ints, Ints]:
        """Blocks sorted by (id, birth): their keys, where they were born, where they were freed."""
        e = self.events
        at = np.flatnonzero((e["kind"] == ALLOC) | (e["kind"] == PRESENT) | (e["kind"] == FREE))
        key = _key(e["id"][at], at)
        order = np.argsort(key, kind="stable")
        at, key = at[order], key[order]
        free = e["kind"][at] == FREE
        born = np.flatnonzero(~free)
        after = np.minimum(born + 1, max(len(at) - 1, 0))
        ends = (born + 1 < len(at)) & free[after] & (e["id"][at[after]] == e["id"][at[born]])
        return key[born], at[born], np.where(ends, at[after], len(e))

    @cached_property
    def _placed(self) -> dict[int, int]:
        """The module of each block that was told it after its birth."""
        at = np.flatnonzero(self.events["kind"] == PLACE)
        blocks = self._block_at(self.events["id"][at].astype(np.int64), at)
        return dict(zip(blocks.tolist(), self.events["module"][at].tolist(), strict=True))

    def _block_at(self, ids: Ints, moments: Ints) -> Ints:
        """The block that had an id at a moment, as an index into the births."""
        return np.searchsorted(self._births[0], _key(ids, moments), "right") - 1

    @cached_property
    def _needs(self) -> dict[int, list[tuple[int, int, int]]]:
        """For each block: (node, from event, event) for each vjp that reads it."""
        e = self.events
        at = np.flatnonzero(e["kind"] == NEED)
        blocks = self._block_at(e["id"][at].astype(np.int64), at)
        done_at = np.flatnonzero(e["kind"] == DONE)
        done: dict[int, int] = {}
        for node, i in zip(e["number"][done_at].tolist(), done_at.tolist(), strict=True):
            done.setdefault(node, i)
        needs: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
        for block, i, node in zip(blocks.tolist(), at.tolist(), e["number"][at].tolist(), strict=True):
            needs[block].append((node, i, done.get(node, len(e))))
        return needs

    def _categories_at(self, blocks: Ints, moment: int) -> Ints:
        e = self.events
        at = np.flatnonzero((e["kind"] == ALLOC) | (e["kind"] == PRESENT) | (e["kind"] == RETAG))
        at = at[at <= moment]
        key = _key(e["id"][at], at)
        order = np.argsort(key, kind="stable")
        ids = e["id"][self._births[1][blocks]]
        place = np.searchsorted(key[order], _key(ids, np.full(len(ids), moment)), "right") - 1
        return np.asarray(e["code"][at[order][place]], np.int64)

    def alive(self, moment: int) -> list[Row]:
        """Every block alive after an event: what it is, whose, why it is alive, and what making it again costs.

        Bytes of all rows sum to the live bytes of that moment.
        """
        if moment < 0:
            return []
        e = self.events
        _, born, freed = self._births
        blocks = np.flatnonzero((born <= moment) & (freed > moment))
        categories = self._categories_at(blocks, moment)
        makers = self._span_at(born[blocks], e["thread"][born[blocks]].astype(np.int64))
        rows = []
        for block, category, maker in zip(blocks.tolist(), categories.tolist(), makers.tolist(), strict=True):
            first = e[born[block]]
            row: Row = {
                "bytes": int(first["number"]),
                "category": CATEGORIES[category],
                "op": self.names[first["op"]],
                "module": self.names[self._placed.get(block, first["module"])],
                "line": self.names[first["line"]],
                "block": int(first["id"]),
                "since": float(self.seconds[born[block]]) if first["kind"] == ALLOC else None,
                "until": float(self.seconds[freed[block]]) if freed[block] < len(e) else None,
            }
            row.update(self._why(block, row["category"], maker, moment))
            row.update(self._cost(row, maker, first["kind"] == ALLOC))
            rows.append(row)
        rows.sort(key=lambda r: (-r["bytes"], r["category"], r["module"], r["op"], r["block"]))
        return rows

    def _why(self, block: int, category: str, maker: int, moment: int) -> Row:
        waiting = [(node, at) for node, at, done in self._needs.get(block, ()) if at <= moment < done]
        facts: Row = {"needed_by": None, "needed_module": None, "needed_line": None, "ops_away": None, "needs": 0}
        if waiting:
            # The sweep goes down in id, so the youngest node asks first.
            node, at = max(waiting)
            need = self.events[at]
            op, module, line = (self.names[need[name]] for name in ("op", "module", "line"))
            away = self._ops_until(node, moment)
            facts.update(needed_by=op, needed_module=module, needed_line=line, ops_away=away, needs=len(waiting))
        if category in _REASONS and category != "input":
            return {**facts, "why": _REASONS[category]}
        if waiting:
            op, module, line = facts["needed_by"], facts["needed_module"], facts["needed_line"]
            place = f" in {module}" if module else f" at {line}" if line else ""
            return {**facts, "why": f"vjp of {op}{place}"}
        if category == "input":
            return {**facts, "why": _REASONS[category]}
        while maker >= 0:
            span = self.spans[maker]
            if span["end"] > moment:
                work = WORK[span["work"]] if span["work"] != SWEEP else "backward"
                return {**facts, "why": f"{work} of {self.names[span['op']]}, running now"}
            if span["work"] == BACKWARD:
                return {**facts, "why": f"gradient on its way, from the vjp of {self.names[span['op']]}"}
            maker = span["parent"]
        reason = "scratch that a kernel keeps" if category == "workspace" else "a variable, or the op that reads it next"
        return {**facts, "why": reason}

    def _ops_until(self, node: int, moment: int) -> int | None:
        """Op applications from a moment to the vjp of a node, 0 while it runs; None when the capture ends before."""
        visit = self._visit_of.get(node)
        if visit is None or self.spans[visit]["end"] <= moment:
            return None
        if self.spans[visit]["begin"] <= moment:
            return 0
        first, last = np.searchsorted(self._op_starts, [moment, self.spans[visit]["begin"]], "right")
        return int(last - first)

    def _cost(self, row: Row, maker: int, known: bool) -> Row:
        """What the op that made a block costs, alone: its inputs are taken to be there."""
        facts: Row = {"recompute_seconds": None, "recompute_flops": None, "seconds_per_mib": None, "maker": None}
        if not known or maker < 0 or row["category"] not in ("activation", "temporary"):
            return facts
        span = self.spans[maker]
        if span["work"] not in (FORWARD, REPLAY):
            return facts
        seconds = span["until"] - span["from"]
        per_mib = seconds / (row["bytes"] / 2**20) if row["bytes"] else None
        return {
            "recompute_seconds": seconds,
            "recompute_flops": int(span["flops"]),
            "seconds_per_mib": per_mib,
            "maker": maker,
        }

    # --- tables ----------------------------------------------------------------------------------------------------

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
        activation, kind = self.live[:, CATEGORIES.index("activation")], self.events["kind"]
        first = int(np.argmax(activation))
        # A block becomes an activation a little before its node says that it needs it.
        over = np.flatnonzero((activation[first:] != activation[first]) | (kind[first:] == DONE))
        last = first + int(over[0]) if len(over) else len(kind)
        needs = np.flatnonzero(kind[first:last] == NEED)
        return first + int(needs[-1]) if len(needs) else first

    def saved(self, group_by: str | None = None) -> list[Row]:
        """What the graph keeps for the sweep, at the moment when that is most."""
        return grouped([row for row in self.alive(self.saved_at) if row["needs"]], group_by)

    def steps(self) -> list[Row]:
        """One row a step: peak bytes, and seconds by kind of work."""
        e = self.events
        at = np.flatnonzero(e["kind"] == STEP)
        ends = [float(self.seconds[i]) for i in at]
        rows = [
            {"step": int(e["id"][i]), "peak_bytes": int(e["number"][i]), "from": start, "until": end, "events": True}
            | dict.fromkeys(("forward_seconds", "backward_seconds", "replay_seconds", "optimizer_seconds"), 0.0)
            for i, start, end in zip(at, [0.0, *ends], ends, strict=False)
        ]
        for row, i, before in zip(rows, at.tolist(), [-1, *at.tolist()], strict=False):
            row["events"] = i - before > 1
        for span in self.spans:
            row_at = int(np.searchsorted(ends, span["from"], "right"))
            if row_at < len(rows):
                rows[row_at][_clock(span)] += _own_seconds(span)
        return rows

    def work(self) -> Row:
        """Seconds and FLOPs by kind of work, over the whole capture."""
        totals: Row = dict.fromkeys(("forward_seconds", "backward_seconds", "replay_seconds", "optimizer_seconds"), 0.0)
        totals["forward_flops"] = totals["replay_flops"] = 0
        for span in self.spans:
            totals[_clock(span)] += _own_seconds(span)
            if span["work"] == FORWARD and span["parent"] < 0:
                totals["forward_flops"] += int(span["flops"])
            if span["work"] == REPLAY:
                totals["replay_flops"] += int(span["flops"])
        useful = totals["forward_seconds"] + totals["backward_seconds"] + totals["optimizer_seconds"]
        totals["recompute_share"] = totals["replay_seconds"] / useful if useful else 0.0
        return totals

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
        for span in self.spans:
            if span["work"] not in (OPTIMIZER, SWEEP):
                layer = at(self.names[span["module"]])
                layer[_clock(span)] += _own_seconds(span)
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
        for span in self.spans:
            if span["work"] == REPLAY:
                key = (span["module"], span["op"], span["line"])
                module, op, line = (self.names[i] for i in key)
                row = table.setdefault(
                    key, {"module": module, "op": op, "line": line, "count": 0, "seconds": 0.0, "flops": 0}
                )
                row["count"] += 1
                row["seconds"] += _own_seconds(span)
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

    def fullest(self, bins: int) -> Ints:
        """The event with the most bytes alive in each of at most so many equal runs of events."""
        count = len(self.events)
        bins = min(bins, count)
        edges = np.linspace(0, count, bins + 1).astype(np.int64)
        return np.array([lo + int(np.argmax(self.total[lo:hi])) for lo, hi in pairwise(edges)], np.int64)

    def columns(self, start: float, end: float, count: int) -> Ints:
        """The fullest event of each equal span of time; where nothing happened, the one before."""
        edges = np.searchsorted(self.seconds, np.linspace(start, end, count + 1), "right")
        found = np.zeros(count, np.int64)
        for i, (lo, hi) in enumerate(pairwise(edges)):
            lo = max(int(lo) - 1, 0)
            found[i] = lo + int(np.argmax(self.total[lo : max(int(hi), lo + 1)]))
        return found

    def window(self) -> tuple[float, float, str]:
        """The span of time that a picture shows, and its name: all, or the steps around the peak."""
        steps, end = [s for s in self.steps() if s["events"]], float(self.seconds[-1]) if len(self.events) else 0.0
        if len(steps) <= _MOST_STEPS:
            return 0.0, end, f"{len(steps)} step{'s' * (len(steps) != 1)}" if steps else "the whole capture"
        at = min(self.step_at(self.peak_at), len(steps)) - 1
        first, last = max(at - 1, 0), min(at + 1, len(steps) - 1)
        name = f"steps {steps[first]['step']} to {steps[last]['step']} of {len(steps)}"
        return float(steps[first]["from"]), float(steps[last]["until"]), name

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
        rows = self.peak()
        unknown = sum(r["bytes"] for r in rows if not (r["op"] or r["module"] or r["line"]))
        steps = self.steps()
        refusal = self.explain()
        return {
            "schema": SCHEMA,
            "view": "summary",
            "facts": self.capture.facts,
            "whole": self.capture.whole,
            "events": len(e),
            "seconds": float(self.seconds[-1]) if len(e) else 0.0,
            "steps": len(steps),
            "peak_bytes": self.peak_bytes,
            "peak_by_category": by_category,
            "peak_where": where,
            "unknown_bytes": unknown,
            "saved_bytes": int(self.live[self.saved_at, CATEGORIES.index("activation")]) if at >= 0 else 0,
            "end_bytes": int(self.total[-1]) if len(e) else 0,
            "limit_bytes": self.limit_at(at),
            "out_of_memory": None if refusal is None else {k: v for k, v in refusal.items() if k != "rows"},
            "modules": grouped(rows, "module")[:8],
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
        }

    def pareto(self) -> list[Row] | None:
        """Budget against recomputation, where the run computed it."""
        return pareto.ladder(self.capture)

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
        if (pareto := self.pareto()) is not None:
            tables["pareto"] = pareto
        return tables


def _key(ids: Any, moments: Any) -> Ints:
    return np.asarray((np.asarray(ids, np.int64) << 40) | np.asarray(moments, np.int64), np.int64)


def _own_seconds(span: Row) -> float:
    return float(span["until"] - span["from"] - span["inner"])


def _clock(span: Row) -> str:
    """Which total a piece of work counts towards."""
    if span["work"] == SWEEP:
        return "backward_seconds"
    return f"{WORK[span['work']]}_seconds"


def _around(module: str) -> list[str]:
    """"a.b.c" → "a.b.c", "a.b", "a"."""
    parts = module.split(".")
    return [".".join(parts[:n]) for n in range(len(parts), 0, -1)]


def _natural(module: str) -> list[tuple[int, int, str]]:
    return [(1, int(p), "") if p.isdigit() else (0, 0, p) for p in module.split(".")]


def grouped(rows: list[Row], by: str | None) -> list[Row]:
    """Rows summed by a column: bytes, blocks and the cost of making them again; largest first.

    Raises: ValueError when there is no such group.
    """
    if by is None:
        return rows
    if by not in GROUPS:
        raise errors.ValueError(f"profile: group_by '{by}'; one of {', '.join(GROUPS)} is needed")
    table: dict[str, Row] = {}
    counted: set[tuple[str, int | None]] = set()
    for row in rows:
        group = table.setdefault(row[by], {by: row[by], "bytes": 0, "blocks": 0, "recompute_seconds": 0.0, "categories": {}})
        group["bytes"] += row["bytes"]
        group["blocks"] += 1
        # One op may have made several of the blocks.
        if (made := (row[by], row.get("maker"))) not in counted:
            counted.add(made)
            group["recompute_seconds"] += row["recompute_seconds"] or 0.0
        group["categories"][row["category"]] = group["categories"].get(row["category"], 0) + row["bytes"]
    return sorted(table.values(), key=lambda r: (-r["bytes"], r[by]))


def difference(before: Comparison, after: Comparison) -> Row:
    """Two runs side by side: their peaks, and what is alive at each by category, module and op."""

    def holders(of: Comparison) -> dict[tuple[str, str, str], int]:
        sums: dict[tuple[str, str, str], int] = defaultdict(int)
        for row in of.peak():
            sums[row["category"], row["module"], row["op"]] += row["bytes"]
        return sums

    a, b = holders(before), holders(after)
    rows: list[Row] = [
        {
            "category": k[0],
            "module": k[1],
            "op": k[2],
            "before_bytes": a.get(k, 0),
            "after_bytes": b.get(k, 0),
            "change_bytes": b.get(k, 0) - a.get(k, 0),
        }
        for k in {**a, **b}
    ]
    rows.sort(key=lambda r: (-abs(r["change_bytes"]), r["category"], r["module"], r["op"]))
    names = ("peak_bytes", "peak_by_category", "saved_bytes", "recompute_share", "steps", "seconds")
    summaries = [{name: of.summary()[name] for name in names} for of in (before, after)]
    return {"schema": SCHEMA, "view": "diff", "before": summaries[0], "after": summaries[1], "rows": rows}
