"""Whether operations are recorded: a mode of the thread, set for a block, for a function, or from here on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from .. import _core
from .._core import is_grad_enabled

__all__ = ["enable_grad", "inference_mode", "is_grad_enabled", "no_grad", "set_grad_enabled"]

F = TypeVar("F", bound=Callable[..., Any])

_set = _core.set_grad_enabled
_GENERATOR = 0x20  # inspect.CO_GENERATOR


class _GradMode:
    """A grad mode as a context manager and as a decorator; may be entered again while it is entered."""

    def __init__(self, mode: bool) -> None:
        self._mode = mode
        self._before: list[bool] = []

    def __enter__(self) -> None:
        """Set the mode until the end of the block."""
        self._before.append(_set(self._mode))

    def __exit__(self, *_: object) -> None:
        """Set the mode that was before."""
        _set(self._before.pop())

    def __call__(self, function: F) -> F:
        """Make a function that runs in this mode."""
        mode = self._mode
        code = getattr(function, "__code__", None)
        if code is not None and code.co_flags & _GENERATOR:
            raise TypeError(
                f"{type(self).__name__}: {function.__name__} is a generator, which would keep the mode between its "
                f"values; a plain function is needed (help: use the mode as a context manager inside)"
            )

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            before = _set(mode)
            try:
                return function(*args, **kwargs)
            finally:
                _set(before)

        return run  # type: ignore[return-value]


class no_grad(_GradMode):
    """Record no operations: results do not require gradients.

    Example:
        >>> x = bs.ones(2, requires_grad=True)
        >>> with bs.no_grad():
        ...     y = x * 2
        >>> y.requires_grad
        False
    """

    def __init__(self) -> None:
        """Take no arguments; as a decorator, write @bs.no_grad()."""
        super().__init__(False)


class enable_grad(_GradMode):
    """Record operations, inside of a `no_grad`."""

    def __init__(self) -> None:
        """Take no arguments; as a decorator, write @bs.enable_grad()."""
        super().__init__(True)


class inference_mode(_GradMode):
    """Record no operations, if mode is set."""

    def __init__(self, mode: bool = True) -> None:
        """Keep the mode for the block or function."""
        super().__init__(not mode and is_grad_enabled())


class set_grad_enabled(_GradMode):
    """Record operations or not: from this call on, or in a block, or in a function."""

    def __init__(self, mode: bool) -> None:
        """Set the mode now."""
        super().__init__(mode)
        self._before.append(_set(mode))

    def __enter__(self) -> None:
        """Go on in the mode, until the end of the block."""
        if not self._before:
            super().__enter__()

    def __call__(self, function: F) -> F:
        """Undo the call of the decorator itself, and make a function that runs in this mode."""
        _set(self._before.pop())
        return super().__call__(function)
