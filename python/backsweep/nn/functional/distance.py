"""Lengths, angles and distances."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ... import errors
from ..._core import Tensor, apply
from ...creation import triu_indices
from ...reduction import norm


def normalize(input: Tensor, p: float = 2.0, dim: int | Sequence[int] = 1, eps: float = 1e-12) -> Tensor:
    """Divide by the p-norm along a dim, or by eps where the norm is less: the slope at 0 is then 1 / eps."""
    size = apply("clamp", norm(input, p, dim, True), eps, math.inf)
    return apply("div", input, size)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """The cosine of the angle between vectors along a dim; inputs broadcast."""
    sizes = [apply("clamp", norm(x, 2.0, dim, True), eps, math.inf) for x in (x1, x2)]
    return apply("sum", apply("mul", apply("div", x1, sizes[0]), apply("div", x2, sizes[1])), dim, False)


def pairwise_distance(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    """The p-norm of x1 - x2 + eps along the last dim."""
    return norm(apply("add", apply("sub", x1, x2), eps), p, -1, keepdim)


def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """The p-norm distances of all pairs of rows: [n, d] → [n (n - 1) / 2]."""
    if input.ndim != 2:
        raise errors.ShapeError(f"pdist: {list(input.shape)} has {input.ndim} dims; 2 are needed")
    first, second = triu_indices(input.shape[0], input.shape[0], 1).unbind(0)
    return norm(apply("index_get", input, first) - apply("index_get", input, second), p, -1)
