"""Matrix products, and what is made of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from . import errors
from ._core import Tensor, apply
from .attach import method
from .reduction import norm
from .shape import axes_of, axis_of, broadcast_tensors, diagonal
from .types import Number

__all__ = [
    "addmm",
    "addmv",
    "addr",
    "baddbmm",
    "bmm",
    "cdist",
    "cross",
    "dist",
    "dot",
    "kron",
    "matmul",
    "mm",
    "mv",
    "outer",
    "tensordot",
    "trace",
]


@method
def matmul(input: Tensor, other: Tensor) -> Tensor:
    """The matrix product; leading dims broadcast, a 1-d side is a row or a column.

    Shapes: [..., m, k] · [..., k, n] → [..., m, n]
    """
    return apply("matmul", input, other)


def _product(op: str, a: Tensor, b: Tensor, ranks: tuple[int, int]) -> Tensor:
    if (a.ndim, b.ndim) != ranks:
        raise errors.ShapeError(
            f"{op}: shapes {list(a.shape)} and {list(b.shape)}; {ranks[0]} and {ranks[1]} dims are needed"
        )
    return apply("matmul", a, b)


@method
def mm(input: Tensor, mat2: Tensor) -> Tensor:
    """The product of two matrices: [m, k] · [k, n] → [m, n]."""
    return _product("mm", input, mat2, (2, 2))


@method
def mv(input: Tensor, vec: Tensor) -> Tensor:
    """The product of a matrix and a vector: [m, k] · [k] → [m]."""
    return _product("mv", input, vec, (2, 1))


@method
def bmm(input: Tensor, mat2: Tensor) -> Tensor:
    """The products of two stacks of matrices: [b, m, k] · [b, k, n] → [b, m, n]."""
    if input.shape[:1] != mat2.shape[:1]:
        raise errors.ShapeError(
            f"bmm: stacks of {list(input.shape)} and {list(mat2.shape)} differ in length; one length is needed "
            f"(help: matmul broadcasts)"
        )
    return _product("bmm", input, mat2, (3, 3))


@method
def dot(input: Tensor, tensor: Tensor) -> Tensor:
    """The inner product of two vectors."""
    return _product("dot", input, tensor, (1, 1))


@method
def outer(input: Tensor, vec2: Tensor) -> Tensor:
    """All products of an element of one vector with one of another: [m], [n] → [m, n]."""
    if input.ndim != 1 or vec2.ndim != 1:
        raise errors.ShapeError(f"outer: shapes {list(input.shape)} and {list(vec2.shape)}; 1 dim each is needed")
    return apply("mul", apply("reshape", input, (-1, 1)), vec2)


def _sum(input: Tensor, product: Tensor, beta: Number, alpha: Number) -> Tensor:
    product = product if alpha == 1 else apply("mul", product, alpha)
    # As in PyTorch, a beta of 0 leaves out even a NaN.
    if beta == 0:
        return product
    return apply("add", input if beta == 1 else apply("mul", input, beta), product)


@method
def addmm(input: Tensor, mat1: Tensor, mat2: Tensor, *, beta: Number = 1, alpha: Number = 1) -> Tensor:
    """beta · input + alpha · mat1 mat2."""
    return _sum(input, mm(mat1, mat2), beta, alpha)


@method
def addmv(input: Tensor, mat: Tensor, vec: Tensor, *, beta: Number = 1, alpha: Number = 1) -> Tensor:
    """beta · input + alpha · mat vec."""
    return _sum(input, mv(mat, vec), beta, alpha)


@method
def addr(input: Tensor, vec1: Tensor, vec2: Tensor, *, beta: Number = 1, alpha: Number = 1) -> Tensor:
    """beta · input + alpha · the outer product of two vectors."""
    return _sum(input, outer(vec1, vec2), beta, alpha)


@method
def kron(input: Tensor, other: Tensor) -> Tensor:
    """The Kronecker product: other, times each element of input, in its place."""
    rank = max(input.ndim, other.ndim)
    mine = (1,) * (rank - input.ndim) + input.shape
    theirs = (1,) * (rank - other.ndim) + other.shape
    a = apply("reshape", input, [size for n in mine for size in (n, 1)])
    b = apply("reshape", other, [size for n in theirs for size in (1, n)])
    return apply("reshape", apply("mul", a, b), [n * m for n, m in zip(mine, theirs, strict=True)])


@method
def baddbmm(input: Tensor, batch1: Tensor, batch2: Tensor, *, beta: Number = 1, alpha: Number = 1) -> Tensor:
    """beta · input + alpha · batch1 batch2, matrix by matrix."""
    return _sum(input, bmm(batch1, batch2), beta, alpha)


@method
def trace(input: Tensor) -> Tensor:
    """The sum of the diagonal of a matrix."""
    if input.ndim != 2:
        raise errors.ShapeError(f"trace: {list(input.shape)} has {input.ndim} dims; 2 are needed")
    return apply("sum", diagonal(input), None, False)


def tensordot(a: Tensor, b: Tensor, dims: int | tuple[Sequence[int], Sequence[int]] = 2) -> Tensor:
    """Sum the products over dims of both: the last of a with the first of b, or two lists of dims.

    Example:
        >>> bs.tensordot(bs.ones(2, 3, 4), bs.ones(4, 3, 5), ([1, 2], [1, 0])).shape
        (2, 5)
    """
    if isinstance(dims, int):
        if not 0 <= dims <= min(a.ndim, b.ndim):
            raise errors.ValueError(f"tensordot: {dims} dims of {list(a.shape)} and {list(b.shape)}; fewer are there")
        dims = (range(a.ndim - dims, a.ndim), range(dims))
    left, right = axes_of("tensordot", dims[0], a.shape), axes_of("tensordot", dims[1], b.shape)
    sizes = [a.shape[axis] for axis in left], [b.shape[axis] for axis in right]
    if sizes[0] != sizes[1]:
        raise errors.ShapeError(
            f"tensordot: dims {left} of {list(a.shape)} have sizes {sizes[0]}, and dims {right} of {list(b.shape)} "
            f"{sizes[1]}; the sizes must be equal"
        )
    rows = [axis for axis in range(a.ndim) if axis not in left]
    columns = [axis for axis in range(b.ndim) if axis not in right]
    outside = [a.shape[axis] for axis in rows], [b.shape[axis] for axis in columns]
    m, n, inner = math.prod(outside[0]), math.prod(outside[1]), math.prod(sizes[0])
    x = apply("reshape", apply("permute", a, rows + left), (m, inner))
    y = apply("reshape", apply("permute", b, right + columns), (inner, n))
    return apply("reshape", apply("matmul", x, y), outside[0] + outside[1])


@method
def cross(input: Tensor, other: Tensor, dim: int | None = None) -> Tensor:
    """The vector at right angles to both, along a dim of size 3: the first such dim if none is named."""
    if dim is None:
        dim = next((axis for axis, size in enumerate(input.shape) if size == 3), 0)
    a, b = broadcast_tensors(input, other)
    axis = axis_of("cross", dim, a.shape)
    if not a.ndim or a.shape[axis] != 3:
        raise errors.ShapeError(f"cross: dim {dim} of {list(a.shape)}; a dim of size 3 is needed")
    left = apply("mul", apply("roll", a, -1, axis), apply("roll", b, -2, axis))
    right = apply("mul", apply("roll", a, -2, axis), apply("roll", b, -1, axis))
    return apply("sub", left, right)


def cdist(x1: Tensor, x2: Tensor, p: float = 2.0) -> Tensor:
    """The p-norm distance of every row of one matrix to every row of another; its gradient at distance 0 is 0.

    Shapes: [..., m, d], [..., n, d] → [..., m, n]
    """
    if x1.ndim < 2 or x2.ndim < 2 or x1.shape[-1] != x2.shape[-1]:
        raise errors.ShapeError(
            f"cdist: rows of {list(x1.shape)} and {list(x2.shape)}; matrices with one length of rows are needed"
        )
    return norm(apply("sub", x1.unsqueeze(-2), x2.unsqueeze(-3)), p, -1)


@method
def dist(input: Tensor, other: Tensor, p: float = 2.0) -> Tensor:
    """The p-norm of the difference."""
    return norm(apply("sub", input, other), p)
