"""A capture's log, read: events as one NumPy array, names, facts.

The format is the engine's (src/arena/trace.rs): a magic word, then chunks of events, names and facts. A log cut short by a
crash is read up to its last whole chunk. Imports the errors only; computes nothing.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .. import errors

MAGIC = b"BSWEEP01"
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
ALLOC, FREE, RETAG, BEGIN, END, NEED, DONE, STEP, PRESENT, LIMIT, REFUSED, PLACE = range(1, 13)
FORWARD, BACKWARD, REPLAY, OPTIMIZER, SWEEP = range(5)
WORK = ("forward", "backward", "replay", "optimizer", "sweep")

Events = npt.NDArray[Any]


class Capture:
    """What a profiled run left: `events` in order, `names` by number, and `facts` about the run."""

    def __init__(self, events: Events, names: list[str], facts: dict[str, Any], whole: bool) -> None:
        self.events, self.names, self.facts, self.whole = events, names, facts, whole

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Capture:
        """Read a capture's file.

        Raises: ValueError when it is no capture; OSError when it cannot be read.
        """
        return cls.parse(Path(path).read_bytes(), str(path))

    @classmethod
    def parse(cls, log: bytes, name: str = "the log") -> Capture:
        """Read a log in memory."""
        if log[:8] != MAGIC:
            found = repr(bytes(log[:8]))
            raise errors.ValueError(
                f"profile: {name} begins with {found}, so it is no capture of this version; a file written by "
                f"'backsweep profile SCRIPT' or profile(path) is needed"
            )
        chunks: list[Events] = []
        names: list[str] = []
        facts: dict[str, Any] = {}
        at, whole = 8, True
        while at < len(log):
            kind, length = log[at : at + 1], int.from_bytes(log[at + 1 : at + 5], "little")
            body = memoryview(log)[at + 5 : at + 5 + length]
            if at + 5 > len(log) or len(body) < length:
                whole = False
                break
            at += 5 + length
            if kind == b"E":
                chunks.append(np.frombuffer(body, EVENT))
            elif kind == b"N":
                _read_names(bytes(body), names)
            elif kind == b"M":
                facts.update(json.loads(bytes(body)))
        events = np.concatenate(chunks) if chunks else np.zeros(0, EVENT)
        return cls(events, names or [""], facts, whole)


def _read_names(body: bytes, names: list[str]) -> None:
    at = 0
    while at < len(body):
        number = int.from_bytes(body[at : at + 4], "little")
        length = int.from_bytes(body[at + 4 : at + 8], "little")
        names.extend([""] * (number + 1 - len(names)))
        names[number] = body[at + 8 : at + 8 + length].decode()
        at += 8 + length
