"""Indexing with integers, slices, None, Ellipsis, masks and integer tensors, read and write, as in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np

from . import errors
from ._core import Tensor, apply
from .attach import method
from .creation import from_numpy, tensor
from .dtypes import bool as bool_
from .dtypes import int64

__all__ = ["gather", "index_select", "scatter_add", "take_along_dim"]


def _plan(input: Tensor, key: Any) -> tuple[Tensor, list[tuple[int, Tensor]]]:
    """Basic indices applied as views; the tensor indices that are left, by dim of the view."""
    items = list(key) if isinstance(key, tuple) else [key]
    items = [_normal(item) for item in items]
    used = sum(item.ndim if _is_mask(item) else 1 for item in items if item is not None and item is not Ellipsis)
    if sum(item is Ellipsis for item in items) > 1:
        raise errors.IndexError("index: more than one Ellipsis; one is enough")
    if used > input.ndim:
        raise errors.IndexError(f"index: {used} indices for {list(input.shape)}; {input.ndim} at most")
    missing = [slice(None)] * (input.ndim - used)
    place = next((i for i, item in enumerate(items) if item is Ellipsis), None)
    items = items + missing if place is None else items[:place] + missing + items[place + 1 :]

    starts, steps, sizes, shape = [], [], [], []
    advanced: list[tuple[int, Tensor]] = []
    axis = 0
    for item in items:
        if item is None:
            shape.append(1)
            continue
        size = input.shape[axis]
        if isinstance(item, int):
            if not -size <= item < size:
                valid = f"valid indices are {-size} to {size - 1}" if size else "there are none"
                raise errors.IndexError(f"index: index {item} is out of range for size {size}; {valid}")
            starts.append(item % size)
            steps.append(1)
            sizes.append(1)
            axis += 1
        elif isinstance(item, slice):
            start, stop, step = item.indices(size)
            count = len(range(start, stop, step))
            starts.append(start if count else 0)
            steps.append(step)
            sizes.append(count)
            shape.append(count)
            axis += 1
        else:
            for part in _coordinates(item, input.shape[axis : axis + max(1, item.ndim)]):
                advanced.append((len(shape), part))
                starts.append(0)
                steps.append(1)
                sizes.append(input.shape[axis])
                shape.append(input.shape[axis])
                axis += 1
    whole = all(s == 0 and t == 1 for s, t in zip(starts, steps, strict=True)) and tuple(sizes) == input.shape
    window = input if whole else apply("slice", input, tuple(starts), tuple(steps), tuple(sizes))
    return (window if tuple(shape) == window.shape else apply("reshape", window, tuple(shape))), advanced


def _is_mask(item: Any) -> bool:
    return isinstance(item, Tensor) and item.dtype is bool_


def _normal(item: Any) -> Any:
    """An int, a slice of ints, None, Ellipsis, or a tensor of bools or int64."""
    if item is None or item is Ellipsis or (isinstance(item, int) and not isinstance(item, bool)):
        return item
    if isinstance(item, slice):
        if item.step == 0:
            raise errors.ValueError("index: a slice of step 0; any other step is needed")
        return item
    if isinstance(item, (bool, np.bool_)):
        return tensor(bool(item))
    if isinstance(item, (list, np.ndarray, np.integer)):
        array = np.asarray(item)
        if array.ndim == 0:
            return int(array)
        item = from_numpy(np.array(array if array.dtype == bool else array.astype(np.int64)))
    if isinstance(item, Tensor):
        if item.dtype.is_floating_point:
            raise errors.IndexError(f"index: an index of dtype {item.dtype.name}; integers or bools are needed")
        return item if item.dtype in (bool_, int64) else item.to(int64)
    raise errors.IndexError(
        f"index: an index of type {type(item).__name__}; ints, slices, None, ..., masks and integer tensors are taken"
    )


def _coordinates(item: Tensor, sizes: tuple[int, ...]) -> list[Tensor]:
    """A mask as the coordinates of its true elements, an integer tensor as itself."""
    if item.dtype is not bool_:
        return [item]
    if item.shape != tuple(sizes):
        raise errors.IndexError(f"index: a mask of shape {list(item.shape)} for dims {list(sizes)}; they must be equal")
    return [from_numpy(np.ascontiguousarray(c.astype(np.int64))) for c in np.nonzero(np.asarray(item.numpy()))]


def _arranged(window: Tensor, advanced: list[tuple[int, Tensor]]) -> tuple[Tensor, list[Tensor], list[int]]:
    """The indexed dims first, the indices in one shape, and the order of the result's dims back to NumPy's."""
    dims = [dim for dim, _ in advanced]
    rest = [d for d in range(window.ndim) if d not in dims]
    moved = apply("permute", window, tuple(dims + rest))
    shape = np.broadcast_shapes(*(index.shape for _, index in advanced))
    indices = [apply("contiguous", apply("expand", index, shape)) for _, index in advanced]
    picked = len(shape)
    together = dims == list(range(dims[0], dims[0] + len(dims)))
    lead = sum(1 for d in rest if d < dims[0]) if together else 0
    order = [picked + i for i in range(lead)] + list(range(picked)) + [picked + i for i in range(lead, len(rest))]
    return moved, indices, order


@method
def __getitem__(self: Tensor, key: Any) -> Tensor:
    """Part of a tensor: a view for ints and slices, a copy for masks and integer tensors."""
    window, advanced = _plan(self, key)
    if not advanced:
        return window
    moved, indices, order = _arranged(window, advanced)
    picked = apply("index_get", moved, *indices)
    return picked if order == list(range(len(order))) else apply("permute", picked, tuple(order))


@method
def __setitem__(self: Tensor, key: Any, value: Any) -> None:
    """Write part of a tensor; a value is broadcast, and its gradient is recorded."""
    if not isinstance(value, Tensor):
        value = tensor(value, dtype=self.dtype) if not isinstance(value, np.ndarray) else from_numpy(np.array(value))
    if value.dtype is not self.dtype:
        value = value.to(self.dtype)
    recorded = self.requires_grad or value.requires_grad
    window, advanced = _plan(self.detach(), key)
    if not advanced and not recorded:
        apply_in = apply("expand", value, window.shape) if value.shape != window.shape else value
        window.copy_(apply_in)
        return
    positions = apply("reshape", _positions(self), self.shape)
    places, more = _plan(positions, key)
    if more:
        moved, indices, order = _arranged(places, more)
        places = apply("index_get", moved, *indices)
        places = apply("permute", places, tuple(order))
    flat = apply("reshape", places, (-1,))
    values = apply("reshape", apply("expand", value, places.shape), (-1,))
    changed = apply("index_put", apply("reshape", self, (-1,)), values, flat, False)
    _rewrite(self, changed)


def _positions(self: Tensor) -> Tensor:
    return from_numpy(np.arange(self.numel(), dtype=np.int64))


def _rewrite(self: Tensor, changed: Tensor) -> None:
    """self = changed, in self's memory, with the history of `changed`."""
    if self.is_leaf and self.requires_grad:
        raise errors.GraphError(
            "index_put_: the target is a leaf that requires a gradient; write to it under no_grad, or write to a clone"
        )
    self.copy_(apply("reshape", changed, self.shape))


@method
def index_select(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """The slices of a dim that a 1-d int64 index names."""
    if index.ndim != 1:
        raise errors.ShapeError(f"index_select: an index of shape {list(index.shape)}; one dim is needed")
    axis = dim % max(1, input.ndim)
    return input[(slice(None),) * axis + (index,)]


@method
def gather(input: Tensor, dim: int, index: Tensor) -> Tensor:
    """out[i…] = input[i… with the dim replaced by index[i…]]"""
    return apply("gather", input, index, dim)


@method
def scatter_add(input: Tensor, dim: int, index: Tensor, src: Tensor) -> Tensor:
    """A copy of input with src added at the places that index names along dim."""
    return apply("scatter_add", input, index, src, dim)


@method
def take_along_dim(input: Tensor, indices: Tensor, dim: int) -> Tensor:
    """`gather`, with input and indices broadcast outside the dim."""
    axis = dim % input.ndim
    shape = [max(a, b) for a, b in zip(input.shape, indices.shape, strict=True)]
    wide, places = list(shape), list(shape)
    wide[axis], places[axis] = input.shape[axis], indices.shape[axis]
    spread = apply("expand", input, tuple(wide))
    return apply("gather", spread, apply("contiguous", apply("expand", indices, tuple(places))), axis)
