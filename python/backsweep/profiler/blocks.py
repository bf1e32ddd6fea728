"""Blocks: who is alive at a moment, whose it is, why, until when, and what making it again would cost."""

from __future__ import annotations

import statistics
from collections import defaultdict
from functools import cached_property
from typing import Any

import numpy as np

from ..memory import CATEGORIES
from .capture import ALLOC, BACKWARD, DONE, FORWARD, FREE, NEED, PLACE, PRESENT, REPLAY, RETAG, SWEEP, WORK
from .ledger import Ints, Row
from .work import Work

_REASONS = {
    "parameter": "a parameter of a model",
    "buffer": "a buffer of a model",
    "gradient": "kept in .grad until the step, and zero_grad",
    "optimizer": "an optimizer's state",
    "input": "data that the program holds",
}


class Blocks(Work):
    """A capture's blocks."""

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

    @cached_property
    def unknown(self) -> Ints:
        """Live bytes after each event of blocks of which neither op, module nor line is known."""
        e = self.events
        _, born, freed = self._births
        nameless = np.array([not name for name in self.names])
        first = e[born]
        known = np.where(nameless[first["op"]] & nameless[first["module"]] & nameless[first["line"]], freed, born)
        at = np.flatnonzero(e["kind"] == PLACE)
        placed = self._block_at(e["id"][at].astype(np.int64), at)
        known[placed] = np.minimum(known[placed], np.where(nameless[e["module"][at]], len(e), at))
        change = np.zeros(len(e) + 1, np.int64)
        np.add.at(change, born, first["number"].astype(np.int64))
        np.add.at(change, known, -first["number"].astype(np.int64))
        return np.asarray(np.cumsum(change[:-1]), np.int64)

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

    @cached_property
    def _usual_seconds(self) -> dict[tuple[int, ...], float]:
        """What an op takes at its line, by the median of all its runs: one may have met cold memory."""
        runs: dict[tuple[int, ...], list[float]] = defaultdict(list)
        for span in self.spans:
            if span["work"] in (FORWARD, REPLAY):
                runs[_same(span)].append(span["until"] - span["from"] if span["took"] is None else span["took"])
        return {key: statistics.median(found) for key, found in runs.items()}

    def _cost(self, row: Row, maker: int, known: bool) -> Row:
        """What the op that made a block costs, alone: its inputs are taken to be there."""
        facts: Row = {"recompute_seconds": None, "recompute_flops": None, "seconds_per_mib": None, "maker": None}
        if not known or maker < 0 or row["category"] not in ("activation", "temporary"):
            return facts
        span = self.spans[maker]
        if span["work"] not in (FORWARD, REPLAY):
            return facts
        seconds = self._usual_seconds[_same(span)]
        per_mib = seconds / (row["bytes"] / 2**20) if row["bytes"] else None
        return {
            "recompute_seconds": seconds,
            "recompute_flops": int(span["flops"]),
            "seconds_per_mib": per_mib,
            "maker": maker,
        }


def _same(span: Row) -> tuple[int, ...]:
    return span["op"], span["module"], span["line"], span["flops"]


def _key(ids: Any, moments: Any) -> Ints:
    return np.asarray((np.asarray(ids, np.int64) << 40) | np.asarray(moments, np.int64), np.int64)
