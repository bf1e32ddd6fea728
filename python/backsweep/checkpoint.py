"""Regions whose activations are dropped after the forward, and made again when the sweep comes."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from . import _core

__all__ = ["checkpoint"]

P = ParamSpec("P")
R = TypeVar("R")


def checkpoint(function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call function(*args, **kwargs), keeping only what goes into it and comes out of it.

    What is computed inside and saved for the sweep is dropped when the call ends, and computed again, bit for bit, when the
    sweep first needs any of it: each op once more, with the same random draws. Regions may be nested; the inner one is then
    dropped again after the outer was replayed. The function itself is not called again, so its side effects happen once,
    and running statistics are updated once. Ops of autograd.Function are kept, never replayed.

    Raises: whatever function raises; nothing is dropped then. GraphError in the sweep, when a value that the region read was
    changed in place meanwhile.
    """
    region = _core.enter_region()
    try:
        result = function(*args, **kwargs)
    except BaseException:
        region.leave(False)
        raise
    region.leave(True)
    return result
