"""Nonlinearities as modules; each calls the function of the same name in `functional`."""

from __future__ import annotations

from typing import Any

import backsweep as bs

from .._core import Tensor
from . import functional as F
from .module import Module, Parameter


class _InPlace(Module):
    """A nonlinearity that can overwrite its input."""

    def __init__(self, inplace: bool = False) -> None:
        """Overwrite the input if inplace is set."""
        super().__init__()
        self.inplace = inplace

    def extra_repr(self) -> str:
        """Say whether it works in place."""
        return "inplace=True" if self.inplace else ""


class ReLU(_InPlace):
    """max(x, 0)."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply to each element."""
        return F.relu(input, inplace=self.inplace)


class ReLU6(_InPlace):
    """min(max(x, 0), 6)."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply to each element."""
        return F.relu6(input, inplace=self.inplace)


class SELU(_InPlace):
    """Scaled ELU, which keeps mean 0 and variance 1.   Klambauer et al. 2017, arXiv:1706.02515"""

    def forward(self, input: Tensor) -> Tensor:
        """Apply to each element."""
        return F.selu(input, inplace=self.inplace)


class SiLU(_InPlace):
    """x·σ(x).   Elfwing et al. 2017, arXiv:1702.03118"""

    def forward(self, input: Tensor) -> Tensor:
        """Apply to each element."""
        return F.silu(input, inplace=self.inplace)


class Mish(_InPlace):
    """x·tanh(softplus(x)).   Misra 2019, arXiv:1908.08681"""

    def forward(self, input: Tensor) -> Tensor:
        """Apply to each element."""
        return F.mish(input, inplace=self.inplace)


class Hardswish(_InPlace):
    """x·relu6(x + 3) / 6.   Howard et al. 2019, arXiv:1905.02244"""

    def forward(self, input: Tensor) -> Tensor:
        """Apply to each element."""
        return F.hardswish(input, inplace=self.inplace)


class Hardsigmoid(_InPlace):
    """relu6(x + 3) / 6."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply to each element."""
        return F.hardsigmoid(input, inplace=self.inplace)


class LeakyReLU(_InPlace):
    """x where x > 0, else negative_slope·x."""

    def __init__(self, negative_slope: float = 0.01, inplace: bool = False) -> None:
        """Keep the slope."""
        super().__init__(inplace)
        self.negative_slope = negative_slope

    def forward(self, input: Tensor) -> Tensor:
        """Apply to each element."""
        return F.leaky_relu(input, self.negative_slope, inplace=self.inplace)

    def extra_repr(self) -> str:
        """Say the slope."""
        return f"negative_slope={self.negative_slope}" + ", inplace=True" * self.inplace


class ELU(_InPlace):
    """x where x > 0, else alpha·(exp(x) - 1).   Clevert et al. 2015, arXiv:1511.07289"""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        """Keep alpha."""
        super().__init__(inplace)
        self.alpha = alpha

    def forward(self, input: Tensor) -> Tensor:
        """Apply to each element."""
        return F.elu(input, self.alpha, inplace=self.inplace)

    def extra_repr(self) -> str:
        """Say alpha."""
        return f"alpha={self.alpha}" + ", inplace=True" * self.inplace


class CELU(_InPlace):
    """max(x, 0) + min(alpha·(exp(x / alpha) - 1), 0).   Barron 2017, arXiv:1704.07483"""

    def __init__(self, alpha: float = 1.0, inplace: bool = False) -> None:
        """Keep alpha."""
        super().__init__(inplace)
        self.alpha = alpha

    def forward(self, input: Tensor) -> Tensor:
        """Apply to each element."""
        return F.celu(input, self.alpha, inplace=self.inplace)

    def extra_repr(self) -> str:
        """Say alpha."""
        return f"alpha={self.alpha}" + ", inplace=True" * self.inplace


class Hardtanh(_InPlace):
    """x clipped to [min_val, max_val]."""

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> None:
        """Keep the bounds."""
        super().__init__(inplace)
        self.min_val = min_val
        self.max_val = max_val

    def forward(self, input: Tensor) -> Tensor:
        """Apply to each element."""
        return F.hardtanh(input, self.min_val, self.max_val, inplace=self.inplace)

    def extra_repr(self) -> str:
        """Say the bounds."""
        return f"min_val={self.min_val}, max_val={self.max_val}" + ", inplace=True" * self.inplace


class Threshold(_InPlace):
    """x where x > threshold, else value."""

    def __init__(self, threshold: float, value: float, inplace: bool = False) -> None:
        """Keep the threshold and the value."""
        super().__init__(inplace)
        self.threshold = threshold
        self.value = value

    def forward(self, input: Tensor) -> Tensor:
        """Apply to each element."""
        return F.threshold(input, self.threshold, self.value, inplace=self.inplace)

    def extra_repr(self) -> str:
        """Say the threshold and the value."""
        return f"threshold={self.threshold}, value={self.value}" + ", inplace=True" * self.inplace


