"""How a function becomes a method of Tensor: each op is defined once, and called either way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from ._core import Tensor

F = TypeVar("F", bound=Callable[..., Any])


def method(function: F) -> F:
    """Make a function a method of Tensor under its own name, and give it back."""
    setattr(Tensor, function.__name__, function)
    return function


def method_as(name: str) -> Callable[[F], F]:
    """Make a function a method of Tensor under another name: where the method's arguments differ from the function's."""

    def attach(function: F) -> F:
        function.__name__ = function.__qualname__ = name
        return method(function)

    return attach


def property_as(name: str, getter: Callable[[Tensor], Any]) -> None:
    """Make a function of a tensor an attribute of Tensor."""
    setattr(Tensor, name, property(getter))
