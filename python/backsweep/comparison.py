"""Comparison and logic: tensors of bools, and single answers about whole tensors."""

from __future__ import annotations

from ._core import Tensor, apply
from .attach import method
from .types import Operand

__all__ = [
    "allclose",
    "eq",
    "equal",
    "ge",
    "gt",
    "isclose",
    "isfinite",
    "isinf",
    "isnan",
    "isneginf",
    "isposinf",
    "le",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "lt",
    "ne",
]


@method
def eq(input: Operand, other: Operand) -> Tensor:
    """input == other, element by element."""
    return apply("eq", input, other)


@method
def ne(input: Operand, other: Operand) -> Tensor:
    """input != other, element by element."""
    return apply("ne", input, other)


@method
def lt(input: Operand, other: Operand) -> Tensor:
    """input < other, element by element."""
    return apply("lt", input, other)


@method
def le(input: Operand, other: Operand) -> Tensor:
    """input <= other, element by element."""
    return apply("le", input, other)


@method
def gt(input: Operand, other: Operand) -> Tensor:
    """input > other, element by element."""
    return apply("gt", input, other)


@method
def ge(input: Operand, other: Operand) -> Tensor:
    """input >= other, element by element."""
    return apply("ge", input, other)


@method
def logical_and(input: Operand, other: Operand) -> Tensor:
    """True where both are not 0."""
    return apply("logical_and", input, other)


@method
def logical_or(input: Operand, other: Operand) -> Tensor:
    """True where either is not 0."""
    return apply("logical_or", input, other)


@method
def logical_xor(input: Operand, other: Operand) -> Tensor:
    """True where just one of the two is not 0."""
    return apply("logical_xor", input, other)


@method
def logical_not(input: Tensor) -> Tensor:
    """True where input is 0."""
    return apply("logical_not", input)


@method
def isnan(input: Tensor) -> Tensor:
    """True where input is NaN."""
    return apply("isnan", input)


@method
def isinf(input: Tensor) -> Tensor:
    """True where input is an infinity."""
    return apply("isinf", input)


@method
def isfinite(input: Tensor) -> Tensor:
    """True where input is neither NaN nor an infinity."""
    return apply("isfinite", input)


@method
def isposinf(input: Tensor) -> Tensor:
    """True where input is +∞."""
    return apply("eq", input, float("inf"))


@method
def isneginf(input: Tensor) -> Tensor:
    """True where input is -∞."""
    return apply("eq", input, float("-inf"))


@method
def isclose(
    input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> Tensor:
    """True where |input - other| <= atol + rtol · |other|; an infinity is close to itself, NaN if equal_nan."""
    input, other = (x if x.is_floating_point() else x.double() for x in (input.detach(), other.detach()))
    same = input == other
    near = (input - other).abs() <= atol + rtol * other.abs()
    # An infinite bound would be near to everything.
    close = same | (near & other.isfinite() & input.isfinite())
    if equal_nan:
        close = close | (input.isnan() & other.isnan())
    return close


@method
def allclose(
    input: Tensor, other: Tensor, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False
) -> bool:
    """True if all elements are close, in the sense of `isclose`."""
    return bool(isclose(input, other, rtol, atol, equal_nan).all())


@method
def equal(input: Tensor, other: Tensor) -> bool:
    """True if shape and all elements are the same."""
    return input.shape == other.shape and bool((input == other).all())
