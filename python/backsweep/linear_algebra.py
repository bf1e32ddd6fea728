"""Matrix products."""

from __future__ import annotations

from . import errors
from ._core import Tensor, apply
from .attach import method

__all__ = ["bmm", "dot", "matmul", "mm", "outer"]


@method
def matmul(input: Tensor, other: Tensor) -> Tensor:
    """Matrix product; leading dims broadcast, a 1-d side is a row or a column."""
    return apply("matmul", input, other)


def _ranked(op: str, a: Tensor, b: Tensor, rank: int) -> Tensor:
    if a.ndim != rank or b.ndim != rank:
        raise errors.ShapeError(f"{op}: shapes {list(a.shape)} and {list(b.shape)}; {rank} dims each are needed")
    return apply("matmul", a, b)


@method
def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """The product of two matrices."""
    return _ranked("mm", input, mat2, 2)


@method
def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """The products of two stacks of matrices."""
    return _ranked("bmm", input, mat2, 3)


@method
def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """The inner product of two vectors."""
    return _ranked("dot", input, tensor, 1)


@method
def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """Every product of an element of one vector with one of another."""
    return apply("reshape", input, (-1, 1)) * apply("reshape", vec2, (1, -1))