class GELU(Module):
    """x·Φ(x), Φ the normal distribution function.   Hendrycks and Gimpel 2016, arXiv:1606.08415"""

    def __init__(self, approximate: str = "none") -> None:
        """Use the exact form, or the approximation "tanh"."""
        super().__init__()
        self.approximate = approximate

    def forward(self, input: Tensor) -> Tensor:
        """Apply to each element."""
        return F.gelu(input, approximate=self.approximate)

    def extra_repr(self) -> str:
        """Say the form."""
        return f"approximate={self.approximate!r}"


class Sigmoid(Module):
    """1 / (1 + exp(-x))."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply to each element."""
        return input.sigmoid()


class Tanh(Module):
    """The hyperbolic tangent."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply to each element."""
        return input.tanh()


class LogSigmoid(Module):
    """log σ(x), exact where σ(x) underflows."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply to each element."""
        return F.logsigmoid(input)


class Softsign(Module):
    """x / (1 + |x|)."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply to each element."""
        return F.softsign(input)


class Tanhshrink(Module):
    """x - tanh(x)."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply to each element."""
        return F.tanhshrink(input)


class Hardshrink(Module):
    """x where |x| > lambd, else 0."""

    def __init__(self, lambd: float = 0.5) -> None:
        """Keep the threshold."""
        super().__init__()
        self.lambd = lambd

    def forward(self, input: Tensor) -> Tensor:
        """Apply to each element."""
        return F.hardshrink(input, self.lambd)

    def extra_repr(self) -> str:
        """Say the threshold."""
        return f"{self.lambd}"


class Softshrink(Module):
    """x moved towards 0 by lambd, and 0 where it would cross."""

    def __init__(self, lambd: float = 0.5) -> None:
        """Keep the threshold."""
        super().__init__()
        self.lambd = lambd

    def forward(self, input: Tensor) -> Tensor:
        """Apply to each element."""
        return F.softshrink(input, self.lambd)

    def extra_repr(self) -> str:
        """Say the threshold."""
        return f"{self.lambd}"


class Softplus(Module):
    """log(1 + exp(beta·x)) / beta, and x itself where beta·x > threshold."""

    def __init__(self, beta: float = 1.0, threshold: float = 20.0) -> None:
        """Keep beta and the threshold."""
        super().__init__()
        self.beta = beta
        self.threshold = threshold

    def forward(self, input: Tensor) -> Tensor:
        """Apply to each element."""
        return F.softplus(input, self.beta, self.threshold)

    def extra_repr(self) -> str:
        """Say beta and the threshold."""
        return f"beta={self.beta}, threshold={self.threshold}"


class PReLU(Module):
    """x where x > 0, else weight·x, with a trained slope for all channels or each one.   He et al. 2015

    Shapes: [n, c, ...] → the same; weight [num_parameters], where num_parameters is 1 or c
    """

    weight: Parameter

    def __init__(
        self, num_parameters: int = 1, init: float = 0.25, device: str | None = None, dtype: Any = None
    ) -> None:
        """Start every slope at init."""
        super().__init__()
        self.num_parameters = num_parameters
        self.weight = Parameter(bs.full((num_parameters,), init, device=device, dtype=dtype))

    def forward(self, input: Tensor) -> Tensor:
        """Apply to each element."""
        return F.prelu(input, self.weight)

    def extra_repr(self) -> str:
        """Say the number of slopes."""
        return f"num_parameters={self.num_parameters}"


class GLU(Module):
    """Half of the axis dim times the sigmoid of its other half.   Dauphin et al. 2016, arXiv:1612.08083"""

    def __init__(self, dim: int = -1) -> None:
        """Keep the axis."""
        super().__init__()
        self.dim = dim

    def forward(self, input: Tensor) -> Tensor:
        """Apply to the halves."""
        return F.glu(input, self.dim)

    def extra_repr(self) -> str:
        """Say the axis."""
        return f"dim={self.dim}"


class _AlongDim(Module):
    """A function along one axis, which must be named: a guessed axis is a silent error."""

    def __init__(self, dim: int) -> None:
        """Keep the axis."""
        super().__init__()
        self.dim = dim

    def extra_repr(self) -> str:
        """Say the axis."""
        return f"dim={self.dim}"


class Softmax(_AlongDim):
    """exp(x) / Σ exp(x) along the axis dim."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply along the axis."""
        return F.softmax(input, self.dim)


class LogSoftmax(_AlongDim):
    """x - log Σ exp(x) along the axis dim."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply along the axis."""
        return F.log_softmax(input, self.dim)


class Softmin(_AlongDim):
    """The softmax of -x along the axis dim."""

    def forward(self, input: Tensor) -> Tensor:
        """Apply along the axis."""
        return F.softmax(-input, self.dim)
