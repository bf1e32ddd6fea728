"""Functions of one number: roots, exponentials, trigonometry, rounding. Each has a form that writes into its input.

Named as in PyTorch; the formulas and their derivatives are the engine's.
"""

from __future__ import annotations

from ._core import Tensor, apply, apply_
from .attach import method, method_as

__all__ = [
    "abs",
    "acos",
    "acosh",
    "asin",
    "asinh",
    "atan",
    "atanh",
    "ceil",
    "cos",
    "cosh",
    "erf",
    "erfc",
    "exp",
    "exp2",
    "expm1",
    "floor",
    "frac",
    "log",
    "log10",
    "log1p",
    "log2",
    "neg",
    "reciprocal",
    "relu",
    "round",
    "rsqrt",
    "sigmoid",
    "sign",
    "sin",
    "sinh",
    "sqrt",
    "square",
    "tan",
    "tanh",
    "trunc",
]


@method
def abs(input: Tensor) -> Tensor:
    """The absolute value; its derivative at 0 is 0."""
    return apply("abs", input)


@method
def neg(input: Tensor) -> Tensor:
    """-x."""
    return apply("neg", input)


@method
def sign(input: Tensor) -> Tensor:
    """-1, 0 or 1."""
    return apply("sign", input)


@method
def square(input: Tensor) -> Tensor:
    """x²."""
    return apply("square", input)


@method
def reciprocal(input: Tensor) -> Tensor:
    """1 / x."""
    return apply("reciprocal", input)


@method
def sqrt(input: Tensor) -> Tensor:
    """The square root."""
    return apply("sqrt", input)


@method
def rsqrt(input: Tensor) -> Tensor:
    """1 / √x."""
    return apply("rsqrt", input)


@method
def exp(input: Tensor) -> Tensor:
    """eˣ."""
    return apply("exp", input)


@method
def exp2(input: Tensor) -> Tensor:
    """2ˣ."""
    return apply("exp2", input)


@method
def expm1(input: Tensor) -> Tensor:
    """eˣ - 1, exact near 0."""
    return apply("expm1", input)


@method
def log(input: Tensor) -> Tensor:
    """The natural logarithm."""
    return apply("log", input)


@method
def log1p(input: Tensor) -> Tensor:
    """ln(1 + x), exact near 0."""
    return apply("log1p", input)


@method
def log2(input: Tensor) -> Tensor:
    """The logarithm to base 2."""
    return apply("log2", input)


@method
def log10(input: Tensor) -> Tensor:
    """The logarithm to base 10."""
    return apply("log10", input)


@method
def sin(input: Tensor) -> Tensor:
    """The sine."""
    return apply("sin", input)


@method
def cos(input: Tensor) -> Tensor:
    """The cosine."""
    return apply("cos", input)


@method
def tan(input: Tensor) -> Tensor:
    """The tangent."""
    return apply("tan", input)


@method
def asin(input: Tensor) -> Tensor:
    """The inverse of the sine."""
    return apply("asin", input)


@method
def acos(input: Tensor) -> Tensor:
    """The inverse of the cosine."""
    return apply("acos", input)


@method
def atan(input: Tensor) -> Tensor:
    """The inverse of the tangent."""
    return apply("atan", input)


@method
def sinh(input: Tensor) -> Tensor:
    """The hyperbolic sine."""
    return apply("sinh", input)


@method
def cosh(input: Tensor) -> Tensor:
    """The hyperbolic cosine."""
    return apply("cosh", input)


@method
def tanh(input: Tensor) -> Tensor:
    """The hyperbolic tangent."""
    return apply("tanh", input)


@method
def asinh(input: Tensor) -> Tensor:
    """The inverse of the hyperbolic sine."""
    return apply("asinh", input)


@method
def acosh(input: Tensor) -> Tensor:
    """The inverse of the hyperbolic cosine."""
    return apply("acosh", input)


@method
def atanh(input: Tensor) -> Tensor:
    """The inverse of the hyperbolic tangent."""
    return apply("atanh", input)


@method
def erf(input: Tensor) -> Tensor:
    """The error function."""
    return apply("erf", input)


@method
def erfc(input: Tensor) -> Tensor:
    """1 - erf(x), exact far above 0."""
    return apply("erfc", input)


@method
def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + e⁻ˣ)."""
    return apply("sigmoid", input)


@method
def relu(input: Tensor) -> Tensor:
    """x where x > 0, else 0."""
    return apply("relu", input)


@method
def floor(input: Tensor) -> Tensor:
    """The largest integer that is not above x."""
    return apply("floor", input)


@method
def ceil(input: Tensor) -> Tensor:
    """The smallest integer that is not below x."""
    return apply("ceil", input)


@method
def trunc(input: Tensor) -> Tensor:
    """The integer part: rounds towards 0."""
    return apply("trunc", input)


@method
def frac(input: Tensor) -> Tensor:
    """What trunc takes away."""
    return apply("frac", input)


@method
def round(input: Tensor, *, decimals: int = 0) -> Tensor:
    """The nearest integer, halves to even; decimals > 0 keeps digits, < 0 rounds tens."""
    if decimals == 0:
        return apply("round", input)
    scale = 10.0 ** (decimals if decimals > 0 else -decimals)
    if decimals > 0:
        return apply("div", apply("round", apply("mul", input, scale)), scale)
    return apply("mul", apply("round", apply("div", input, scale)), scale)


def _in_place(name: str) -> None:
    def write(self: Tensor) -> Tensor:
        return apply_(name, self)

    write.__doc__ = f"`{name}`, written into this tensor."
    method_as(f"{name}_")(write)


for _name in __all__:
    _in_place(_name)
