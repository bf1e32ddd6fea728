"""Random tensors. Every number is a function of the seed and its place in the stream, on any number of threads."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from . import _core, errors
from ._core import Tensor, apply
from .attach import method
from .creation import check_device
from .dtypes import float32, int64
from .shape import sizes_of
from .types import DType

__all__ = [
    "bernoulli",
    "get_rng_state",
    "initial_seed",
    "manual_seed",
    "multinomial",
    "normal",
    "rand",
    "rand_like",
    "randint",
    "randint_like",
    "randn",
    "randn_like",
    "randperm",
    "seed",
    "set_rng_state",
]


def manual_seed(seed: int) -> None:
    """Begin the stream of a seed; the same calls then give the same numbers, bit for bit.

    Example:
        >>> bs.manual_seed(0)
        >>> x = bs.rand(2)
        >>> bs.manual_seed(0)
        >>> bs.equal(bs.rand(2), x)
        True
    """
    if not -(2**63) <= seed < 2**64:
        raise errors.ValueError(f"manual_seed: {seed} has more than 64 bits; -2^63 to 2^64 - 1 is needed")
    _core.manual_seed(seed % 2**64)


def seed() -> int:
    """Begin the stream of a seed drawn by the system, and give it."""
    drawn = int.from_bytes(os.urandom(8), "little")
    _core.manual_seed(drawn)
    return drawn


def initial_seed() -> int:
    """The seed of the stream in use."""
    return _core.rng_state()[0]


def get_rng_state() -> Tensor:
    """The seed and the place in its stream, as a tensor that `set_rng_state` takes."""
    return _core.from_bytes(b"".join(part.to_bytes(8, "little") for part in _core.rng_state()), [2], int64)


def set_rng_state(new_state: Tensor) -> None:
    """Go on from a state that `get_rng_state` gave."""
    if new_state.shape != (2,) or new_state.dtype is not int64:
        raise errors.ValueError(
            f"set_rng_state: a state of shape {list(new_state.shape)} and {new_state.dtype.name}; "
            f"what get_rng_state() gave is needed"
        )
    data = _core.to_bytes(new_state)
    _core.set_rng_state(int.from_bytes(data[:8], "little"), int.from_bytes(data[8:], "little"))


def _leaf(op: str, value: Tensor, device: str | None, requires_grad: bool) -> Tensor:
    check_device(op, device)
    if requires_grad:
        value.requires_grad = True
    return value


def rand(
    *size: Any, dtype: DType | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Uniform numbers in [0, 1)."""
    return _leaf("rand", _core.uniform(sizes_of(size), 0.0, 1.0, dtype or float32), device, requires_grad)


