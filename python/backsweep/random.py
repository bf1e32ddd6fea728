"""Random tensors. Every number is a function of the seed and its place in the stream, on any number of threads."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Any

from . import _core, errors
from ._core import Tensor, apply
from .attach import method
from .creation import check_device, placed, tensor
from .dtypes import float32, float64, int64
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
    if not -(2**63) <= seed < 2**63:
        raise errors.ValueError(f"manual_seed: {seed} has more than 64 bits; -2^63 to 2^63 - 1 is needed")
    _core.manual_seed(seed)


def seed() -> int:
    """Begin the stream of a seed drawn by the system, and give it."""
    drawn = int.from_bytes(os.urandom(8), "little", signed=True)
    _core.manual_seed(drawn)
    return drawn


def initial_seed() -> int:
    """The seed of the stream in use."""
    return _core.rng_state()[0]


def get_rng_state() -> Tensor:
    """The seed and the place in its stream, as a tensor that `set_rng_state` takes."""
    state = b"".join(part.to_bytes(8, "little", signed=True) for part in _core.rng_state())
    return _core.from_bytes(state, [2], int64)


def set_rng_state(new_state: Tensor) -> None:
    """Go on from a state that `get_rng_state` gave."""
    if not isinstance(new_state, Tensor) or new_state.shape != (2,) or new_state.dtype is not int64:
        raise errors.ValueError(f"set_rng_state: {new_state!r} is no state; what get_rng_state() gave is needed")
    _core.set_rng_state(*new_state.tolist())


def _leaf(op: str, value: Tensor, device: str | None, requires_grad: bool) -> Tensor:
    value = placed(op, value, device)
    if requires_grad:
        value.requires_grad = True
    return value


def rand(
    *size: Any, dtype: DType | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Uniform numbers in [0, 1)."""
    value = _core.uniform(sizes_of(size), dtype or float32, check_device("rand", device))
    return _leaf("rand", value, None, requires_grad)


