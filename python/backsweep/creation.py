"""New tensors: from data, filled with a number, and ranges."""

from __future__ import annotations

import math
import os
from array import array
from collections.abc import Sequence
from itertools import chain
from typing import Any

from . import _core, errors
from ._core import Tensor, apply
from .attach import method, method_as
from .dtypes import bool as bool_
from .dtypes import float32, float64, iinfo, int32, int64, uint8
from .shape import sizes_of
from .types import DType, Number

__all__ = [
    "arange",
    "as_tensor",
    "devices",
    "empty",
    "empty_like",
    "eye",
    "from_dlpack",
    "from_numpy",
    "full",
    "full_like",
    "linspace",
    "logspace",
    "ones",
    "ones_like",
    "tensor",
    "tril",
    "tril_indices",
    "triu",
    "triu_indices",
    "zeros",
    "zeros_like",
]


def check_device(op: str, device: str | None) -> str:
    """The name that a device answers to: "auto" is a GPU where there is one.

    Raises: DeviceError when there is no such device
    """
    if device is None or device == "cpu":
        return "cpu"
    _prepare()
    return _core.device_name(op, device)


def _prepare() -> None:
    # A layer of Mesa's drivers asks the desktop which GPU is its own, and complains aloud where there is none.
    os.environ.setdefault("NODEVICE_SELECT", "1")


def devices() -> list[dict[str, str]]:
    """The CPU and the GPUs of this machine: the names to use, and how the drivers describe them.

    Example:
        >>> bs.devices()[0]["name"]
        'cpu'
    """
    _prepare()
    return [{"name": "cpu"}, *_core.devices()]


def placed(op: str, value: Tensor, device: str | None) -> Tensor:
    """The value on a device, which is where it is already when none is named."""
    if device is None or (name := check_device(op, device)) == value.device:
        return value
    return apply("transfer", value, name)


def _leaf(value: Tensor, requires_grad: bool) -> Tensor:
    if requires_grad:
        value.requires_grad = True
    return value


# From data

_CODES = {bool_: "B", uint8: "B", int32: "i", int64: "q", float32: "f", float64: "d"}


def tensor(
    data: Any, *, dtype: DType | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """A copy of numbers, nested lists of numbers, an array or a tensor.

    Without dtype: bools become bool, ints int64, floats float32; arrays and tensors keep theirs.
    Raises: ShapeError if nested lists differ in length
    Example:
        >>> bs.tensor([[1, 2], [3, 4]]).shape
        (2, 2)
    """
    if isinstance(data, Tensor):
        value = data.detach().clone()
    elif hasattr(data, "__array_interface__"):
        value = _core.from_array(data, True)
    else:
        value = _from_numbers(data, dtype)
    if dtype is not None and value.dtype is not dtype:
        value = apply("cast", value, dtype)
    value = placed("tensor", value, device)
    value._category = "input"
    return _leaf(value, requires_grad)


def _from_numbers(data: Any, dtype: DType | None) -> Tensor:
    shape: list[int] = []
    level: list[Any] = [data]
    # Level by level: all of a level are numbers, or all are sequences of one length.
    while level and (isinstance(level[0], (list, tuple, range)) or _is_array(level[0])):
        level = [part.tolist() if _is_array(part) else part for part in level]
        if not isinstance(level[0], (list, tuple, range)):
            break
        size = len(level[0])
        for part in level:
            if not isinstance(part, (list, tuple, range)) or len(part) != size:
                found = f"length {len(part)}" if isinstance(part, (list, tuple, range)) else f"the number {part}"
                raise errors.ShapeError(
                    f"tensor: nested lists differ at depth {len(shape)}: length {size} and {found}; "
                    f"all parts at one depth must have one length"
                )
        shape.append(size)
        level = list(chain.from_iterable(level))
    kinds = set(map(type, level))
    if not kinds <= {bool, int, float}:
        level = [_number(value, len(shape)) for value in level]
        kinds = set(map(type, level))
    own = float32 if float in kinds or not kinds else int64 if int in kinds else bool_
    store = dtype if dtype in _CODES else float64 if dtype is not None else own
    if float in kinds and store in (bool_, uint8, int32, int64):
        store = float64  # the cast that follows is the engine's
    try:
        values = array(_CODES[store], map(bool, level) if store is bool_ else level)
    except OverflowError:
        raise errors.ValueError(f"tensor: a number is out of range; {_limits(store)}") from None
    return _core.from_bytes(values.tobytes(), shape, store)


def _is_array(value: Any) -> bool:
    return hasattr(value, "tolist") and getattr(value, "ndim", 0) > 0


def _number(value: Any, depth: int) -> Number:
    """One element: a Python number, or what holds just one."""
    if isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (list, tuple, range)):
        raise errors.ShapeError(
            f"tensor: nested lists differ at depth {depth}: a number and length {len(value)}; "
            f"all parts at one depth must have one length"
        )
    if hasattr(value, "item"):
        value = value.item()
        if isinstance(value, (bool, int, float)):
            return value
    raise errors.DTypeError(f"tensor: {value!r} is a {type(value).__name__}; numbers and lists of them are needed")


