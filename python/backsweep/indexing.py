"""Elements by number: along a dim, by mask, in order; and where elements are."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

from . import _core, errors
from ._core import Tensor, apply
from .attach import method, method_as
from .dtypes import bool as bool_
from .dtypes import int32, int64, promote_types
from .shape import axis_of, broadcast_shapes, window
from .types import Number, Operand

__all__ = [
    "argsort",
    "argwhere",
    "bincount",
    "bucketize",
    "gather",
    "histc",
    "index_add",
    "index_copy",
    "index_fill",
    "index_put",
    "index_select",
    "isin",
    "masked_scatter",
    "masked_select",
    "msort",
    "nonzero",
    "scatter",
    "scatter_add",
    "searchsorted",
    "sort",
    "take",
    "take_along_dim",
    "topk",
    "unique",
    "unique_consecutive",
]


def as_index(op: str, index: Tensor) -> Tensor:
    """An index tensor as int64.

    Raises: DTypeError
    """
    if not isinstance(index, Tensor):
        raise errors.DTypeError(f"{op}: the index is a {type(index).__name__}; a tensor of int64 is needed")
    if index.dtype is int64:
        return index
    if index.dtype is not int32:
        raise errors.DTypeError(f"{op}: an index of {index.dtype.name}; int64 is needed (help: x.long())")
    return apply("cast", index, int64)


@method
def gather(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The elements of each line along dim that index names: y[i][j] = input[i][index[i][j]] for dim 1."""
    return apply("gather", input, as_index("gather", index), dim)


@method
def take_along_dim(input: Tensor, indices: Tensor, dim: int | None = None) -> Tensor:
    """`gather`, with input and indices broadcast along the other dims; without dim, of the flat tensor."""
    indices = as_index("take_along_dim", indices)
    if dim is None:
        return apply("gather", apply("reshape", input, (-1,)), apply("reshape", indices, (-1,)), 0)
    if input.ndim != indices.ndim:
        raise errors.ShapeError(
            f"take_along_dim: {list(input.shape)} and indices {list(indices.shape)}; as many dims of each are needed"
        )
    axis = axis_of("take_along_dim", dim, input.shape)
    mine, theirs = list(input.shape), list(indices.shape)
    mine[axis] = theirs[axis] = 1
    joint = list(broadcast_shapes("take_along_dim", mine, theirs))
    wide = [*joint[:axis], input.shape[axis], *joint[axis + 1 :]]
    named = [*joint[:axis], indices.shape[axis], *joint[axis + 1 :]]
    return apply("gather", apply("expand", input, wide), apply("expand", indices, named), axis)


def _like(op: str, input: Tensor, src: Operand) -> Tensor:
    """A number as a 0-d tensor of input's dtype; a tensor must have that dtype."""
    if not isinstance(src, Tensor):
        return _core.full([], float(src), input.dtype)
    if src.dtype is not input.dtype:
        raise errors.DTypeError(
            f"{op}: values of {src.dtype.name} for a tensor of {input.dtype.name}; one dtype is needed "
            f"(help: values.to(bs.{input.dtype.name}))"
        )
    return src


@method
def scatter(
    input: Tensor, dim: int, index: Tensor, src: Operand | None = None, *, value: Number | None = None
) -> Tensor:
    """A copy of input with src, or a value, written where index names places along dim; of several at one place, the last stays."""
    source = value if src is None else src
    if source is None or (src is not None and value is not None):
        raise errors.ValueError("scatter: src and value are both given, or neither; one of them is needed")
    index, values = as_index("scatter", index), _like("scatter", input, source)
    values = values if isinstance(source, Tensor) else apply("expand", values, index.shape)
    return apply("scatter", input, index, values, dim)


@method
def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """A copy of input with src added where index names places along dim."""
    return apply("scatter_add", input, as_index("scatter_add", index), _like("scatter_add", input, src), dim)


