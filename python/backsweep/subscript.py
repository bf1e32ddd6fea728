"""x[...] and x[...] = value: ints, slices, None, ... are views; masks, index tensors and lists of numbers are copies.

The dims that index tensors make stand where the tensors stand together, else in front, as in NumPy; an int only drops its
dim, as in PyTorch (NumPy counts it among the index tensors). A subscript is read once into a plan: a window that strides
can say, and below it the dims that index tensors pick from.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

from . import _core, errors
from ._core import Tensor, apply, apply_, is_grad_enabled
from .attach import method
from .dtypes import bool as bool_
from .dtypes import int64
from .shape import broadcast_shapes


class _Plan(NamedTuple):
    """What a subscript asks for."""

    starts: list[int]
    steps: list[int]
    sizes: list[int]
    # The shape of the window with dims dropped by ints, and added by None; None if the window has it already.
    shape: list[int] | None
    # Index tensors of one shape, the dims of the window that they pick from, and where their own dims go in the result.
    indices: list[Tensor]
    dims: list[int]
    place: int


@method
def __getitem__(self: Tensor, index: Any) -> Tensor:
    """Elements by subscript: a view, unless a mask or an index tensor is in it."""
    shape = self.shape
    if type(index) is int and shape:
        size = shape[0]
        if -size <= index < size:
            rest = shape[1:]
            steps = (1,) * len(shape)
            start = index if index >= 0 else index + size
            window = apply("slice", self, (start, *(0,) * len(rest)), steps, (1, *rest))
            return apply("reshape", window, rest)
    plan = _read(index, shape, self.device)
    window = _window(self, plan)
    if not plan.indices:
        return window
    front, order = _to_front(window, plan)
    found = apply("index_get", front, *plan.indices)
    return found if order is None else apply("permute", found, order)


@method
def __setitem__(self: Tensor, index: Any, value: Any) -> None:
    """Write value, broadcast and converted, to the elements that a subscript names."""
    plan = _read(index, self.shape, self.device)
    value = _as_value(self, value)
    if not plan.indices:
        _write_window(self, plan, value)
        return
    if self.requires_grad and is_grad_enabled():
        _check_target(self)
    recorded = is_grad_enabled() and (self.requires_grad or value.requires_grad)
    whole = _is_whole(plan, self.shape)
    window = self if whole else _window(self if recorded else self.detach(), plan)
    front, order = _to_front(window, plan)
    named = (*plan.indices[0].shape, *front.shape[len(plan.indices) :])
    if order is None:
        value = _spread(value, named)
    else:
        # The value has the dims of x[index]; the op wants those of the indices in front.
        value = _spread(value, [named[axis] for axis in order])
        value = apply("permute", value, sorted(range(len(order)), key=order.__getitem__))
    if front is self:
        apply_("index_put", self, value, *plan.indices)
        return
    if not recorded and front.shares_memory(self):
        apply_("index_put", front, value, *plan.indices)
        return
    written = apply("index_put", front, value, *plan.indices)
    moved = plan.dims + [axis for axis in range(window.ndim) if axis not in plan.dims]
    back = sorted(range(len(moved)), key=moved.__getitem__)
    written = apply("permute", written, back)
    if whole:
        self.copy_(written)
    else:
        _write_window(self, plan, written)


def _check_target(self: Tensor) -> None:
    if self.is_leaf:
        raise errors.GraphError(
            "setitem: the target is a leaf that requires a gradient; write to it under no_grad, or use bs.where"
        )


def _as_value(self: Tensor, value: Any) -> Tensor:
    if not isinstance(value, Tensor):
        from .creation import as_tensor, tensor

        if isinstance(value, float) and not self.is_floating_point():
            raise errors.DTypeError(
                f"setitem: the number {value} for a tensor of {self.dtype.name}; an integer is needed, or a floating tensor"
            )
        if isinstance(value, (bool, int, float)):
            return tensor(value, dtype=self.dtype)
        value = as_tensor(value)
    if value.dtype is self.dtype:
        return value
    if value.is_floating_point() and not self.is_floating_point():
        raise errors.DTypeError(
            f"setitem: values of {value.dtype.name} for a tensor of {self.dtype.name}; "
            f"cast one of them (help: value.to({self.dtype!r}))"
        )
    return apply("cast", value, self.dtype)


def _window(x: Tensor, plan: _Plan) -> Tensor:
    window = apply("slice", x, plan.starts, plan.steps, plan.sizes)
    return window if plan.shape is None else apply("reshape", window, plan.shape)


def _is_whole(plan: _Plan, shape: Sequence[int]) -> bool:
    return plan.shape is None and plan.sizes == list(shape) and not any(plan.starts) and min(plan.steps, default=1) == 1


def _to_front(window: Tensor, plan: _Plan) -> tuple[Tensor, list[int] | None]:
    """The window with its indexed dims in front, and the order that brings the result's dims to their places."""
    dims, rank = plan.dims, window.ndim
    front = window
    if dims != list(range(len(dims))):
        rest = [axis for axis in range(rank) if axis not in dims]
        front = apply("permute", window, [*dims, *rest])
    own, place = plan.indices[0].ndim, plan.place
    if place == 0 or own == 0:
        return front, None
    before = list(range(own, own + place))
    return front, [*before, *range(own), *range(own + place, own + rank - len(dims))]


