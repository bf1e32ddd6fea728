"""Functions of two or three numbers, broadcast: arithmetic, extrema, bounds, mixtures; with forms that write in place.

A number among the operands takes the dtype of the tensors.
"""

from __future__ import annotations

import math

from . import _core, errors
from ._core import Tensor, apply, apply_
from .attach import method, method_as
from .dtypes import finfo
from .types import Number, Operand

__all__ = [
    "add",
    "addcdiv",
    "addcmul",
    "atan2",
    "clamp",
    "clamp_max",
    "clamp_min",
    "copysign",
    "deg2rad",
    "div",
    "floor_divide",
    "fmax",
    "fmin",
    "fmod",
    "heaviside",
    "hypot",
    "lerp",
    "logaddexp",
    "logit",
    "masked_fill",
    "maximum",
    "minimum",
    "mul",
    "nan_to_num",
    "pow",
    "rad2deg",
    "remainder",
    "sub",
    "where",
    "xlogy",
]


@method
def add(input: Operand, other: Operand, *, alpha: Number = 1) -> Tensor:
    """input + alpha · other."""
    return apply("add", input, other if alpha == 1 else other * alpha)


@method
def sub(input: Operand, other: Operand, *, alpha: Number = 1) -> Tensor:
    """input - alpha · other."""
    return apply("sub", input, other if alpha == 1 else other * alpha)


@method
def mul(input: Operand, other: Operand) -> Tensor:
    """input · other."""
    return apply("mul", input, other)


@method
def div(input: Operand, other: Operand, *, rounding_mode: str | None = None) -> Tensor:
    """input / other; rounding_mode "floor" rounds down, "trunc" towards 0.

    Example:
        >>> bs.div(bs.tensor([7, -7]), 2, rounding_mode="trunc").tolist()
        [3, -3]
    """
    if rounding_mode is None:
        return apply("div", input, other)
    if rounding_mode == "floor":
        return apply("floor_divide", input, other)
    if rounding_mode == "trunc":
        if _is_float(input) or _is_float(other):
            return apply("trunc", apply("div", input, other))
        # Through the rest, not the quotient, so that integers stay exact.
        return apply("floor_divide", apply("sub", input, apply("fmod", input, other)), other)
    raise errors.ValueError(f"div: rounding_mode {rounding_mode!r} is unknown; None, 'trunc' or 'floor' is needed")


def _is_float(operand: Operand) -> bool:
    return operand.is_floating_point() if isinstance(operand, Tensor) else isinstance(operand, float)


@method
def floor_divide(input: Operand, other: Operand) -> Tensor:
    """input / other, rounded down."""
    return apply("floor_divide", input, other)


@method
def remainder(input: Operand, other: Operand) -> Tensor:
    """What floor_divide leaves, as Python's %: it has the sign of other."""
    return apply("remainder", input, other)


@method
def fmod(input: Operand, other: Operand) -> Tensor:
    """The rest of the division towards 0, as C's fmod: it has the sign of input."""
    return apply("fmod", input, other)


@method
def pow(input: Operand, exponent: Operand) -> Tensor:
    """input to the power of exponent."""
    if type(exponent) is int and exponent == 2 and isinstance(input, Tensor):
        return apply("square", input)
    return apply("pow", input, exponent)


@method
def atan2(input: Operand, other: Operand) -> Tensor:
    """The angle of the point (other, input), from -π to π."""
    return apply("atan2", input, other)


@method
def hypot(input: Operand, other: Operand) -> Tensor:
    """√(input² + other²), without overflow on the way."""
    return apply("hypot", input, other)


@method
def copysign(input: Operand, other: Operand) -> Tensor:
    """|input| with the sign of other."""
    return apply("copysign", input, other)


@method
def logaddexp(input: Operand, other: Operand) -> Tensor:
    """ln(eᵃ + eᵇ), without overflow on the way."""
    return apply("logaddexp", input, other)


@method
def xlogy(input: Operand, other: Operand) -> Tensor:
    """input · ln other, and 0 where input is 0."""
    return apply("xlogy", input, other)


@method
def maximum(input: Operand, other: Operand) -> Tensor:
    """The larger of two, NaN if either is; at a tie both share the gradient."""
    return apply("maximum", input, other)


