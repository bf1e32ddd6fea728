"""How a function becomes a method of Tensor: each op is defined once, and called either way."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from ._core import Tensor

F = TypeVar("F", bound=Callable[..., object])


def method(function: F) -> F:
    """Make a function a method of Tensor under its own name, and give it back."""
    setattr(Tensor, function.__name__, function)
    return function
