"""The same elements under other shapes: views wherever strides can say it, copies where they cannot."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import errors
from ._core import Tensor, apply
from .attach import method, method_as, property_as
from .types import Size

__all__ = [
    "broadcast_tensors",
    "broadcast_to",
    "diag",
    "diag_embed",
    "diagflat",
    "diagonal",
    "flatten",
    "flip",
    "fliplr",
    "flipud",
    "movedim",
    "narrow",
    "permute",
    "reshape",
    "rot90",
    "select",
    "squeeze",
    "swapaxes",
    "t",
    "transpose",
    "unflatten",
    "unsqueeze",
]


def sizes_of(given: tuple[Any, ...]) -> Any:
    """The sizes in f(2, 3), f((2, 3)) or f([2, 3])."""
    if len(given) == 1 and not isinstance(given[0], int):
        only = given[0]
        return only if isinstance(only, (tuple, list)) else (int(only),)
    return given


def axis_of(op: str, dim: int, shape: Sequence[int], extra: int = 0) -> int:
    """The place of a dim that may count from the end; extra makes room for new dims.

    Raises: IndexError
    """
    rank = len(shape) + extra
    least = max(rank, 1)
    if not -least <= dim < least:
        raise errors.IndexError(
            f"{op}: dim {dim} is out of range for {list(shape)}; valid dims are {-least} to {least - 1}"
        )
    return dim + least if dim < 0 else dim


def axes_of(op: str, dims: Size, shape: Sequence[int]) -> list[int]:
    """The places of several dims, each once.

    Raises: IndexError or ValueError
    """
    axes = [axis_of(op, dim, shape) for dim in ((dims,) if isinstance(dims, int) else dims)]
    if len(set(axes)) != len(axes):
        raise errors.ValueError(f"{op}: dims {list(dims)} name a dim twice; name each once")  # type: ignore[arg-type]
    return axes


def reshape(input: Tensor, shape: Sequence[int]) -> Tensor:
    """The same elements in another shape, a view if possible; one size may be -1."""
    return apply("reshape", input, shape)


@method
def view(self: Tensor, *shape: Any) -> Tensor:
    """The same memory in another shape; one size may be -1.

    Raises: ShapeError if no strides show this memory in that shape: `reshape` copies then.
    """
    shape = sizes_of(shape)
    result = apply("reshape", self, shape)
    if not result.shares_memory(self):
        raise errors.ShapeError(
            f"view: {list(self.shape)} with strides {list(self.stride())} cannot be seen as {list(shape)} "
            f"without a copy; its elements must lie in order (help: x.reshape copies)"
        )
    return result


@method_as("reshape")
def _reshape(self: Tensor, *shape: Any) -> Tensor:
    """The same elements in another shape, a view if possible; one size may be -1."""
    return apply("reshape", self, sizes_of(shape))


@method_as("permute")
def _permute(self: Tensor, *dims: Any) -> Tensor:
    """Put the dims in another order."""
    return apply("permute", self, sizes_of(dims))


@method
def view_as(self: Tensor, other: Tensor) -> Tensor:
    """The same memory in the shape of other."""
    return self.view(other.shape)


@method
def reshape_as(self: Tensor, other: Tensor) -> Tensor:
    """The same elements in the shape of other, a view if possible."""
    return apply("reshape", self, other.shape)


@method
def expand(self: Tensor, *sizes: Any) -> Tensor:
    """Repeat sizes of 1 without memory; -1 keeps a size, new dims come in front."""
    return apply("expand", self, sizes_of(sizes))


@method
def expand_as(self: Tensor, other: Tensor) -> Tensor:
    """Repeat sizes of 1 without memory, to the shape of other."""
    return apply("expand", self, other.shape)


@method
def broadcast_to(input: Tensor, shape: Sequence[int]) -> Tensor:
    """Repeat sizes of 1 without memory, to a shape."""
    return apply("expand", input, shape)


def broadcast_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Bring tensors to the shape that an operation on all of them would have."""
    shape = broadcast_shapes("broadcast_tensors", *(tensor.shape for tensor in tensors))
    return tuple(apply("expand", tensor, shape) for tensor in tensors)