def as_tensor(data: Any, dtype: DType | None = None, device: str | None = None) -> Tensor:
    """The data as a tensor, without a copy where there is none to make: of a tensor or an array of that dtype."""
    if isinstance(data, Tensor):
        value = data
    elif hasattr(data, "__array_interface__"):
        value = _core.from_array(data, False)
    else:
        return tensor(data, dtype=dtype, device=device)
    value = value if dtype is None or value.dtype is dtype else apply("cast", value, dtype)
    return placed("as_tensor", value, device)


def from_numpy(ndarray: Any) -> Tensor:
    """A tensor on the memory of an array; a read-only array is copied.

    Raises: DTypeError for element types that backsweep has not
    """
    if not hasattr(ndarray, "__array_interface__") or isinstance(ndarray, Tensor):
        raise errors.DTypeError(f"from_numpy: a {type(ndarray).__name__} was given; a NumPy array is needed")
    return _core.from_array(ndarray, False)


def from_dlpack(ext_tensor: Any) -> Tensor:
    """A tensor on the memory of another library's array; a read-only one is copied.

    Raises: DTypeError for what NumPy, by way of which it comes, has no type for; DeviceError off the CPU
    Example:
        >>> import numpy as np
        >>> bs.from_dlpack(np.arange(3)).tolist()
        [0, 1, 2]
    """
    import numpy

    if isinstance(ext_tensor, Tensor):
        return ext_tensor.detach()
    if not hasattr(ext_tensor, "__dlpack__"):
        raise errors.DTypeError(f"from_dlpack: a {type(ext_tensor).__name__} has no __dlpack__; an array is needed")
    if ext_tensor.__dlpack_device__()[0] != 1:
        raise errors.DeviceError("from_dlpack: the array is not on the CPU; move it there first")
    try:
        array = numpy.from_dlpack(ext_tensor)
    except (BufferError, RuntimeError) as error:
        raise errors.DTypeError(f"from_dlpack: {error}; a type that NumPy has is needed") from None
    return _core.from_array(array, False)


# Filled with one number