def randn(
    *size: Any, dtype: DType | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Normal numbers of mean 0 and deviation 1."""
    return _leaf("randn", _core.normal(sizes_of(size), 0.0, 1.0, dtype or float32), device, requires_grad)


def randint(
    low: int,
    high: Any = None,
    size: Any = None,
    *,
    dtype: DType | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Integers from low to before high: randint(high, size) or randint(low, high, size).

    Example:
        >>> bs.randint(0, 6, (2, 3)).shape
        (2, 3)
    """
    if size is None:
        if high is None or isinstance(high, int):
            raise errors.ValueError("randint: no size is given; randint(low, high, size) is needed, size a tuple")
        low, high, size = 0, low, high
    elif high is None:
        low, high = 0, low
    return _leaf("randint", _core.randint(sizes_of((size,)), low, high, dtype or int64), device, requires_grad)


def randperm(n: int, *, dtype: DType | None = None, device: str | None = None) -> Tensor:
    """The numbers 0 to n - 1 in random order."""
    return _leaf("randperm", _core.randperm(n, dtype or int64), device, False)


def normal(
    mean: Tensor | float = 0.0,
    std: Tensor | float = 1.0,
    size: Sequence[int] | None = None,
    *,
    dtype: DType | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Normal numbers of a mean and a deviation; these may be tensors, one for each number."""
    if not isinstance(mean, Tensor) and not isinstance(std, Tensor):
        if size is None:
            raise errors.ValueError("normal: no size is given; it is needed where mean and std are numbers")
        return _leaf("normal", _core.normal(sizes_of((size,)), mean, std, dtype or float32), device, requires_grad)
    if size is not None or dtype is not None:
        raise errors.ValueError("normal: size or dtype is given beside a tensor, which brings its own; leave it out")
    given = mean + std * 0 if isinstance(std, Tensor) else mean
    return _leaf("normal", mean + std * randn(given.shape, dtype=given.dtype), device, requires_grad)


def bernoulli(input: Tensor) -> Tensor:
    """1 with the probability that each element gives, else 0; without a gradient."""
    if not input.is_floating_point():
        raise errors.DTypeError(f"bernoulli: probabilities of {input.dtype.name}; a floating dtype is needed")
    if input.numel() and not bool(((input >= 0) & (input <= 1)).all()):
        raise errors.ValueError("bernoulli: some probability is outside 0 to 1, or NaN; all must be within")
    drawn = _core.uniform(input.shape, 0.0, 1.0, float32)
    return apply("cast", drawn < input.detach(), input.dtype)


def multinomial(input: Tensor, num_samples: int, replacement: bool = False) -> Tensor:
    """Numbers of elements along the last dim, drawn with probabilities in proportion to the elements.

    Shapes: [c] → [num_samples], [n, c] → [n, num_samples]
    """
    if input.ndim not in (1, 2) or not input.shape[-1]:
        raise errors.ShapeError(f"multinomial: weights of shape {list(input.shape)}; [c] or [n, c] is needed")
    weights = input.detach().double()
    total = weights.sum(-1, keepdim=True)
    if not bool((weights >= 0).all() & (total > 0).all() & total.isfinite().all()):
        raise errors.ValueError("multinomial: some weight is negative or not finite, or all are 0; sums above 0 are needed")
    if replacement:
        ends = weights.cumsum(-1) / total
        drawn = _core.uniform([*input.shape[:-1], num_samples], 0.0, 1.0, _core.float64)
        found = apply("searchsorted", ends, drawn, True)
        # Rounding may leave the last end a little below 1; the last element of some weight stands for the rest.
        last = (input.shape[-1] - 1 - (weights > 0).flip(-1).long().argmax(-1, keepdim=True)).expand(found.shape)
        return found.minimum(last)
    fewest = int((weights > 0).sum(-1).min())
    if num_samples > fewest:
        raise errors.ValueError(
            f"multinomial: {num_samples} samples without replacement of {fewest} elements above 0; no more can be drawn"
        )
    # The first to ring of clocks at these rates are a draw without replacement.
    clocks = -(1.0 - _core.uniform(input.shape, 0.0, 1.0, _core.float64)).log() / weights
    return apply("topk", clocks, num_samples, -1, False)[1]


def rand_like(
    input: Tensor, *, dtype: DType | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Uniform numbers in [0, 1), of input's shape and dtype."""
    return rand(input.shape, dtype=dtype or input.dtype, device=device, requires_grad=requires_grad)


def randn_like(
    input: Tensor, *, dtype: DType | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Normal numbers of mean 0 and deviation 1, of input's shape and dtype."""
    return randn(input.shape, dtype=dtype or input.dtype, device=device, requires_grad=requires_grad)


def randint_like(
    input: Tensor,
    low: int,
    high: int | None = None,
    *,
    dtype: DType | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Integers from low to before high, or from 0 to before low, of input's shape and dtype."""
    return randint(low, high, input.shape, dtype=dtype or input.dtype, device=device, requires_grad=requires_grad)


# In place


@method
def uniform_(self: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Fill with uniform numbers in [a, b)."""
    return self.copy_(_core.uniform(self.shape, a, b, self.dtype))


@method
def normal_(self: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Fill with normal numbers."""
    return self.copy_(_core.normal(self.shape, mean, std, self.dtype))


@method
def bernoulli_(self: Tensor, p: Tensor | float = 0.5) -> Tensor:
    """Fill with 1 with probability p, else 0."""
    if isinstance(p, Tensor):
        return self.copy_(bernoulli(p))
    return self.copy_(_core.bernoulli(self.shape, p, self.dtype))


@method
def random_(self: Tensor, low: int, high: int | None = None) -> Tensor:
    """Fill with integers from low to before high, or from 0 to before low."""
    low, high = (0, low) if high is None else (low, high)
    return self.copy_(_core.randint(self.shape, low, high, self.dtype))


@method
def exponential_(self: Tensor, lambd: float = 1.0) -> Tensor:
    """Fill with exponential numbers of rate lambd."""
    if not lambd > 0:
        raise errors.ValueError(f"exponential_: lambd is {lambd}; a rate above 0 is needed")
    return self.copy_((1.0 - _core.uniform(self.shape, 0.0, 1.0, self.dtype)).log_().mul_(-1.0 / lambd))


def draw_key(count: int) -> tuple[int, int]:
    """The key and offset of the next words of the stream: what a random op has as its attributes."""
    return _core.draw(count)
