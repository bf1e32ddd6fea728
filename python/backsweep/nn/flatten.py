"""Modules that only change the shape."""

from __future__ import annotations

from .._core import Tensor
from .module import Module


class Flatten(Module):
    """Join the axes start_dim to end_dim into one; by default all but the first.

    Shapes: [n, c, h, w] → [n, c·h·w]
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        """Keep the range of axes."""
        super().__init__()
        self.start_dim = start_dim
        self.end_dim = end_dim

    def forward(self, input: Tensor) -> Tensor:
        """Join the axes."""
        return input.flatten(self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        """Say the range of axes."""
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"


class Unflatten(Module):
    """Split the axis dim into several.

    Shapes: [n, c·h·w] → [n, c, h, w] for Unflatten(1, (c, h, w))
    """

    def __init__(self, dim: int, unflattened_size: tuple[int, ...]) -> None:
        """Keep the axis and its new sizes; one of them may be -1."""
        super().__init__()
        self.dim = dim
        self.unflattened_size = tuple(unflattened_size)

    def forward(self, input: Tensor) -> Tensor:
        """Split the axis."""
        return input.unflatten(self.dim, self.unflattened_size)

    def extra_repr(self) -> str:
        """Say the axis and its new sizes."""
        return f"dim={self.dim}, unflattened_size={self.unflattened_size}"