def _spread(value: Tensor, shape: Sequence[int]) -> Tensor:
    """A value broadcast to the shape of the elements that it is written to; sizes of 1 in front may be too many."""
    shape = tuple(shape)
    if value.shape == shape:
        return value
    own = value.shape
    while len(own) > len(shape) and own[0] == 1:
        own = own[1:]
    fits = len(own) <= len(shape) and all(n in (1, m) for n, m in zip(reversed(own), reversed(shape), strict=False))
    if not fits:
        raise errors.ShapeError(
            f"setitem: a value of shape {list(value.shape)} for elements of shape {list(shape)}; "
            f"it must have this shape, or broadcast to it"
        )
    return apply("expand", apply("reshape", value, own), shape)


def _write_window(self: Tensor, plan: _Plan, value: Tensor) -> None:
    """Write to the part of a tensor that strides can say."""
    value = _spread(value, plan.sizes if plan.shape is None else plan.shape)
    if not (is_grad_enabled() and (self.requires_grad or value.requires_grad)):
        _window(self.detach(), plan).copy_(value)
        return
    if self.requires_grad:
        _check_target(self)
    spread = apply("reshape", value, plan.sizes)
    window = (plan.starts, plan.steps, plan.sizes, self.shape)
    mask = apply("embed", _core.full(plan.sizes, 1.0, bool_, self.device), *window)
    self.copy_(apply("where", mask, apply("embed", spread, *window), self))


# From a subscript to a plan


class _Reader:
    """Goes through the items of a subscript from left to right."""

    def __init__(self, shape: Sequence[int]) -> None:
        self.shape = shape
        self.axis = 0  # the next dim of the tensor
        self.starts: list[int] = []
        self.steps: list[int] = []
        self.sizes: list[int] = []
        self.out: list[int] = []  # the dims of the window after ints and None
        self.indices: list[Tensor] = []
        self.dims: list[int] = []
        # Advanced items that stand together leave their dims in place, and to the front if not.
        self.first: int | None = None
        self.together = True
        self.open = False  # the item before was an advanced one

    def dim(self, start: int, step: int, size: int, kept: bool = True) -> None:
        """Take a window on the next dim."""
        self.starts.append(start)
        self.steps.append(step)
        self.sizes.append(size)
        if kept:
            self.out.append(size)
        self.axis += 1

    def whole(self, count: int = 1) -> None:
        for _ in range(count):
            self.dim(0, 1, self.shape[self.axis])

    def apart(self) -> None:
        """A slice, None or ... ends a run of advanced items."""
        self.open = False

    def advanced(self) -> None:
        """An index tensor continues a run, or begins the only one that may be."""
        if self.first is None:
            self.first = len(self.out)
        elif not self.open:
            self.together = False
        self.open = True

    def int(self, index: int) -> None:
        size = self.shape[self.axis]
        if not -size <= index < size:
            valid = f"valid indices are {-size} to {size - 1}" if size else "there are none"
            raise errors.IndexError(
                f"index: {index} is out of range for dim {self.axis} of {list(self.shape)}; {valid}"
            )
        self.dim(index % size, 1, 1, kept=False)

    def slice(self, index: slice) -> None:
        size = self.shape[self.axis]
        if index.step is not None and operator.index(index.step) <= 0:
            raise errors.ValueError(
                f"index: a slice of step {index.step}; a step above 0 is needed (help: x.flip turns a dim round)"
            )
        start, stop, step = index.indices(size)
        length = len(range(start, stop, step))
        self.apart()
        self.dim(start if length else 0, step, length)

    def tensor(self, index: Tensor) -> None:
        """An index tensor takes one dim, a mask as many as it has."""
        self.advanced()
        if index.dtype is not bool_:
            self.dims.append(len(self.out))
            self.indices.append(index if index.dtype is int64 else apply("cast", index, int64))
            self.whole()
            return
        covered = tuple(self.shape[self.axis : self.axis + index.ndim])
        if index.shape != covered:
            raise errors.IndexError(
                f"index: a mask of shape {list(index.shape)} on dims of shape {list(covered)}; the shapes must be equal"
            )
        places = _core.nonzero(index)
        if not index.ndim:  # one new dim, of which the mask keeps 0 or 1 elements
            self.dims.append(len(self.out))
            self.indices.append(_core.full([places.shape[0]], 0.0, int64, index.device))
            self.out.append(1)
            return
        for column in places.unbind(1):
            self.dims.append(len(self.out))
            self.indices.append(apply("contiguous", column))
            self.whole()


