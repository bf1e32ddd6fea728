"""What a tensor can do besides operations: conversions, copies, history, and Python's protocols.

The class itself is native; operations are attached by the files that define them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from . import _core, errors
from ._core import Tensor, apply, apply_
from .attach import method, method_as, property_as
from .creation import placed
from .dtypes import bfloat16, float16, float32, float64, int32, int64, uint8
from .dtypes import bool as bool_
from .shape import axis_of
from .types import DType, Operand

# Facts


@method
def size(self: Tensor, dim: int | None = None) -> Any:
    """The shape, or the size of one dim."""
    shape = self.shape
    return shape if dim is None else shape[axis_of("size", dim, shape)]


@method
def dim(self: Tensor) -> int:
    """The number of dims."""
    return self.ndim


@method
def is_floating_point(self: Tensor) -> bool:
    """True for float16, bfloat16, float32 and float64."""
    return self.dtype.is_floating_point


def _nbytes(self: Tensor) -> int:
    """Bytes of all elements."""
    return self.numel() * self.element_size()


property_as("nbytes", _nbytes)
property_as("itemsize", Tensor.element_size)

# Conversions


@method
def to(
    self: Tensor,
    *args: Any,
    device: str | None = None,
    dtype: DType | None = None,
    non_blocking: bool = False,
    copy: bool = False,
) -> Tensor:
    """Convert to a dtype, a device, or to those of another tensor; without a change, this very tensor.

    non_blocking allows a copy that goes on in the background; there is none yet.

    Example:
        >>> bs.tensor([1, 2]).to(bs.float64).dtype
        backsweep.float64
    """
    for arg in args:
        if isinstance(arg, str):
            device = arg
        elif isinstance(arg, _core.dtype):
            dtype = arg
        elif isinstance(arg, Tensor):
            device, dtype = arg.device, arg.dtype
        else:
            raise errors.DTypeError(f"to: {arg!r} is a {type(arg).__name__}; a dtype, a device or a tensor is needed")
    value = self
    if dtype is not None and self.dtype is not dtype:
        value = apply("cast", self, dtype)
    value = placed("to", value, device)
    return self.clone() if copy and value is self else value


@method
def type_as(self: Tensor, other: Tensor) -> Tensor:
    """Convert to the dtype of another tensor."""
    return self.to(other.dtype)


def _cast(name: str, dtype: DType) -> None:
    def convert(self: Tensor) -> Tensor:
        return self if self.dtype is dtype else apply("cast", self, dtype)

    convert.__doc__ = f"Convert to {dtype.name}."
    method_as(name)(convert)


for _name, _dtype in (
    ("float", float32),
    ("double", float64),
    ("half", float16),
    ("bfloat16", bfloat16),
    ("byte", uint8),
    ("int", int32),
    ("long", int64),
    ("bool", bool_),
):
    _cast(_name, _dtype)


@method
def cpu(self: Tensor) -> Tensor:
    """Move to the CPU."""
    return self.to(device="cpu")


_FORMATS = {"bool": "?", "uint8": "B", "int32": "i", "int64": "q", "float32": "f", "float64": "d"}


@method
def tolist(self: Tensor) -> Any:
    """The elements as nested lists of Python numbers; of a 0-d tensor, the number."""
    shape = self.shape
    if not shape:
        return self.item()
    if 0 in shape:
        return _empty_lists(shape)
    values = self.detach() if self.dtype.name in _FORMATS else self.detach().to(float32)
    elements = memoryview(_core.to_bytes(values.to(device="cpu"))).cast(_FORMATS[values.dtype.name], shape)  # type: ignore[call-overload]
    return elements.tolist()


def _empty_lists(shape: tuple[int, ...]) -> list[Any]:
    return [_empty_lists(shape[1:]) for _ in range(shape[0])] if len(shape) > 1 else []


@method
def numpy(self: Tensor, *, force: bool = False) -> Any:
    """The memory of the tensor as a NumPy array, read-only where a backward sweep still needs the values.

    Raises: GraphError for a tensor with a history, unless force detaches it
    """
    import numpy

    return numpy.asarray(self.detach() if force else self)


@method
def __array__(self: Tensor, dtype: Any = None, copy: bool | None = None) -> Any:
    """Give NumPy the memory, or a copy in another dtype."""
    array = self.numpy()
    if copy:
        import numpy

        return numpy.array(array, dtype=dtype, copy=True)
    if dtype is None or array.dtype == dtype:
        return array
    if copy is False:
        raise errors.ValueError(f"numpy: {self.dtype.name} to {dtype} without a copy; copy=None or True is needed")
    return array.astype(dtype)


@method
def __dlpack__(
    self: Tensor,
    *,
    stream: Any = None,
    max_version: tuple[int, int] | None = None,
    dl_device: tuple[int, int] | None = None,
    copy: bool | None = None,
) -> Any:
    """Give another library the memory, by way of NumPy: read-only where a backward sweep still needs the values.

    Raises: BufferError where that cannot be told to a library that knows DLPack before 1.0
    """
    asked = {"stream": stream, "max_version": max_version, "dl_device": dl_device, "copy": copy}
    return self.numpy().__dlpack__(**{name: value for name, value in asked.items() if value is not None})


@method
def __dlpack_device__(self: Tensor) -> tuple[int, int]:
    """Say that the memory is the CPU's."""
    return (1, 0)


