"""Bytes over time: what is live after each event of a capture, by category; the peak; the caps in force.

Steps under trial (see trial.py) are left out of the peak: the profiler ran them under budgets that nobody asked for.
"""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from ..memory import CATEGORIES
from .capture import ALLOC, FREE, LIMIT, PRESENT, RETAG, STEP, Capture

Ints = npt.NDArray[np.int64]
Row = dict[str, Any]


class Ledger:
    """A capture's bytes, as the engine's ledger had them."""

    def __init__(self, capture: Capture) -> None:
        self.capture = capture
        self.events = capture.events
        self.names = capture.names

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
    def on_trial(self) -> npt.NDArray[np.bool_]:
        """Events in steps that the profiler changed in order to measure budgets."""
        aside, ends = np.zeros(len(self.events), np.bool_), self.step_ends.tolist()
        for step in self.trial_steps:
            if step <= len(ends) + 1:
                start = ends[step - 2] + 1 if step > 1 else 0
                aside[start : ends[step - 1] + 1 if step <= len(ends) else None] = True
        return aside

    @property
    def trial_steps(self) -> set[int]:
        """Numbers of the steps on trial, from 1."""
        return set(self.capture.facts.get("trial_steps", ()))

    @cached_property
    def peaks(self) -> dict[str, int]:
        """The peak of the memory of each device, the main one first."""
        run = self.capture.run
        others = {name: Ledger(run.of(name)) for name in run.devices if name != self.capture.device}
        return {name: others.get(name, self).peak_bytes for name in run.devices}

    @cached_property
    def step_ends(self) -> Ints:
        """The event that ends each step."""
        return np.flatnonzero(self.events["kind"] == STEP)

    @cached_property
    def peak_at(self) -> int:
        """The event with the most bytes alive, the first of them; -1 in an empty capture."""
        return int(np.argmax(np.where(self.on_trial, -1, self.total))) if len(self.events) else -1

    @property
    def peak_bytes(self) -> int:
        """The largest number of live bytes, the steps noted after the last full event included."""
        steps = [int(self.events["number"][i]) for i in self.step_ends if not self.on_trial[i]]
        return max(int(self.total[~self.on_trial].max(initial=0)), max(steps, default=0))

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