def broadcast_shapes(op: str, *shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape that all shapes broadcast to.

    Raises: ShapeError
    """
    result: list[int] = [1] * max((len(shape) for shape in shapes), default=0)
    for shape in shapes:
        for place in range(-len(shape), 0):
            if result[place] == 1:
                result[place] = shape[place]
            elif shape[place] not in (1, result[place]):
                all_shapes = " and ".join(str(list(shape)) for shape in shapes)
                raise errors.ShapeError(
                    f"{op}: shapes {all_shapes} do not broadcast; from the right, sizes must be equal or 1"
                )
    return tuple(result)


def permute(input: Tensor, dims: Sequence[int]) -> Tensor:
    """Put the dims in another order."""
    return apply("permute", input, dims)


@method
def transpose(input: Tensor, dim0: int, dim1: int) -> Tensor:
    """Swap two dims."""
    shape = input.shape
    order = list(range(len(shape)))
    first, second = axis_of("transpose", dim0, shape), axis_of("transpose", dim1, shape)
    if not order:
        return apply("permute", input, order)
    order[first], order[second] = second, first
    return apply("permute", input, order)


@method
def swapaxes(input: Tensor, axis0: int, axis1: int) -> Tensor:
    """Swap two dims, under NumPy's name."""
    return transpose(input, axis0, axis1)


@method
def movedim(input: Tensor, source: Size, destination: Size) -> Tensor:
    """Move dims to other places; the others keep their order."""
    shape = input.shape
    sources, places = axes_of("movedim", source, shape), axes_of("movedim", destination, shape)
    if len(sources) != len(places):
        raise errors.ValueError(
            f"movedim: {len(sources)} dims to {len(places)} places; as many of one as of the other are needed"
        )
    order = [axis for axis in range(len(shape)) if axis not in sources]
    for place, axis in sorted(zip(places, sources, strict=True)):
        order.insert(place, axis)
    return apply("permute", input, order)


@method
def t(input: Tensor) -> Tensor:
    """Swap the two dims of a matrix; a vector stays as it is."""
    return input.T


def _transposed(self: Tensor) -> Tensor:
    """The transpose of a matrix; a vector stays as it is."""
    rank = self.ndim
    if rank > 2:
        raise errors.ShapeError(
            f"T: {list(self.shape)} has {rank} dims; at most 2 are needed (help: x.mT swaps the last two, permute any)"
        )
    return apply("permute", self, tuple(range(rank))[::-1])


def _matrix_transposed(self: Tensor) -> Tensor:
    """The transpose of each matrix: the last two dims swapped."""
    rank = self.ndim
    if rank < 2:
        raise errors.ShapeError(f"mT: {list(self.shape)} has {rank} dims; at least 2 are needed")
    return apply("permute", self, (*range(rank - 2), rank - 1, rank - 2))


property_as("T", _transposed)
property_as("mT", _matrix_transposed)


@method
def flatten(input: Tensor, start_dim: int = 0, end_dim: int = -1) -> Tensor:
    """Make one dim of the dims from start_dim to end_dim."""
    shape = input.shape
    first, last = axis_of("flatten", start_dim, shape), axis_of("flatten", end_dim, shape)
    if first > last:
        raise errors.ValueError(f"flatten: start_dim {start_dim} is behind end_dim {end_dim}; it must come first")
    if first == last and shape:
        return input
    size = 1
    for n in shape[first : last + 1]:
        size *= n
    return apply("reshape", input, (*shape[:first], size, *shape[last + 1 :]))


@method
def unflatten(input: Tensor, dim: int, sizes: Sequence[int]) -> Tensor:
    """Split one dim into several; one size may be -1."""
    shape = input.shape
    axis, sizes = axis_of("unflatten", dim, shape), list(sizes)
    known = 1
    for n in sizes:
        known *= n if n >= 0 else 1
    whole = sizes.count(-1) <= 1 and all(n >= -1 for n in sizes)
    if whole and -1 in sizes and known and shape[axis] % known == 0:
        sizes[sizes.index(-1)] = shape[axis] // known
    elif not whole or -1 in sizes or known != shape[axis]:
        raise errors.ShapeError(
            f"unflatten: dim {dim} of {list(shape)} cannot become {sizes}; the product must be {shape[axis]}"
        )
    return apply("reshape", input, (*shape[:axis], *sizes, *shape[axis + 1 :]))


@method
def squeeze(input: Tensor, dim: Size | None = None) -> Tensor:
    """Drop dims of size 1: all of them, or those of the dims named that have it."""
    shape = input.shape
    if dim is None:
        return apply("reshape", input, [n for n in shape if n != 1])
    axes = axes_of("squeeze", dim, shape)
    return apply("reshape", input, [n for axis, n in enumerate(shape) if n != 1 or axis not in axes])


@method
def unsqueeze(input: Tensor, dim: int) -> Tensor:
    """Add a dim of size 1."""
    shape = input.shape
    axis = axis_of("unsqueeze", dim, shape, extra=1)
    return apply("reshape", input, (*shape[:axis], 1, *shape[axis:]))


@method
def narrow(input: Tensor, dim: int, start: int, length: int) -> Tensor:
    """The elements start to start + length of a dim, as a view."""
    shape = input.shape
    axis = axis_of("narrow", dim, shape)
    size = shape[axis] if shape else 0
    first = start + size if start < 0 else start
    if not 0 <= first <= size or not 0 <= length <= size - first:
        raise errors.IndexError(
            f"narrow: {length} elements from {start} leave dim {dim} of {list(shape)}; 0 to {size} can be taken"
        )
    return window(input, axis, first, length)


def window(input: Tensor, axis: int, start: int, length: int, step: int = 1) -> Tensor:
    """Every step-th element of one axis, as a view; the range is not checked here."""
    sizes = list(input.shape)
    starts, steps = [0] * len(sizes), [1] * len(sizes)
    starts[axis], steps[axis], sizes[axis] = start, step, length
    return apply("slice", input, starts, steps, sizes)


def flip(input: Tensor, dims: Size) -> Tensor:
    """A copy with the order of elements turned round along dims."""
    return apply("flip", input, dims)


@method_as("flip")
def _flip(self: Tensor, *dims: Any) -> Tensor:
    """A copy with the order of elements turned round along dims."""
    return apply("flip", self, sizes_of(dims))


@method
def fliplr(input: Tensor) -> Tensor:
    """A copy of matrices with their columns in the other order."""
    return apply("flip", input, 1)


@method
def flipud(input: Tensor) -> Tensor:
    """A copy with the rows in the other order."""
    return apply("flip", input, 0)


@method
def rot90(input: Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> Tensor:
    """Turn the plane of two dims by k quarters, from the first dim towards the second."""
    first, second = axes_of("rot90", dims, input.shape)
    if k % 4 == 0:
        return apply("contiguous", input)
    if k % 4 == 2:
        return apply("flip", input, (first, second))
    if k % 4 == 1:
        return apply("flip", transpose(input, first, second), first)
    return transpose(apply("flip", input, first), first, second)


@method
def unfold(self: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """All windows of a size along a dim, step apart, with the place within the window as the last dim. A copy."""
    shape = self.shape
    axis = axis_of("unfold", dimension, shape)
    length = shape[axis] if shape else 1
    if not 0 <= size <= length or step < 1:
        raise errors.ValueError(
            f"unfold: windows of {size}, {step} apart, on dim {dimension} of {list(shape)}; "
            f"a size of 0 to {length}, and a step above 0, are needed"
        )
    from .creation import tensor
    from .dtypes import int64

    starts = range(0, length - size + 1, step)
    places = tensor([start + place for start in starts for place in range(size)], dtype=int64)
    whole = self if shape else apply("reshape", self, (1,))
    picked = apply("index_select", whole, places, axis)
    windows = apply("reshape", picked, (*shape[:axis], len(starts), size, *shape[axis + 1 :]))
    moved = movedim(windows, axis + 1, -1)
    return moved if shape else apply("reshape", moved, (size,))


@method
def select(input: Tensor, dim: int, index: int) -> Tensor:
    """One part along a dim, without it, as a view."""
    shape = input.shape
    if not shape:
        raise errors.ShapeError("select: a 0-d tensor has no dim to select from; at least 1 dim is needed")
    axis = axis_of("select", dim, shape)
    size = shape[axis]
    if not -size <= index < size:
        valid = f"valid indices are {-size} to {size - 1}" if size else "there are none"
        raise errors.IndexError(f"select: index {index} is out of range for dim {dim} of {list(shape)}; {valid}")
    return apply("reshape", window(input, axis, index % size, 1), (*shape[:axis], *shape[axis + 1 :]))


@method
def diagonal(input: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    """The diagonals of the matrices that two dims make, as the last dim; offset moves above (> 0) or below.

    Example:
        >>> bs.diagonal(bs.arange(6).reshape(2, 3), 1).tolist()
        [1, 5]
    """
    return apply("diagonal", input, offset, dim1, dim2)


@method
def diag_embed(input: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Tensor:
    """Square matrices, over two new dims, with the last dim of input on a diagonal and zeros elsewhere."""
    shape = input.shape
    size = shape[axis_of("diag_embed", -1, shape)] + abs(offset)
    first, second = axis_of("diag_embed", dim1, shape, extra=1), axis_of("diag_embed", dim2, shape, extra=1)
    full = list(shape[:-1])
    for axis in sorted((first, second)):
        full.insert(axis, size)
    return apply("diagonal_embed", input, full, offset, first, second)


@method
def diag(input: Tensor, diagonal: int = 0) -> Tensor:
    """The diagonal of a matrix, or the matrix with a vector on its diagonal."""
    if input.ndim == 1:
        return diag_embed(input, diagonal)
    if input.ndim != 2:
        raise errors.ShapeError(f"diag: {list(input.shape)} has {input.ndim} dims; 1 or 2 are needed")
    return apply("contiguous", apply("diagonal", input, diagonal, 0, 1))


@method
def diagflat(input: Tensor, offset: int = 0) -> Tensor:
    """The matrix with all elements, in row-major order, on a diagonal."""
    return diag_embed(apply("reshape", input, (-1,)), offset)