# NumPy leaves array * tensor to the tensor, instead of taking it apart element by element.
Tensor.__array_ufunc__ = None

# Copies


@method
def clone(self: Tensor) -> Tensor:
    """A copy in row-major order; gradients pass through."""
    return apply("contiguous", self)


@method
def contiguous(self: Tensor) -> Tensor:
    """The elements in row-major order; this very tensor, if they are."""
    return self if self.is_contiguous() else apply("contiguous", self)


@method
def copy_(self: Tensor, src: Operand, non_blocking: bool = False) -> Tensor:
    """Write the values of src, broadcast and converted, into this tensor."""
    if isinstance(src, Tensor) and src.dtype is not self.dtype:
        src = apply("cast", src, self.dtype)
    return apply_("copy", self, src)


@method
def fill_(self: Tensor, value: Operand) -> Tensor:
    """Write one number into all elements."""
    if isinstance(value, Tensor) and value.ndim:
        raise errors.ShapeError(f"fill_: a value of shape {list(value.shape)}; a number or a 0-d tensor is needed")
    return self.copy_(value)


@method
def zero_(self: Tensor) -> Tensor:
    """Write 0 into all elements."""
    return self.copy_(0)


def _check_copied(op: str, self: Tensor) -> None:
    if not self.is_leaf:
        raise errors.GraphError(
            f"{op}: this tensor was made by {self.grad_fn}, and a copy would lose its history; "
            f"a leaf is needed (help: x.detach(), or x.clone() to keep the history)"
        )


def _as(kind: type[Tensor], value: Tensor, requires_grad: bool) -> Tensor:
    if kind is not Tensor:
        value = kind.__new__(kind, value)
    if requires_grad != value.requires_grad:
        value.requires_grad = requires_grad
    return value


@method
def __copy__(self: Tensor) -> Tensor:
    """A second handle on the same memory."""
    _check_copied("copy", self)
    return _as(type(self), self.detach(), self.requires_grad)


@method
def __deepcopy__(self: Tensor, memo: dict[int, Any]) -> Tensor:
    """A copy of values and gradient."""
    if id(self) not in memo:
        _check_copied("deepcopy", self)
        copied = _as(type(self), self.detach().clone(), self.requires_grad)
        if self.grad is not None:
            copied.grad = self.grad.detach().clone()
        memo[id(self)] = copied
    return memo[id(self)]


def _rebuild(kind: type[Tensor], data: bytes, shape: tuple[int, ...], dtype: DType, requires_grad: bool) -> Tensor:
    return _as(kind, _core.from_bytes(data, shape, dtype), requires_grad)


@method
def __reduce_ex__(self: Tensor, protocol: Any) -> tuple[Any, ...]:
    """Pickle the values, of any dtype, and the flag; not the gradient."""
    _check_copied("pickle", self)
    return _rebuild, (type(self), _core.to_bytes(self), self.shape, self.dtype, self.requires_grad)


# History


@method
def requires_grad_(self: Tensor, requires_grad: bool = True) -> Tensor:
    """Collect gradients in `.grad` from now on, or stop."""
    self.requires_grad = requires_grad
    return self


@method
def detach_(self: Tensor) -> Tensor:
    """Cut this tensor off its history."""
    self._become(self.detach())
    return self


class RemovableHandle:
    """Takes a hook off its tensor again; as a context manager, at the end of the block."""

    def __init__(self, tensor: Tensor, number: int) -> None:
        """Remember the hook."""
        self._hook: tuple[Tensor, int] | None = (tensor, number)

    def remove(self) -> None:
        """Take the hook off; a second call does nothing."""
        if self._hook is not None:
            tensor, number = self._hook
            self._hook = None
            tensor._remove_hook(number)

    def __enter__(self) -> RemovableHandle:
        """Keep the hook until the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take the hook off."""
        self.remove()


@method
def register_hook(self: Tensor, hook: Callable[[Tensor], Tensor | None]) -> RemovableHandle:
    """Call hook with the gradient of this tensor in every sweep; what it returns, if not None, replaces it.

    Example:
        >>> x = bs.tensor([1.0], requires_grad=True)
        >>> handle = x.register_hook(lambda dy: dy * 2)
        >>> x.sum().backward()
        >>> x.grad.tolist()
        [2.0]
    """
    return RemovableHandle(self, self._add_hook(hook))


# Protocols


@method
def __pos__(self: Tensor) -> Tensor:
    """This very tensor."""
    return self



@method
def __iter__(self: Tensor) -> Iterator[Tensor]:
    """Go through the parts along the first dim."""
    if not self.ndim:
        raise errors.DTypeError("iter: a 0-d tensor has no parts; use item()")
    return iter(self.unbind(0))


@method
def __contains__(self: Tensor, value: Operand) -> bool:
    """True if some element equals value."""
    if not isinstance(value, (Tensor, bool, int, float)):
        raise errors.DTypeError(f"in: {value!r} is a {type(value).__name__}; a number or a tensor is needed")
    return bool((self.detach() == value).any())


@method
def __format__(self: Tensor, spec: str) -> str:
    """Format a 0-d tensor as its number, others as `str` does."""
    return object.__format__(self, spec) if self.ndim else format(self.item(), spec)
