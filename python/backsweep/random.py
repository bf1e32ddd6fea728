"""Fresh random tensors. A draw is a function of the seed and of how many came before, on any number of threads."""

from __future__ import annotations

from typing import Any

from . import _core, errors
from ._core import Tensor
from .attach import method
from .creation import check_device
from .dtypes import float32, int64
from .shape import sizes_of
from .types import DType

__all__ = [
    "bernoulli", "get_rng_state", "manual_seed", "normal", "rand", "rand_like", "randint", "randn", "randn_like",
    "randperm", "set_rng_state",
]  # fmt: skip


def manual_seed(seed: int) -> None:
    """Start the generator again from a seed."""
    _core.manual_seed(seed)


def get_rng_state() -> tuple[int, int]:
    """Seed and number of draws: all there is to know of the generator."""
    return _core.rng_state()


def set_rng_state(state: tuple[int, int]) -> None:
    """Go on from where `get_rng_state` was called."""
    _core.set_rng_state(*state)


def _finish(value: Tensor, requires_grad: bool) -> Tensor:
    return value.requires_grad_() if requires_grad else value


def rand(*size: Any, dtype: DType = float32, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Numbers in [0, 1), evenly spread."""
    check_device("rand", device)
    return _finish(_core.uniform(list(sizes_of(size)), dtype), requires_grad)


def randn(*size: Any, dtype: DType = float32, device: str | None = None, requires_grad: bool = False) -> Tensor:
    """Standard normal numbers."""
    check_device("randn", device)
    return _finish(_core.normal(list(sizes_of(size)), dtype), requires_grad)


def rand_like(input: Tensor) -> Tensor:
    """`rand` of the shape and dtype of another tensor."""
    return _core.uniform(list(input.shape), input.dtype)


def randn_like(input: Tensor) -> Tensor:
    """`randn` of the shape and dtype of another tensor."""
    return _core.normal(list(input.shape), input.dtype)


def normal(mean: float, std: float, size: Any) -> Tensor:
    """Normal numbers of a mean and a standard deviation."""
    if std < 0:
        raise errors.ValueError(f"normal: std is {std}; zero or more is needed")
    return _core.normal(list(size), float32) * std + mean


def randint(low: int, high: Any, size: Any = None, *, dtype: DType = int64) -> Tensor:
    """Integers in low..high; `randint(high, size)` starts at 0."""
    if size is None:
        low, high, size = 0, low, high
    value = _core.randint(low, high, list(size))
    return value if dtype is int64 else value.to(dtype)


def randperm(n: int) -> Tensor:
    """0..n in random order."""
    if n < 0:
        raise errors.ValueError(f"randperm: n is {n}; zero or more is needed")
    return _core.randperm(n)


def bernoulli(input: Tensor) -> Tensor:
    """1 with the probability that each element gives, else 0."""
    return (_core.uniform(list(input.shape), float32) < input).to(input.dtype)


@method
def uniform_(self: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Overwrite with numbers evenly spread in [a, b)."""
    return self.copy_(_core.uniform(list(self.shape), self.dtype) * (b - a) + a)


@method
def normal_(self: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Overwrite with normal numbers."""
    return self.copy_(_core.normal(list(self.shape), self.dtype) * std + mean)


@method
def bernoulli_(self: Tensor, p: float = 0.5) -> Tensor:
    """Overwrite with 1 with probability p, else 0."""
    return self.copy_((_core.uniform(list(self.shape), float32) < p).to(self.dtype))
