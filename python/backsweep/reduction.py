"""Reductions: many elements to one, along some dims or all of them."""

from __future__ import annotations

import builtins

from . import errors
from ._core import Tensor, apply
from .attach import method
from .types import Dim, DType

__all__ = [
    "all", "amax", "amin", "any", "argmax", "argmin", "logsumexp", "max", "mean", "min", "norm", "std", "sum", "var",
]  # fmt: skip


def _dims(dim: Dim) -> tuple[int, ...]:
    if dim is None:
        return ()
    return (dim,) if isinstance(dim, int) else tuple(dim)


@method
def sum(input: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: DType | None = None) -> Tensor:
    """The sum; 0 for no elements. Integers and bools sum to int64."""
    x = input if dtype is None else apply("cast", input, dtype)
    return apply("sum", x, _dims(dim), keepdim)


@method
def mean(input: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: DType | None = None) -> Tensor:
    """The mean; NaN for no elements."""
    x = input if dtype is None else apply("cast", input, dtype)
    return apply("mean", x, _dims(dim), keepdim)


@method
def var(input: Tensor, dim: Dim = None, *, correction: int = 1, keepdim: bool = False) -> Tensor:
    """The variance: squared distances from the mean, over the number of elements less `correction`."""
    dims = _dims(dim)
    distance = input - apply("mean", input, dims, True)
    count = 1
    for axis in dims or range(input.ndim):
        count *= input.shape[axis]
    total = apply("sum", distance * distance, dims, keepdim)
    return total / builtins.max(0, count - correction)


@method
def std(input: Tensor, dim: Dim = None, *, correction: int = 1, keepdim: bool = False) -> Tensor:
    """The standard deviation; its gradient for equal elements is 0."""
    return apply("sqrt", var(input, dim, correction=correction, keepdim=keepdim))


@method
def amax(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """The largest element; ties share the gradient, NaN wins."""
    return apply("amax", input, _dims(dim), keepdim)


@method
def amin(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """The smallest element; ties share the gradient, NaN wins."""
    return apply("amin", input, _dims(dim), keepdim)


@method
def max(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor | tuple[Tensor, Tensor]:
    """The largest element, or with a dim the largest along it and where it is."""
    return apply("amax", input, (), False) if dim is None else apply("max_dim", input, dim, keepdim)


@method
def min(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor | tuple[Tensor, Tensor]:
    """The smallest element, or with a dim the smallest along it and where it is."""
    return apply("amin", input, (), False) if dim is None else apply("min_dim", input, dim, keepdim)


def _place(op: str, input: Tensor, dim: int | None, keepdim: bool) -> Tensor:
    if dim is not None:
        return apply(op, input, dim, keepdim)[1]
    place = apply(op, apply("reshape", input, (-1,)), 0, False)[1]
    return apply("reshape", place, (1,) * input.ndim) if keepdim else place


@method
def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Where the largest element is; the first of equals."""
    return _place("max_dim", input, dim, keepdim)


@method
def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Where the smallest element is; the first of equals."""
    return _place("min_dim", input, dim, keepdim)


@method
def logsumexp(input: Tensor, dim: Dim, keepdim: bool = False) -> Tensor:
    """ln Σ eˣ without overflow; -inf where all are."""
    top = apply("amax", input.detach(), _dims(dim), True)
    # A row of infinities is shifted by nothing: inf - inf would be NaN.
    top = apply("where", apply("isfinite", top), top, 0.0)
    total = apply("sum", apply("exp", input - top), _dims(dim), True)
    out = apply("log", total) + top
    return out if keepdim else apply("sum", out, _dims(dim), False)


@method
def norm(input: Tensor, p: float = 2.0, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """The p-norm (Σ |x|ᵖ)^(1/p); inf gives the largest size. The gradient of the 2-norm at 0 is 0."""
    dims = _dims(dim)
    if p == 2:
        total = apply("sum", input * input, dims, keepdim)
        off = apply("eq", total, 0.0)
        root = apply("sqrt", apply("where", off, 1.0, total))
        return apply("where", off, 0.0, root)
    if p == 1:
        return apply("sum", apply("abs", input), dims, keepdim)
    if p == float("inf"):
        return apply("amax", apply("abs", input), dims, keepdim)
    if p <= 0:
        raise errors.ValueError(f"norm: p is {p}; a number above zero is needed")
    return apply("pow", apply("sum", apply("pow", apply("abs", input), p), dims, keepdim), 1.0 / p)


@method
def any(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """True where any element is not zero."""
    return apply("any", input, _dims(dim), keepdim)


@method
def all(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """True where no element is zero."""
    return apply("all", input, _dims(dim), keepdim)