def randn(
    *size: Any, dtype: DType | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Normal numbers of mean 0 and deviation 1."""
    value = _core.normal(sizes_of(size), dtype or float32, check_device("randn", device))
    return _leaf("randn", value, None, requires_grad)


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
    value = _core.randint(low, high, sizes_of((size,)), check_device("randint", device))
    value = value if dtype in (None, int64) else apply("cast", value, dtype)
    return _leaf("randint", value, None, requires_grad)


def randperm(n: int, *, dtype: DType | None = None, device: str | None = None) -> Tensor:
    """The numbers 0 to n - 1 in random order."""
    if n < 0:
        raise errors.ValueError(f"randperm: n is {n}; zero or more is needed")
    value = _core.randperm(n)
    return _leaf("randperm", value if dtype in (None, int64) else apply("cast", value, dtype), device, False)


def _normal(shape: Sequence[int], mean: float, std: float, dtype: DType, device: str) -> Tensor:
    if not std >= 0:
        raise errors.ValueError(f"normal: std is {std}; zero or more is needed")
    value = _core.normal(shape, dtype, device)
    return value if (mean, std) == (0.0, 1.0) else value.mul_(std).add_(mean)


def normal(
    mean: Tensor | float = 0.0,
    std: Tensor | float = 1.0,
    size: Sequence[int] | None = None,
    *,
    dtype: DType | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Normal numbers of a mean and a deviation; these may be tensors, one for each number, and get gradients."""
    if not isinstance(mean, Tensor) and not isinstance(std, Tensor):
        if size is None:
            raise errors.ValueError("normal: no size is given; it is needed where mean and std are numbers")
        value = _normal(sizes_of((size,)), mean, std, dtype or float32, check_device("normal", device))
        return _leaf("normal", value, None, requires_grad)
    if size is not None or dtype is not None:
        raise errors.ValueError("normal: size or dtype is given beside a tensor, which brings its own; leave it out")
    centers: Any = mean + std * 0
    drawn = mean + std * _core.normal(centers.shape, centers.dtype, centers.device)
    return _leaf("normal", drawn, device, requires_grad)


@method
def bernoulli(input: Tensor) -> Tensor:
    """1 with the probability that each element gives, else 0; without a gradient."""
    if not input.is_floating_point():
        raise errors.DTypeError(f"bernoulli: probabilities of {input.dtype.name}; a floating dtype is needed")
    chance = input.detach()
    if not bool(((chance >= 0) & (chance <= 1)).all()):
        raise errors.ValueError("bernoulli: some probability is outside 0 to 1, or NaN; all must be within")
    return (_core.uniform(input.shape, float32, input.device) < chance).to(input.dtype)


@method
def multinomial(input: Tensor, num_samples: int, replacement: bool = False) -> Tensor:
    """Places along the last dim, drawn with probabilities in proportion to the elements.

    One sample, or samples with replacement, take elements below 2⁻³⁰ of the largest as 0.
    Shapes: [c] → [num_samples], [n, c] → [n, num_samples]
    """
    if input.ndim not in (1, 2) or not input.shape[-1]:
        raise errors.ShapeError(f"multinomial: weights of shape {list(input.shape)}; [c] or [n, c] is needed")
    weights = input.detach()
    weights = weights if weights.dtype is float64 else weights.float()
    top = weights.amax(-1, keepdim=True)
    if not bool((weights >= 0).all()) or not bool(((top > 0) & top.isfinite()).all()):
        raise errors.ValueError(
            "multinomial: some weight is negative or not finite, or all of a row are 0; finite sums above 0 are needed"
        )
    if replacement or num_samples == 1:
        return _core.choose(_whole(weights, top).cumsum(-1).contiguous(), num_samples)
    if input.device != "cpu":
        raise errors.DeviceError(
            f"multinomial: {num_samples} samples without replacement are drawn in float64, which GPUs have not here; "
            "one, or any number with replacement, can be drawn there (help: x.cpu())"
        )
    fewest = int((weights > 0).sum(-1).amin().item())
    if num_samples > fewest:
        raise errors.ValueError(
            f"multinomial: {num_samples} samples without replacement of {fewest} elements above 0; no more can be drawn"
        )
    # The first to ring of clocks that run at these rates are a draw without replacement.
    clocks = (1.0 - _core.uniform(input.shape, float64)).log().neg() / weights.double()
    return clocks.topk(num_samples, -1, largest=False)[1]


def _whole(weights: Tensor, top: Tensor) -> Tensor:
    """The weights in units of 2⁻³⁰ of a power of two above the largest, rounded down; the same on every device."""
    steps = [30 - math.frexp(value)[1] for value in top.flatten().tolist()]
    # Powers of two round nothing; half of the way at a time, so that both are in range.
    for part in ([step // 2 for step in steps], [step - step // 2 for step in steps]):
        factors = tensor([math.ldexp(1.0, step) for step in part], dtype=weights.dtype)
        weights = weights * factors.reshape(top.shape).to(weights.device)
    return weights.floor().to(int64)


def rand_like(
    input: Tensor, *, dtype: DType | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Uniform numbers in [0, 1), of input's shape and dtype."""
    return rand(input.shape, dtype=dtype or input.dtype, device=device or input.device, requires_grad=requires_grad)


def randn_like(
    input: Tensor, *, dtype: DType | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Normal numbers of mean 0 and deviation 1, of input's shape and dtype."""
    return randn(input.shape, dtype=dtype or input.dtype, device=device or input.device, requires_grad=requires_grad)


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
    return randint(
        low, high, input.shape, dtype=dtype or input.dtype, device=device or input.device, requires_grad=requires_grad
    )


# In place


@method
def uniform_(self: Tensor, from_: float = 0.0, to: float = 1.0) -> Tensor:
    """Fill with uniform numbers in [from_, to)."""
    if not from_ <= to:
        raise errors.ValueError(f"uniform_: from {from_} to {to}; the lower bound must come first")
    value = _core.uniform(self.shape, self.dtype, self.device)
    return self.copy_(value if (from_, to) == (0.0, 1.0) else value.mul_(to - from_).add_(from_))


@method
def normal_(self: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Fill with normal numbers."""
    return self.copy_(_normal(self.shape, mean, std, self.dtype, self.device))


@method
def bernoulli_(self: Tensor, p: Tensor | float = 0.5) -> Tensor:
    """Fill with 1 with probability p, else 0."""
    if isinstance(p, Tensor):
        return self.copy_(bernoulli(p))
    if not 0 <= p <= 1:
        raise errors.ValueError(f"bernoulli_: p is {p}; a probability from 0 to 1 is needed")
    return self.copy_(_core.uniform(self.shape, float32, self.device) < p)


@method
def random_(self: Tensor, low: int, high: int | None = None) -> Tensor:
    """Fill with integers from low to before high, or from 0 to before low."""
    low, high = (0, low) if high is None else (low, high)
    return self.copy_(_core.randint(low, high, self.shape, self.device))


@method
def exponential_(self: Tensor, lambd: float = 1.0) -> Tensor:
    """Fill with exponential numbers of a rate."""
    if not lambd > 0:
        raise errors.ValueError(f"exponential_: lambd is {lambd}; a rate above 0 is needed")
    return self.copy_((1.0 - _core.uniform(self.shape, self.dtype, self.device)).log_().mul_(-1.0 / lambd))
