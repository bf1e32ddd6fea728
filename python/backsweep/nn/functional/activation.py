"""Activation functions."""

from __future__ import annotations

from ... import errors
from ..._core import Tensor, apply
from ...types import DType


def in_place_of(input: Tensor, value: Tensor, inplace: bool) -> Tensor:
    """With inplace, the value written into the input's memory."""
    return input.copy_(value) if inplace else value


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0). Saves: one bit an element."""
    return in_place_of(input, apply("relu", input), inplace)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """x between 0 and 6."""
    return hardtanh(input, 0.0, 6.0, inplace)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """x between two bounds."""
    return in_place_of(input, apply("clamp", input, min_val, max_val), inplace)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where positive, a fraction of it elsewhere."""
    return in_place_of(input, apply("leaky_relu", input, negative_slope), inplace)


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """A leaky ReLU with a learned slope, one or one a channel."""
    if weight.numel() > 1 and input.ndim > 2:
        weight = apply("reshape", weight, (-1,) + (1,) * (input.ndim - 2))
    return apply("prelu", input, weight)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where positive, α(eˣ - 1) elsewhere."""
    return in_place_of(input, apply("elu", input, alpha, 1.0), inplace)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """ELU with the constants that keep a network's activations normal."""
    return in_place_of(input, apply("elu", input, 1.6732632423543772, 1.0507009873554805), inplace)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where positive, α(e^(x/α) - 1) elsewhere."""
    return in_place_of(input, apply("celu", input, alpha), inplace)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x · Φ(x), or its tanh form. Saves: the input."""
    if approximate not in ("none", "tanh"):
        raise errors.ValueError(f"gelu: approximate is '{approximate}'; 'none' or 'tanh' is needed")
    return apply("gelu" if approximate == "none" else "gelu_tanh", input)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x · σ(x). Saves: the input."""
    return in_place_of(input, apply("silu", input), inplace)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """x · tanh(softplus(x))."""
    return in_place_of(input, apply("mish", input), inplace)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """ln(1 + e^(βx)) / β, and x itself beyond the threshold."""
    return apply("softplus", input, beta, threshold)


def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + e⁻ˣ). Saves: the output."""
    return apply("sigmoid", input)


def tanh(input: Tensor) -> Tensor:
    """The hyperbolic tangent. Saves: the output."""
    return apply("tanh", input)


def logsigmoid(input: Tensor) -> Tensor:
    """ln σ(x)."""
    return apply("logsigmoid", input)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """(x + 3) / 6 between 0 and 1."""
    return in_place_of(input, apply("hardsigmoid", input), inplace)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """x · hardsigmoid(x)."""
    return in_place_of(input, apply("hardswish", input), inplace)


def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x beyond ±λ, 0 within."""
    return apply("hardshrink", input, lambd)


def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x moved towards 0 by λ."""
    return apply("softshrink", input, lambd)


def softsign(input: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return apply("softsign", input)


def tanhshrink(input: Tensor) -> Tensor:
    """x - tanh(x)."""
    return input - apply("tanh", input)


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """x above the threshold, `value` elsewhere."""
    return in_place_of(input, apply("threshold", input, threshold, value), inplace)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """One half times the sigmoid of the other."""
    size = input.shape[dim]
    if size % 2:
        raise errors.ShapeError(f"glu: size {size} of dim {dim} of {list(input.shape)}; an even size is needed")
    a, b = input.chunk(2, dim)
    return a * apply("sigmoid", b)


def softmax(input: Tensor, dim: int, dtype: DType | None = None) -> Tensor:
    """eˣ over its sum along a dim. Saves: the output."""
    return apply("softmax", input if dtype is None else input.to(dtype), dim)


def softmin(input: Tensor, dim: int) -> Tensor:
    """softmax(-x)."""
    return apply("softmax", -input, dim)


def log_softmax(input: Tensor, dim: int, dtype: DType | None = None) -> Tensor:
    """ln softmax(x) along a dim. Saves: the output."""
    return apply("log_softmax", input if dtype is None else input.to(dtype), dim)
