"""Dropout: in training, zero a random part of the input and scale the rest up."""

from __future__ import annotations

from .. import errors
from .._core import Tensor
from . import functional as F
from .module import Module


class _Dropout(Module):
    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        """Keep the probability of zeroing."""
        super().__init__()
        if not 0 <= p <= 1:
            raise errors.ValueError(
                f"{type(self).__name__}: p={p} is no probability; a value from 0 to 1 is needed"
            )
        self.p = p
        self.inplace = inplace

    def extra_repr(self) -> str:
        """Say the probability."""
        return f"p={self.p}, inplace={self.inplace}"


class Dropout(_Dropout):
    """In training, zero each element with probability p, and divide the rest by 1 - p.

    Srivastava et al. 2014

    Saves: a seed and a counter
    """

    def forward(self, input: Tensor) -> Tensor:
        """Drop elements."""
        return F.dropout(input, self.p, self.training, self.inplace)


class Dropout1d(_Dropout):
    """In training, zero whole channels of [n, c, l] or [c, l] with probability p."""

    def forward(self, input: Tensor) -> Tensor:
        """Drop channels."""
        return F.dropout1d(input, self.p, self.training, self.inplace)


class Dropout2d(_Dropout):
    """In training, zero whole channels of [n, c, h, w] with probability p."""

    def forward(self, input: Tensor) -> Tensor:
        """Drop channels."""
        return F.dropout2d(input, self.p, self.training, self.inplace)


class Dropout3d(_Dropout):
    """In training, zero whole channels of [n, c, d, h, w] with probability p."""

    def forward(self, input: Tensor) -> Tensor:
        """Drop channels."""
        return F.dropout3d(input, self.p, self.training, self.inplace)


class AlphaDropout(_Dropout):
    """Dropout that keeps mean 0 and variance 1 behind SELU.   Klambauer et al. 2017, arXiv:1706.02515"""

    def forward(self, input: Tensor) -> Tensor:
        """Drop elements."""
        return F.alpha_dropout(input, self.p, self.training)
