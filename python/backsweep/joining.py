"""Tensors put together, taken apart, and repeated."""

from __future__ import annotations

from collections.abc import Sequence

from . import errors
from ._core import Tensor, apply
from .attach import method, method_as
from .shape import axis_of, sizes_of, window
from .types import Size

__all__ = [
    "atleast_1d",
    "atleast_2d",
    "atleast_3d",
    "block_diag",
    "cartesian_prod",
    "cat",
    "chunk",
    "column_stack",
    "dstack",
    "hstack",
    "meshgrid",
    "repeat_interleave",
    "roll",
    "split",
    "stack",
    "tensor_split",
    "tile",
    "unbind",
    "vstack",
]


def cat(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Put tensors one after the other along a dim; their other sizes must be equal.

    Example:
        >>> bs.cat([bs.zeros(2, 3), bs.ones(1, 3)]).shape
        (3, 3)
    """
    return apply("cat", *_several("cat", tensors), dim)


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Put tensors of one shape beside each other along a new dim."""
    tensors = _several("stack", tensors)
    shape = tensors[0].shape
    for tensor in tensors:
        if tensor.shape != shape:
            raise errors.ShapeError(
                f"stack: shapes {list(shape)} and {list(tensor.shape)} differ; all shapes must be equal"
            )
    axis = axis_of("stack", dim, shape, extra=1)
    shape = (*shape[:axis], 1, *shape[axis:])
    return apply("cat", *[apply("reshape", tensor, shape) for tensor in tensors], axis)


def hstack(tensors: Sequence[Tensor]) -> Tensor:
    """Put tensors side by side: along the first dim of vectors, the second of others."""
    tensors = [tensor if tensor.ndim else apply("reshape", tensor, (1,)) for tensor in _several("hstack", tensors)]
    return apply("cat", *tensors, min(1, tensors[0].ndim - 1))


def vstack(tensors: Sequence[Tensor]) -> Tensor:
    """Put tensors on top of each other along the first dim; vectors are rows."""
    tensors = _several("vstack", tensors)
    rows = [tensor if tensor.ndim > 1 else apply("reshape", tensor, (1, -1)) for tensor in tensors]
    return apply("cat", *rows, 0)


def dstack(tensors: Sequence[Tensor]) -> Tensor:
    """Put tensors behind each other along the third dim; vectors are rows of one plane."""
    return apply("cat", *(atleast_3d(tensor) for tensor in _several("dstack", tensors)), 2)


def column_stack(tensors: Sequence[Tensor]) -> Tensor:
    """Put tensors side by side along the second dim; vectors are columns."""
    columns = [x if x.ndim > 1 else apply("reshape", x, (-1, 1)) for x in _several("column_stack", tensors)]
    return apply("cat", *columns, 1)


def atleast_1d(input: Tensor) -> Tensor:
    """A number as a vector; others as they are."""
    return input if input.ndim else apply("reshape", input, (1,))


def atleast_2d(input: Tensor) -> Tensor:
    """A number or a vector as a matrix of one row; others as they are."""
    return input if input.ndim > 1 else apply("reshape", input, (1, -1))


def atleast_3d(input: Tensor) -> Tensor:
    """A vector [n] as [1, n, 1], a matrix with a last dim of 1; others as they are."""
    if input.ndim > 2:
        return input
    return apply("reshape", input, (*input.shape, 1) if input.ndim == 2 else (1, -1, 1))


def block_diag(*tensors: Tensor) -> Tensor:
    """The matrix with these matrices along its diagonal, and zeros elsewhere."""
    blocks = [atleast_2d(tensor) for tensor in _several("block_diag", tensors)]
    width = sum(block.shape[1] for block in blocks)
    rows, start = [], 0
    for block in blocks:
        if block.ndim != 2:
            raise errors.ShapeError(f"block_diag: a block of shape {list(block.shape)}; at most 2 dims are needed")
        size = block.shape
        rows.append(apply("embed", block, (0, start), (1, 1), size, (size[0], width)))
        start += size[1]
    return apply("cat", *rows, 0)


def cartesian_prod(*tensors: Tensor) -> Tensor:
    """All choices of one element from each vector, one a row, the last vector fastest."""
    if len(tensors) == 1:
        return tensors[0]
    return stack([apply("reshape", grid, (-1,)) for grid in meshgrid(*tensors)], 1)


def _several(op: str, tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    if isinstance(tensors, Tensor):
        raise errors.DTypeError(f"{op}: one tensor was given; a list or tuple of tensors is needed")
    tensors = tuple(tensors)
    if not tensors:
        raise errors.ValueError(f"{op}: the list of tensors is empty; one tensor or more is needed")
    for place, tensor in enumerate(tensors):
        if not isinstance(tensor, Tensor):
            raise errors.DTypeError(f"{op}: tensors[{place}] is a {type(tensor).__name__}; a tensor is needed")
    return tensors


def _pieces(input: Tensor, axis: int, sizes: Sequence[int]) -> tuple[Tensor, ...]:
    if not sizes:
        return ()
    pieces = apply("split", input, axis, tuple(sizes))
    return pieces if len(sizes) > 1 else (pieces,)


def _dim(op: str, input: Tensor, dim: int) -> tuple[int, int]:
    shape = input.shape
    if not shape:
        raise errors.ShapeError(f"{op}: a 0-d tensor has no dim to divide; at least 1 dim is needed")
    axis = axis_of(op, dim, shape)
    return axis, shape[axis]


@method
def split(tensor: Tensor, split_size_or_sections: int | Sequence[int], dim: int = 0) -> tuple[Tensor, ...]:
    """Divide into pieces of one size, the last perhaps smaller, or of the sizes given. Pieces are views."""
    axis, size = _dim("split", tensor, dim)
    if isinstance(split_size_or_sections, int):
        step = split_size_or_sections
        if step < 0 or (step == 0 and size):
            raise errors.ValueError(f"split: pieces of size {step}; a size above 0 is needed")
        sizes = [min(step, size - start) for start in range(0, size, step)] if size else [0]
    else:
        sizes = list(split_size_or_sections)
        if sum(sizes) != size or any(n < 0 for n in sizes):
            raise errors.ValueError(
                f"split: sizes {sizes} for dim {dim} of {list(tensor.shape)}; they must sum to {size}"
            )
    return _pieces(tensor, axis, sizes)


@method
def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """Divide into at most that many pieces of one size, the last perhaps smaller. Pieces are views."""
    if chunks < 1:
        raise errors.ValueError(f"chunk: {chunks} chunks; one or more is needed")
    axis, size = _dim("chunk", input, dim)
    step = max(1, -(-size // chunks))
    return _pieces(input, axis, [min(step, size - start) for start in range(0, size, step)] or [0] * chunks)


@method
def tensor_split(
    input: Tensor, indices_or_sections: int | Sequence[int], dim: int = 0
) -> tuple[Tensor, ...]:
    """Divide into that many pieces whose sizes differ by at most 1, or before the indices given. Pieces are views."""
    axis, size = _dim("tensor_split", input, dim)
    if isinstance(indices_or_sections, int):
        sections = indices_or_sections
        if sections < 1:
            raise errors.ValueError(f"tensor_split: {sections} sections; one or more is needed")
        small, larger = divmod(size, sections)
        return _pieces(input, axis, [small + (piece < larger) for piece in range(sections)])
    places = [slice(place).indices(size)[1] for place in indices_or_sections]
    pieces, start = [], 0
    for end in [*places, size]:
        pieces.append(window(input, axis, start if end > start else 0, max(0, end - start)))
        start = end
    return tuple(pieces)


@method
def unbind(input: Tensor, dim: int = 0) -> tuple[Tensor, ...]:
    """All the parts along a dim, without it. Parts are views."""
    axis, size = _dim("unbind", input, dim)
    shape = input.shape
    rest = (*shape[:axis], *shape[axis + 1 :])
    return tuple(apply("reshape", piece, rest) for piece in _pieces(input, axis, (1,) * size))


@method
def repeat(self: Tensor, *repeats: int | Sequence[int]) -> Tensor:
    """Copy the tensor that many times along each dim; more repeats than dims add dims in front."""
    return _tiled("repeat", self, sizes_of(repeats))


def tile(input: Tensor, dims: Sequence[int]) -> Tensor:
    """Copy the tensor that many times along its last dims; NumPy's form of `repeat`."""
    return _tiled("tile", input, [1] * (input.ndim - len(dims)) + list(dims))


@method_as("tile")
def _tile(self: Tensor, *dims: int | Sequence[int]) -> Tensor:
    """Copy the tensor that many times along its last dims; NumPy's form of `repeat`."""
    return tile(self, sizes_of(dims))


def _tiled(op: str, input: Tensor, times: Sequence[int]) -> Tensor:
    shape = input.shape
    if len(times) < len(shape) or any(n < 0 for n in times):
        raise errors.ValueError(
            f"{op}: repeats {list(times)} for {list(shape)}; one for each dim is needed, none below 0"
        )
    shape = (1,) * (len(times) - len(shape)) + shape
    # [a, b] repeated (m, n) times is [m, a, n, b] with m and n broadcast.
    apart = [size for n in shape for size in (1, n)]
    spread = [size for m, n in zip(times, shape, strict=True) for size in (m, n)]
    x = apply("expand", apply("reshape", input, apart), spread)
    y = apply("reshape", x, [m * n for m, n in zip(times, shape, strict=True)])
    return y.clone() if y.shares_memory(input) else y


@method
def repeat_interleave(input: Tensor, repeats: int | Tensor, dim: int | None = None) -> Tensor:
    """Repeat each element in its place: that many times, or each its own number of times.

    Example:
        >>> bs.repeat_interleave(bs.tensor([1, 2]), 2).tolist()
        [1, 1, 2, 2]
    """
    if dim is None:
        input, dim = apply("reshape", input, (-1,)), 0
    axis, size = _dim("repeat_interleave", input, dim)
    if isinstance(repeats, int):
        counts = [repeats] * size
    else:
        counts = repeats.tolist() if repeats.ndim else [repeats.item()] * size
        counts = counts * size if len(counts) == 1 else counts
    if len(counts) != size or any(n < 0 for n in counts):
        raise errors.ValueError(
            f"repeat_interleave: repeats {counts} for dim {dim} of {list(input.shape)}; "
            f"one for each of {size} is needed, none below 0"
        )
    if isinstance(repeats, int):
        shape = input.shape
        x = apply("reshape", input, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
        x = apply("expand", x, (*shape[: axis + 1], repeats, *shape[axis + 1 :]))
        y = apply("reshape", x, (*shape[:axis], size * repeats, *shape[axis + 1 :]))
        return y.clone() if y.shares_memory(input) else y
    from .creation import tensor
    from .dtypes import int64

    places = [place for place, n in enumerate(counts) for _ in range(n)]
    return input.index_select(axis, tensor(places, dtype=int64))


@method
def roll(input: Tensor, shifts: Size, dims: Size | None = None) -> Tensor:
    """Move elements along dims; what leaves at one end comes in at the other. Without dims, of the flat tensor."""
    return apply("roll", input, shifts, None if dims == () else dims)


def meshgrid(*tensors: Tensor, indexing: str = "ij") -> tuple[Tensor, ...]:
    """Coordinates of a grid from those of its axes; indexing "xy" swaps the first two axes."""
    if indexing not in ("ij", "xy"):
        raise errors.ValueError(f"meshgrid: indexing {indexing!r} is unknown; 'ij' or 'xy' is needed")
    axes = list(tensors[0]) if len(tensors) == 1 and isinstance(tensors[0], (tuple, list)) else list(tensors)
    for axis in axes:
        if axis.ndim > 1:
            raise errors.ShapeError(f"meshgrid: an axis of shape {list(axis.shape)}; at most 1 dim is needed")
    sizes = [axis.numel() for axis in axes]
    order = list(range(len(axes)))
    if indexing == "xy" and len(axes) > 1:
        order[:2] = [1, 0]
    shape = [sizes[place] for place in order]
    grids = []
    for place, axis in enumerate(axes):
        own = [1] * len(axes)
        own[order.index(place)] = sizes[place]
        grids.append(apply("expand", apply("reshape", axis, own), shape))
    return tuple(grids)