def _read(index: Any, shape: Sequence[int], device: str) -> _Plan:
    items = [_item(item, device) for item in (index if type(index) is tuple else (index,))]
    taken = sum(_takes(item) for item in items)
    if taken > len(shape):
        raise errors.IndexError(f"index: {taken} indices for a tensor of shape {list(shape)}; {len(shape)} at most can be used")
    if sum(item is Ellipsis for item in items) > 1:
        raise errors.IndexError("index: ... stands more than once; once at most can be used")
    reader = _Reader(shape)
    for item in items:
        if item is None:
            reader.apart()
            reader.out.append(1)
        elif item is Ellipsis:
            reader.apart()
            reader.whole(len(shape) - taken)
        elif type(item) is slice:
            reader.slice(item)
        elif type(item) is int:
            reader.int(item)
        else:
            reader.tensor(item)
    reader.whole(len(shape) - reader.axis)
    indices, out = reader.indices, reader.out
    if len(indices) > 1 and any(i.shape != indices[0].shape for i in indices):
        try:
            joint = broadcast_shapes("index", *(i.shape for i in indices))
        except errors.ShapeError as error:
            raise errors.IndexError(str(error)) from None
        indices = [apply("expand", i, joint) for i in indices]
    place = (reader.first or 0) if reader.together else 0
    reshaped = None if out == reader.sizes else out
    return _Plan(reader.starts, reader.steps, reader.sizes, reshaped, indices, reader.dims, place)


def _takes(item: Any) -> int:
    """How many dims an item uses up."""
    if item is None or item is Ellipsis:
        return 0
    return item.ndim if isinstance(item, Tensor) and item.dtype is bool_ else 1


def _item(item: Any, device: str) -> Any:
    """An item as None, ..., a slice, an int, or a tensor of bools or integers; lists and arrays go to the device."""
    kind = type(item)
    if item is None or item is Ellipsis or kind is int:
        return item
    if kind is slice:
        return item
    if kind is bool:
        return _core.full([], float(item), bool_, device)
    if not isinstance(item, Tensor):
        if hasattr(item, "__index__") and not hasattr(item, "shape"):
            return operator.index(item)
        item = _as_index(item, device)
    if item.is_floating_point():
        raise errors.IndexError(
            f"index: a tensor of {item.dtype.name}; ints, slices, None, ..., masks and integer tensors are needed "
            f"(help: x.long())"
        )
    if not item.ndim and item.dtype is not bool_:
        return int(item.item())
    return item.detach()


def _as_index(item: Any, device: str) -> Tensor:
    if not isinstance(item, (list, tuple, range)) and not hasattr(item, "__array_interface__"):
        raise errors.IndexError(
            f"index: a {type(item).__name__}; ints, slices, None, ..., masks and integer tensors are needed"
        )
    from .creation import as_tensor

    if hasattr(item, "__array_interface__"):
        if item.dtype.kind in "iu" and item.dtype.itemsize in (1, 2, 4) and str(item.dtype) != "uint8":
            item = item.astype("int64")
        return as_tensor(item, device=device)
    found = as_tensor(item, device=device)
    return found.long() if not found.numel() and found.is_floating_point() else found
