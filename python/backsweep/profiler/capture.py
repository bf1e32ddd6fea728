"""A capture's log, read: events as one NumPy array, names, facts.

The format is the engine's (src/arena/trace.rs): a magic word, then chunks of events, names and facts. A log cut short by a
crash is read up to its last whole chunk. Imports the errors only; computes nothing.
"""

from __future__ import annotations

import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import errors
from ..memory import CATEGORIES

MAGIC = b"BSWEEP01"
# Of the tables and views as JSON; see docs/profiler.md.
SCHEMA = "backsweep.profile/1"
EVENT = np.dtype(
    [
        ("nanos", "<u8"),
        ("kind", "u1"),
        ("code", "u1"),
        ("thread", "<u2"),
        ("id", "<u4"),
        ("number", "<u8"),
        ("op", "<u4"),
        ("module", "<u4"),
        ("line", "<u4"),
        ("extra", "<u4"),
    ]
)
ALLOC, FREE, RETAG, BEGIN, END, NEED, DONE, STEP, PRESENT, LIMIT, REFUSED, PLACE, PEAK, TOOK = range(1, 15)
FORWARD, BACKWARD, REPLAY, OPTIMIZER, SWEEP = range(5)
WORK = ("forward", "backward", "replay", "optimizer", "sweep")

# Events about the memory of one device: the top bits of their id say of which.
_OF_ONE_DEVICE = (ALLOC, FREE, RETAG, NEED, PRESENT, LIMIT, REFUSED, PLACE, PEAK)
_DEVICE_SHIFT = 27

Events = npt.NDArray[Any]


class Capture:
    """What a profiled run left: `events` in order, `names` by number, and `facts` about the run."""

    def __init__(
        self, events: Events, names: list[str], facts: dict[str, Any], whole: bool, run: Capture | None = None
    ) -> None:
        self.events, self.names, self.facts, self.whole = events, names, facts, whole
        # Of one device's share: the whole run.
        self.run = run or self

    @property
    def device(self) -> str:
        """The device whose memory this is about, or the main one of the whole run."""
        return str(self.facts.get("device") or next(iter(self.devices)))

    @cached_property
    def devices(self) -> dict[str, int]:
        """The CPU and the GPUs whose memory was used, the one on which most bytes were asked for first, with these bytes."""
        e = self.events
        made = e[np.isin(e["kind"], (ALLOC, PRESENT))]
        asked = np.where(made["kind"] == ALLOC, made["number"], 0)
        space = made["id"] >> _DEVICE_SHIFT
        sums = {0: 0} | {int(n): int(asked[space == n].sum()) for n in np.unique(space)}
        return {_device_name(n): sums[n] for n in sorted(sums, key=lambda n: (-sums[n], n))}

    def of(self, device: str) -> Capture:
        """The same run as the memory of one device saw it: its blocks, caps and refusals, and all of the work.

        Raises: ValueError when that device's memory was not used.
        """
        if device not in self.devices:
            known = ", ".join(self.devices)
            raise errors.ValueError(f"profile: nothing was on '{device}' in this run; its devices are {known}")
        if self.devices.keys() == {"cpu"}:
            return Capture(self.events, self.names, {**self.facts, "device": "cpu"}, self.whole, self)
        e = self.events
        number = next(n for n in range(1 << 5) if _device_name(n) == device)
        ours = ~np.isin(e["kind"], _OF_ONE_DEVICE)
        events = e[ours | (e["id"] >> _DEVICE_SHIFT == number)]
        if number > 0:
            steps, peaks = np.flatnonzero(events["kind"] == STEP), np.flatnonzero(events["kind"] == PEAK)
            # A peak stands right before the step that it is of; a step without one had nothing there.
            events["number"][steps] = np.where(np.isin(steps - 1, peaks), events["number"][steps - 1], 0)
            blocks = np.isin(events["kind"], _OF_ONE_DEVICE)
            events["id"][blocks] &= (1 << _DEVICE_SHIFT) - 1
            events = events[events["kind"] != PEAK]
        events = events[(events["kind"] != TOOK) | (events["extra"] == number)]
        return Capture(events, self.names, {**self.facts, "device": device}, self.whole, self)

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Capture:
        """Read a capture's file.

        Raises: ValueError when it is no capture; OSError when it cannot be read.
        """
        return cls.parse(Path(path).read_bytes(), str(path))

    @classmethod
    def parse(cls, log: bytes, name: str = "the log") -> Capture:
        """Read a log in memory. What lies behind the first damage is left out, and `whole` is false then.

        Raises: ValueError when it is no capture, or one of another version.
        """
        if log[:6] == MAGIC[:6] and log[:8] != MAGIC:
            version = log[6:8].decode(errors="replace")
            raise _other_version(name, f"log version {version}", MAGIC[6:].decode())
        if log[:8] != MAGIC:
            found = f"begins with {bytes(log[:8])!r}" if log else "is empty"
            raise errors.ValueError(
                f"profile: {name} {found}, so it is no capture; a file written by 'backsweep profile SCRIPT' or "
                f"profile(path) is needed"
            )
        chunks: list[Events] = []
        names: list[str] = [""]
        facts: dict[str, Any] = {}
        at, whole = 8, True
        while at < len(log):
            kind, length = log[at : at + 1], int.from_bytes(log[at + 1 : at + 5], "little")
            body = memoryview(log)[at + 5 : at + 5 + length]
            try:
                if at + 5 > len(log) or len(body) < length:
                    raise ValueError
                if kind == b"E":
                    chunks.append(np.frombuffer(body, EVENT))
                elif kind == b"N":
                    _read_names(bytes(body), names)
                elif kind == b"M":
                    facts.update(json.loads(bytes(body)))
                else:
                    raise ValueError
            except ValueError:
                whole = False
                break
            at += 5 + length
        if (schema := facts.get("schema", SCHEMA)) != SCHEMA:
            raise _other_version(name, f"schema {schema}", SCHEMA, facts.get("backsweep"))
        events = np.concatenate(chunks) if chunks else np.zeros(0, EVENT)
        known = (events["kind"] >= ALLOC) & (events["kind"] <= TOOK) & (events["code"] < len(CATEGORIES))
        # What a re-tagged block was before.
        known &= (events["kind"] != RETAG) | (events["extra"] < len(CATEGORIES))
        for column in ("op", "module", "line"):
            known &= events[column] < len(names)
        if not known.all():
            events, whole = events[: int(np.argmin(known))], False
        return cls(events, names, facts, whole)


def _device_name(number: int) -> str:
    return "cpu" if number == 0 else "gpu" if number == 1 else f"gpu:{number - 1}"


def _other_version(name: str, found: str, wanted: str, writer: str | None = None) -> errors.ValueError:
    by = f"backsweep {writer}, which wrote it" if writer else "the backsweep that wrote it"
    return errors.ValueError(
        f"profile: {name} has {found}, and this version reads {wanted}; take the capture again, or read it with {by}"
    )


def _read_names(body: bytes, names: list[str]) -> None:
    at = 0
    while at < len(body):
        number = int.from_bytes(body[at : at + 4], "little")
        length = int.from_bytes(body[at + 4 : at + 8], "little")
        # Names come in order; a number far ahead is damage.
        if number > len(names) + len(body):
            raise ValueError
        names.extend([""] * (number + 1 - len(names)))
        names[number] = body[at + 8 : at + 8 + length].decode()
        at += 8 + length
