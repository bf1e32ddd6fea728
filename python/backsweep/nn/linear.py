"""The affine map, and the identity."""

from __future__ import annotations

import math
from typing import Any

import backsweep as bs

from .._core import Tensor
from . import functional as F
from . import init
from .module import Module, Parameter


class Identity(Module):
    """Give back the input; any arguments of the constructor are ignored."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Ignore all arguments, so that it can stand in for any layer."""
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        """Return x."""
        return input


class Linear(Module):
    """y = x weightᵀ + bias.

    Shapes: x [..., in_features] → [..., out_features]; weight [out_features, in_features]
    Example:
        >>> nn.Linear(3, 2)(bs.ones(5, 3)).shape
        (5, 2)
    """

    weight: Parameter
    bias: Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        """Draw weight and bias from U(-1/√in_features, 1/√in_features)."""
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight = Parameter(bs.empty(out_features, in_features, device=device, dtype=dtype))
        if bias:
            self.bias = Parameter(bs.empty(out_features, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        reset_affine(self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the map to the last axis."""
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Say the sizes."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"
        )


def reset_affine(weight: Tensor, bias: Tensor | None) -> None:
    """Draw weight and bias from U(-1/√fan_in, 1/√fan_in), the default of linear and convolution layers."""
    # kaiming_uniform_ with a = √5 has the bound √(2 / 6) · √(3 / fan_in) = 1/√fan_in.
    init.kaiming_uniform_(weight, a=math.sqrt(5))
    if bias is not None:
        fan_in, _ = init._calculate_fan_in_and_fan_out(weight)
        bound = 1 / math.sqrt(fan_in) if fan_in > 0 else 0.0
        init.uniform_(bias, -bound, bound)