@method
def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices along dim that a list of indices names."""
    index = as_index("index_select", index)
    index = index if index.ndim else apply("reshape", index, (1,))
    if not input.ndim:
        return apply("reshape", apply("index_select", apply("reshape", input, (1,)), index, dim), ())
    return apply("index_select", input, index, dim)


def _swapped(x: Tensor, axis: int) -> Tensor:
    """x with a dim brought to the front, or from there back to its place."""
    if axis == 0:
        return x
    order = list(range(x.ndim))
    order[0], order[axis] = axis, 0
    return apply("permute", x, order)


@method
def index_put(input: Tensor, indices: tuple[Tensor, ...], values: Tensor, accumulate: bool = False) -> Tensor:
    """A copy of input with values written, or added, at the places that index tensors name."""
    found = [as_index("index_put", index) for index in indices]
    joint = broadcast_shapes("index_put", *(index.shape for index in found))
    found = [apply("expand", index, joint) for index in found]
    values = apply("expand", _like("index_put", input, values), (*joint, *input.shape[len(found) :]))
    return apply("index_put", input, values, *found, accumulate)


@method
def index_add(input: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Number = 1) -> Tensor:
    """A copy of input with slices of source, times alpha, added where a list of indices says along dim."""
    source = _like("index_add", input, source)
    return apply("index_add", input, as_index("index_add", index), source if alpha == 1 else source * alpha, dim)


@method
def index_copy(input: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """A copy of input with slices of source written where a list of indices says along dim."""
    axis, index = axis_of("index_copy", dim, input.shape), as_index("index_copy", index)
    source = _like("index_copy", input, source)
    return _swapped(apply("index_put", _swapped(input, axis), _swapped(source, axis), index, False), axis)


@method
def index_fill(input: Tensor, dim: int, index: Tensor, value: Number) -> Tensor:
    """A copy of input with one number written to the slices along dim that a list of indices names."""
    axis, index = axis_of("index_fill", dim, input.shape), as_index("index_fill", index)
    front = _swapped(input, axis)
    places = apply("reshape", index, (-1,))
    return _swapped(apply("index_put", front, _like("index_fill", input, value), places, False), axis)


@method
def nonzero(input: Tensor, *, as_tuple: bool = False) -> Tensor | tuple[Tensor, ...]:
    """The indices of the elements that are not 0, in row-major order; as_tuple gives one tensor for each dim.

    Shapes: [...] → [n, ndim]
    """
    found = _core.nonzero(input)
    return found.unbind(1) if as_tuple else found


@method
def argwhere(input: Tensor) -> Tensor:
    """`nonzero` under NumPy's name."""
    return _core.nonzero(input)


@method
def masked_select(input: Tensor, mask: Tensor) -> Tensor:
    """The elements where mask is True, in row-major order, as a vector."""
    shape = broadcast_shapes("masked_select", input.shape, mask.shape)
    return apply("expand", input, shape)[apply("expand", mask, shape)]


@method
def masked_scatter(input: Tensor, mask: Tensor, source: Tensor) -> Tensor:
    """A copy of input with the first elements of source where mask is True, in row-major order."""
    shape = broadcast_shapes("masked_scatter", input.shape, mask.shape)
    places = _core.nonzero(apply("expand", mask, shape))
    values = apply("reshape", _like("masked_scatter", input, source), (-1,))
    count = places.shape[0]
    if values.numel() < count:
        raise errors.ShapeError(
            f"masked_scatter: {values.numel()} values for {count} places; at least as many are needed"
        )
    if not shape:
        return apply("reshape", values[:1], ()) if count else input.clone()
    columns = [apply("contiguous", column) for column in places.unbind(1)]
    return apply("index_put", apply("expand", input, shape), values[:count], *columns, False)


# Order


class Sorted(NamedTuple):
    """Elements in order, and where they stood."""

    values: Tensor
    indices: Tensor


@method
def sort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Sorted:
    """The elements of each line along dim in order, and where they stood.

    Equal elements always keep their order, and NaN is above every number.
    """
    return Sorted(*apply("sort", input, dim, descending))


