"""The profiler: which bytes are alive, whose they are, why, until when, and what making them again would cost.

`profile()` gathers; `Profile.read(path)` opens a saved capture; tables are lists of dicts. The command `backsweep profile`
does the same for a script that knows nothing of it.
"""

from __future__ import annotations

from .capture import SCHEMA
from .groups import difference
from .record import Profile, explain, profile

__all__ = ["SCHEMA", "Profile", "difference", "explain", "profile"]