@method
def minimum(input: Operand, other: Operand) -> Tensor:
    """The smaller of two, NaN if either is; at a tie both share the gradient."""
    return apply("minimum", input, other)


def _bounds(input: Tensor, min: Operand | None, max: Operand | None) -> tuple[str, tuple[Operand, ...]]:
    """The op that clamps between the bounds that there are, and its operands."""
    if min is not None and max is not None:
        return "clamp", (min, max)
    if min is None and max is None:
        raise errors.ValueError("clamp: neither min nor max is given; one bound or both are needed")
    if input.is_floating_point():
        infinity = float("inf")
        return "clamp", (-infinity if min is None else min, infinity if max is None else max)
    return ("minimum", (max,)) if min is None else ("maximum", (min,))  # type: ignore[return-value]


@method
def clamp(input: Tensor, min: Operand | None = None, max: Operand | None = None) -> Tensor:
    """Bring input between min and max; a bound of None bounds nothing. Where max < min, the result is max."""
    name, bounds = _bounds(input, min, max)
    return apply(name, input, *bounds)


@method
def clamp_min(input: Tensor, min: Operand) -> Tensor:
    """Bring what is below min up to it."""
    return clamp(input, min)


@method
def clamp_max(input: Tensor, max: Operand) -> Tensor:
    """Bring what is above max down to it."""
    return clamp(input, None, max)


@method
def fmax(input: Tensor, other: Tensor) -> Tensor:
    """The larger of two, and where one is NaN the other; at a tie the first has the gradient."""
    first = apply("logical_or", apply("ge", input, other), apply("isnan", other))
    return apply("where", first, input, other)


@method
def fmin(input: Tensor, other: Tensor) -> Tensor:
    """The smaller of two, and where one is NaN the other; at a tie the first has the gradient."""
    first = apply("logical_or", apply("le", input, other), apply("isnan", other))
    return apply("where", first, input, other)


@method
def logit(input: Tensor, eps: float | None = None) -> Tensor:
    """ln(x / (1 - x)), the inverse of sigmoid; eps keeps x that far from 0 and 1."""
    x = input if eps is None else apply("clamp", input, eps, 1.0 - eps)
    return apply("log", apply("div", x, apply("sub", 1.0, x)))


@method
def heaviside(input: Tensor, values: Tensor) -> Tensor:
    """0 below 0, 1 above, and values at 0."""
    return apply("where", apply("eq", input, 0), values, apply("cast", apply("gt", input, 0), input.dtype))


@method
def deg2rad(input: Tensor) -> Tensor:
    """Degrees as radians."""
    return apply("mul", input, math.pi / 180.0)


@method
def rad2deg(input: Tensor) -> Tensor:
    """Radians as degrees."""
    return apply("mul", input, 180.0 / math.pi)


@method
def lerp(input: Tensor, end: Tensor, weight: Operand) -> Tensor:
    """input + weight · (end - input)."""
    return apply("lerp", input, end, weight)


@method
def addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Number = 1) -> Tensor:
    """input + value · tensor1 · tensor2."""
    product = apply("mul", tensor1, tensor2)
    return apply("add", input, product if value == 1 else apply("mul", product, value))


@method
def addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Number = 1) -> Tensor:
    """input + value · tensor1 / tensor2."""
    quotient = apply("div", tensor1, tensor2)
    return apply("add", input, quotient if value == 1 else apply("mul", quotient, value))