@method
def argsort(input: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Tensor:
    """Where the elements of each line along dim stand, in their order."""
    return sort(input.detach(), dim, descending).indices


@method
def msort(input: Tensor) -> Tensor:
    """The elements along the first dim in order."""
    return sort(input, 0).values


@method
def topk(input: Tensor, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> Sorted:
    """The k largest, or smallest, elements of each line along dim, always in order, and where they stood."""
    return Sorted(*apply("topk", input, k, dim, largest))


def searchsorted(
    sorted_sequence: Tensor, input: Operand, *, right: bool = False, side: str | None = None
) -> Tensor:
    """Where values belong in sorted rows so that these stay sorted: before equal elements, or with right after them.

    Shapes: sorted_sequence [n] with any input, or [..., n] with [..., m]
    """
    if side not in (None, "left", "right"):
        raise errors.ValueError(f"searchsorted: side is {side!r}; 'left' or 'right' is needed")
    values = input if isinstance(input, Tensor) else _core.full([], float(input), sorted_sequence.dtype)
    if sorted_sequence.dtype is not values.dtype:
        joint = promote_types(sorted_sequence.dtype, values.dtype)
        sorted_sequence, values = sorted_sequence.to(joint), values.to(joint)
    return apply("searchsorted", sorted_sequence, values, right or side == "right")


def bucketize(input: Tensor, boundaries: Tensor, *, right: bool = False) -> Tensor:
    """The number of the interval between boundaries that each element is in."""
    return searchsorted(boundaries, input, right=right)


@method
def unique(
    input: Tensor, sorted: bool = True, return_inverse: bool = False, return_counts: bool = False
) -> Tensor | tuple[Tensor, ...]:
    """The different elements in order; also, where each element went, and how often each occurs.

    NaN differs from every other NaN.
    """
    flat = apply("reshape", input.detach(), (-1,))
    values, places = apply("sort", flat, 0, False)
    first, found = _runs(values)
    more = []
    if return_inverse:
        rank = apply("sub", apply("cumsum", first, 0), 1)
        more.append(apply("reshape", apply("scatter", _core.full([flat.numel()], 0.0, int64, flat.device), places, rank, 0), input.shape))
    if return_counts:
        more.append(_run_lengths(first))
    return (found, *more) if more else found


@method
def unique_consecutive(
    input: Tensor, return_inverse: bool = False, return_counts: bool = False
) -> Tensor | tuple[Tensor, ...]:
    """The elements without those that equal the one before; also, where each went, and how many they were."""
    flat = apply("reshape", input.detach(), (-1,))
    first, found = _runs(flat)
    more = []
    if return_inverse:
        more.append(apply("reshape", apply("sub", apply("cumsum", first, 0), 1), input.shape))
    if return_counts:
        more.append(_run_lengths(first))
    return (found, *more) if more else found


def _runs(values: Tensor) -> tuple[Tensor, Tensor]:
    """True where a run of equal elements begins, and the element of each run."""
    size = values.numel()
    if not size:
        return _core.full([0], 0.0, bool_, values.device), values
    fresh = apply("ne", window(values, 0, 1, size - 1), window(values, 0, 0, size - 1))
    first = apply("cat", _core.full([1], 1.0, bool_, values.device), fresh, 0)
    return first, apply("index_get", values, apply("reshape", _core.nonzero(first), (-1,)))


def _run_lengths(first: Tensor) -> Tensor:
    starts = apply("reshape", _core.nonzero(first), (-1,))
    ends = apply("cat", starts, _core.full([1], float(first.numel()), int64, first.device), 0)
    return apply("sub", window(ends, 0, 1, starts.numel()), starts)


@method
def take(input: Tensor, index: Tensor) -> Tensor:
    """The elements of the flat tensor at the places that index names, in the index's shape."""
    index = as_index("take", index)
    picked = apply("gather", apply("reshape", input, (-1,)), apply("reshape", index, (-1,)), 0)
    return apply("reshape", picked, index.shape)


@method
def histc(input: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """How many elements fall into each of `bins` equal parts from min to max; of two zeros, the range of the elements."""
    x = apply("reshape", input.detach(), (-1,))
    if bins < 1 or max < min:
        raise errors.ValueError(f"histc: {bins} bins from {min} to {max}; one bin or more, and an ordered range, are needed")
    if min == max == 0 and x.numel():
        min, max = float(x.amin()), float(x.amax())
    if min == max:
        min, max = min - 1.0, max + 1.0
    x = x.masked_select(apply("logical_and", apply("ge", x, min), apply("le", x, max)))
    place = apply("cast", apply("mul", apply("sub", x, min), bins / (max - min)), int64)
    counts = apply("index_add", _core.full([bins], 0.0, int64, x.device), apply("minimum", place, bins - 1), _core.full(x.shape, 1.0, int64, x.device), 0)
    return apply("cast", counts, input.dtype)


def isin(elements: Tensor, test_elements: Operand, *, invert: bool = False) -> Tensor:
    """True where an element is among the test elements."""
    tests = test_elements if isinstance(test_elements, Tensor) else _core.full([1], float(test_elements), elements.dtype, elements.device)
    ordered = apply("sort", apply("reshape", tests.detach(), (-1,)), 0, False)[0]
    if not ordered.numel():
        return _core.full(elements.shape, float(invert), bool_, elements.device)
    place = searchsorted(ordered, elements.detach())
    near = apply("index_get", ordered, apply("minimum", place, ordered.numel() - 1))
    return apply("ne" if invert else "eq", elements, near)


@method
def bincount(input: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    """How often each number from 0 on occurs, or the sum of its weights."""
    if input.ndim != 1 or input.is_floating_point():
        raise errors.ShapeError(
            f"bincount: {list(input.shape)} of {input.dtype.name}; integers in 1 dim are needed"
        )
    index = apply("cast", input, int64)
    if input.numel() and int(index.amin()) < 0:
        raise errors.ValueError(f"bincount: the number {int(index.amin())}; zero or more is needed")
    size = max(minlength, int(index.amax()) + 1 if input.numel() else 0)
    values = _core.full(input.shape, 1.0, int64, input.device) if weights is None else weights
    return apply("index_add", _core.full([size], 0.0, values.dtype, values.device), index, values, 0)


# In place: the new values, written into the tensor's memory.


def _in_place(function: Callable[..., Tensor]) -> None:
    @wraps(function)
    def write(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return self.copy_(function(self, *args, **kwargs))

    write.__doc__ = f"`{function.__name__}`, written into this tensor."
    method_as(f"{function.__name__}_")(write)


for _function in (index_add, index_copy, index_fill, index_put, masked_scatter, scatter, scatter_add):
    _in_place(_function)