def empty(
    *size: Any, dtype: DType | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """A tensor of whatever the memory holds."""
    return _leaf(_core.empty(_sizes("empty", size), dtype or float32, check_device("empty", device)), requires_grad)


def zeros(
    *size: Any, dtype: DType | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """A tensor of zeros."""
    return _leaf(_core.full(_sizes("zeros", size), 0.0, dtype or float32, check_device("zeros", device)), requires_grad)


def ones(
    *size: Any, dtype: DType | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """A tensor of ones."""
    return _leaf(_core.full(_sizes("ones", size), 1.0, dtype or float32, check_device("ones", device)), requires_grad)


def full(
    size: Sequence[int],
    fill_value: Number,
    *,
    dtype: DType | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor filled with a number, of its kind unless dtype says otherwise."""
    sizes = _sizes("full", (size,))
    if dtype is None:
        dtype = bool_ if isinstance(fill_value, bool) else int64 if isinstance(fill_value, int) else float32
    if dtype.is_floating_point or dtype is bool_ or -(2**31) <= fill_value < 2**31:
        _check_range("full", fill_value, dtype)
        return _leaf(_core.full(sizes, float(fill_value), dtype, check_device("full", device)), requires_grad)
    # By way of one element, as a float does not hold every int64.
    return placed("full", apply("contiguous", apply("expand", tensor(int(fill_value), dtype=dtype), sizes)), device)


def _check_range(op: str, value: Number, dtype: DType) -> None:
    if dtype in (uint8, int32, int64) and not iinfo(dtype).min <= value <= iinfo(dtype).max:
        raise errors.ValueError(f"{op}: {value} is out of range; {_limits(dtype)}")


def _limits(dtype: DType) -> str:
    return f"{dtype.name} holds {iinfo(dtype).min} to {iinfo(dtype).max}"


def _sizes(op: str, given: tuple[Any, ...]) -> Any:
    sizes = sizes_of(given)
    for n in sizes:
        if n < 0:
            raise errors.ShapeError(f"{op}: shape {list(sizes)} has a size below 0; zero or more is needed")
    return sizes


@method
def new_zeros(
    self: Tensor, *size: Any, dtype: DType | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Zeros of this tensor's dtype."""
    return zeros(*size, dtype=dtype or self.dtype, device=device or self.device, requires_grad=requires_grad)


@method
def new_ones(
    self: Tensor, *size: Any, dtype: DType | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Ones of this tensor's dtype."""
    return ones(*size, dtype=dtype or self.dtype, device=device or self.device, requires_grad=requires_grad)


@method
def new_full(
    self: Tensor,
    size: Sequence[int],
    fill_value: Number,
    *,
    dtype: DType | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor of this tensor's dtype, filled with a number."""
    return full(size, fill_value, dtype=dtype or self.dtype, device=device or self.device, requires_grad=requires_grad)


@method
def new_empty(
    self: Tensor, *size: Any, dtype: DType | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """A tensor of this tensor's dtype, of whatever the memory holds."""
    return empty(*size, dtype=dtype or self.dtype, device=device or self.device, requires_grad=requires_grad)


@method
def new_tensor(
    self: Tensor, data: Any, *, dtype: DType | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """A copy of data in this tensor's dtype."""
    return tensor(data, dtype=dtype or self.dtype, device=device or self.device, requires_grad=requires_grad)


def empty_like(
    input: Tensor, *, dtype: DType | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """A tensor of input's shape and dtype, of whatever the memory holds."""
    return empty(input.shape, dtype=dtype or input.dtype, device=device or input.device, requires_grad=requires_grad)


def zeros_like(
    input: Tensor, *, dtype: DType | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Zeros of input's shape and dtype."""
    return zeros(input.shape, dtype=dtype or input.dtype, device=device or input.device, requires_grad=requires_grad)


def ones_like(
    input: Tensor, *, dtype: DType | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Ones of input's shape and dtype."""
    return ones(input.shape, dtype=dtype or input.dtype, device=device or input.device, requires_grad=requires_grad)


def full_like(
    input: Tensor,
    fill_value: Number,
    *,
    dtype: DType | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """A tensor of input's shape and dtype, filled with a number."""
    return full(
        input.shape,
        fill_value,
        dtype=dtype or input.dtype,
        device=device or input.device,
        requires_grad=requires_grad,
    )


# Ranges


def arange(
    start: Number,
    end: Number | None = None,
    step: Number = 1,
    *,
    dtype: DType | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """The numbers from start, by step, to before end; of one argument, from 0 to before it.

    Example:
        >>> bs.arange(1, 7, 2).tolist()
        [1, 3, 5]
    """
    if end is None:
        start, end = 0, start
    start, end, step = (value.item() if hasattr(value, "item") else value for value in (start, end, step))
    if step == 0 or not all(map(math.isfinite, (start, end, step))):
        raise errors.ValueError(f"arange: {start} to {end} by {step}; finite numbers and a step other than 0 are needed")
    integers = all(isinstance(value, int) for value in (start, end, step))
    dtype = dtype or (int64 if integers else float32)
    if integers:
        value = _core.from_bytes(array("q", numbers := range(start, end, step)).tobytes(), [len(numbers)], int64)  # type: ignore[arg-type]
    else:
        count = max(0, math.ceil((end - start) / step))
        value = apply("add", apply("mul", _counting(count), float(step)), float(start))
    value = value if value.dtype is dtype else apply("cast", value, dtype)
    return _leaf(placed("arange", value, device), requires_grad)


def _counting(count: int) -> Tensor:
    """0, 1, … in float64."""
    return apply("cast", _core.from_bytes(array("q", range(count)).tobytes(), [count], int64), float64)


def linspace(
    start: float,
    end: float,
    steps: int,
    *,
    dtype: DType | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """That many numbers at equal distances, both ends included."""
    if steps < 0:
        raise errors.ValueError(f"linspace: {steps} steps; zero or more is needed")
    places = _counting(steps)
    step = (end - start) / (steps - 1) if steps > 1 else 0.0
    # From both ends, so that both are exact.
    rising = apply("add", apply("mul", places, step), float(start))
    falling = apply("sub", float(end), apply("mul", apply("sub", float(steps - 1), places), step))
    value = apply("where", apply("lt", places, (steps + 1) / 2), rising, falling) if steps else places
    return _leaf(placed("linspace", apply("cast", value, dtype or float32), device), requires_grad)


def logspace(
    start: float,
    end: float,
    steps: int,
    base: float = 10.0,
    *,
    dtype: DType | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """That many powers of base, the exponents at equal distances from start to end."""
    exponents = linspace(start, end, steps, dtype=float64)
    value = apply("cast", apply("pow", float(base), exponents), dtype or float32)
    return _leaf(placed("logspace", value, device), requires_grad)


def eye(
    n: int,
    m: int | None = None,
    *,
    dtype: DType | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Ones on the diagonal of a matrix, and zeros elsewhere."""
    ones = apply("eq", *_places(n, n if m is None else m))
    return _leaf(placed("eye", apply("cast", ones, dtype or float32), device), requires_grad)


def _places(rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """The numbers of rows as a column, and of columns as a row."""
    return apply("reshape", arange(rows), (rows, 1)), arange(columns)


def _triangle(op: str, rows: int, columns: int, diagonal: int) -> Tensor:
    """True on and below a diagonal (le), or on and above it (ge)."""
    row, column = _places(rows, columns)
    return apply(op, column, apply("add", row, diagonal))


@method
def tril(input: Tensor, diagonal: int = 0) -> Tensor:
    """What lies on and below a diagonal of each matrix; zeros elsewhere."""
    return apply("tril", input, diagonal)


@method
def triu(input: Tensor, diagonal: int = 0) -> Tensor:
    """What lies on and above a diagonal of each matrix; zeros elsewhere."""
    return apply("triu", input, diagonal)


def tril_indices(row: int, col: int, offset: int = 0) -> Tensor:
    """Rows and columns of the places on and below a diagonal, as a [2, n] tensor."""
    return _core.nonzero(_triangle("le", row, col, offset)).T.contiguous()


def triu_indices(row: int, col: int, offset: int = 0) -> Tensor:
    """Rows and columns of the places on and above a diagonal, as a [2, n] tensor."""
    return _core.nonzero(_triangle("ge", row, col, offset)).T.contiguous()


def _triangle_in_place(name: str) -> None:
    def write(self: Tensor, diagonal: int = 0) -> Tensor:
        return self.copy_(apply(name, self, diagonal))

    write.__doc__ = f"`{name}`, written into this tensor."
    method_as(f"{name}_")(write)


for _name in ("tril", "triu"):
    _triangle_in_place(_name)