@method
def nan_to_num(
    input: Tensor, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    """Replace NaN, and both infinities: by the largest and smallest finite number unless told otherwise."""
    if not input.is_floating_point():
        return input.clone()
    largest = finfo(input.dtype).max
    high = largest if posinf is None else posinf
    low = -largest if neginf is None else neginf
    if low == -high:
        return apply("nan_to_num", input, nan, high)
    below = apply("nan_to_num", input, nan, -low)
    return apply("where", apply("eq", input, float("inf")), high, below)


def where(
    condition: Tensor, input: Operand | None = None, other: Operand | None = None
) -> Tensor | tuple[Tensor, ...]:
    """Take input where condition is True, and other elsewhere; alone, condition gives where it is True.

    Example:
        >>> x = bs.tensor([-1.0, 2.0])
        >>> bs.where(x > 0, x, 0.0).tolist()
        [0.0, 2.0]
    """
    if input is None and other is None:
        return _core.nonzero(condition).unbind(1)
    _check_mask("where", condition)
    if input is None or other is None:
        raise errors.ValueError("where: one of input and other is missing; both, or neither, are needed")
    return apply("where", condition, input, other)


@method
def masked_fill(input: Tensor, mask: Tensor, value: Operand) -> Tensor:
    """Put value where mask is True."""
    _check_mask("masked_fill", mask)
    return apply("where", mask, value, input)


@method_as("where")
def _where(self: Tensor, condition: Tensor, other: Operand) -> Tensor:
    """Keep this tensor where condition is True, and take other elsewhere."""
    _check_mask("where", condition)
    return apply("where", condition, self, other)


def _check_mask(op: str, mask: Tensor) -> None:
    if not isinstance(mask, Tensor) or mask.dtype is not _core.bool:
        kind = mask.dtype.name if isinstance(mask, Tensor) else type(mask).__name__
        raise errors.DTypeError(f"{op}: the mask is {kind}; a tensor of bools is needed (help: compare first)")


# The forms that write into their first operand.


@method
def add_(self: Tensor, other: Operand, *, alpha: Number = 1) -> Tensor:
    """`add`, written into this tensor."""
    return apply_("add", self, other if alpha == 1 else other * alpha)


@method
def sub_(self: Tensor, other: Operand, *, alpha: Number = 1) -> Tensor:
    """`sub`, written into this tensor."""
    return apply_("sub", self, other if alpha == 1 else other * alpha)


@method
def mul_(self: Tensor, other: Operand) -> Tensor:
    """`mul`, written into this tensor."""
    return apply_("mul", self, other)


@method
def div_(self: Tensor, other: Operand, *, rounding_mode: str | None = None) -> Tensor:
    """`div`, written into this tensor."""
    if rounding_mode is None:
        return apply_("div", self, other)
    return self.copy_(div(self, other, rounding_mode=rounding_mode))


@method
def clamp_(self: Tensor, min: Operand | None = None, max: Operand | None = None) -> Tensor:
    """`clamp`, written into this tensor."""
    name, bounds = _bounds(self, min, max)
    return apply_(name, self, *bounds)


@method
def clamp_min_(self: Tensor, min: Operand) -> Tensor:
    """`clamp_min`, written into this tensor."""
    return clamp_(self, min)


@method
def clamp_max_(self: Tensor, max: Operand) -> Tensor:
    """`clamp_max`, written into this tensor."""
    return clamp_(self, None, max)


@method
def nan_to_num_(
    self: Tensor, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    """`nan_to_num`, written into this tensor."""
    return self.copy_(nan_to_num(self, nan, posinf, neginf))


@method
def lerp_(self: Tensor, end: Tensor, weight: Operand) -> Tensor:
    """`lerp`, written into this tensor."""
    return apply_("lerp", self, end, weight)


@method
def addcmul_(self: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Number = 1) -> Tensor:
    """`addcmul`, written into this tensor."""
    product = apply("mul", tensor1, tensor2)
    return apply_("add", self, product if value == 1 else apply("mul", product, value))


@method
def addcdiv_(self: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Number = 1) -> Tensor:
    """`addcdiv`, written into this tensor."""
    quotient = apply("div", tensor1, tensor2)
    return apply_("add", self, quotient if value == 1 else apply("mul", quotient, value))


@method
def masked_fill_(self: Tensor, mask: Tensor, value: Operand) -> Tensor:
    """`masked_fill`, written into this tensor."""
    return self.copy_(masked_fill(self, mask, value))


def _in_place(name: str, method_name: str | None = None) -> None:
    def write(self: Tensor, other: Operand) -> Tensor:
        return apply_(name, self, other)

    write.__doc__ = f"`{name}`, written into this tensor."
    method_as(method_name or f"{name}_")(write)


for _name in ("atan2", "copysign", "floor_divide", "fmod", "hypot", "maximum", "minimum", "pow", "remainder", "xlogy"):
    _in_place(_name)

# x //= y, x %= y and x **= y, as x += y, write into the memory of x.
for _name, _operator in (("floor_divide", "floordiv"), ("remainder", "mod"), ("pow", "pow")):
    _in_place(_name, f"__i{_operator}__")
