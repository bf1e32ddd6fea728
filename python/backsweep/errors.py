"""The exceptions that backsweep raises. Each is a BacksweepError, and the built-in exception that fits it as well.

The engine builds the texts in `error.rs`; what is checked in Python follows the same form:
`op: what is wrong, with the values; what would be right`.
"""

from __future__ import annotations

import builtins


class BacksweepError(Exception):
    """The base of every error that backsweep raises on purpose."""


class ShapeError(BacksweepError, builtins.ValueError):
    """Shapes that do not go together."""


class DTypeError(BacksweepError, TypeError):
    """An element type, or a type of argument, that an operation does not take."""


class IndexError(BacksweepError, builtins.IndexError):
    """An index or a dim that is out of range."""


class ValueError(BacksweepError, builtins.ValueError):
    """An argument outside the values that an operation takes."""


class DeviceError(BacksweepError, RuntimeError):
    """A device that is not there, or tensors on several devices."""


class GraphError(BacksweepError, RuntimeError):
    """A gradient that cannot be computed: no history, a freed graph, a value changed in place."""


class OutOfMemoryError(BacksweepError, MemoryError):
    """An allocation that failed, or would have gone over the limit; state is as before the call."""


class InternalError(BacksweepError, RuntimeError):
    """A bug of backsweep."""
