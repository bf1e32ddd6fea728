"""Work over time: ops, visits of the sweep, replays and optimizers, as nested spans; and the phases they add up to."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property

import numpy as np

from .capture import BACKWARD, BEGIN, END, FORWARD, OPTIMIZER, REPLAY, SWEEP, TOOK, WORK
from .ledger import Ints, Ledger, Row


class Work(Ledger):
    """A capture's work."""

    @cached_property
    def timed(self) -> bool:
        """True when the times of work are those of a GPU's clock; else they are the CPU's."""
        return bool((self.events["kind"] == TOOK).any())

    @cached_property
    def spans(self) -> list[Row]:
        """Pieces of work, in order of their beginning; `parent` is the number of the one around, -1 for none.

        `took` is what its own kernels took on a GPU, where that is known.
        """
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
                        "took": 0.0 if self.timed else None,
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
        told = e[e["kind"] == TOOK]
        for number, nanos in zip(told["id"].tolist(), told["number"].tolist(), strict=True):
            if number < len(spans):
                spans[number]["took"] += nanos / 1e9
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


def own_seconds(span: Row) -> float:
    """Without the work inside: on the GPU where that is known, else on the CPU."""
    return float(span["until"] - span["from"] - span["inner"] if span["took"] is None else span["took"])


def clock(span: Row) -> str:
    """Which total a piece of work counts towards."""
    if span["work"] == SWEEP:
        return "backward_seconds"
    return f"{WORK[span['work']]}_seconds"
