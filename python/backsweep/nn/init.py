"""Initialisers: each fills a tensor in place, outside the graph, and returns it.

Imports the native module and NumPy (for the QR factorisation and rejection sampling). Draws come from the
engine's random stream, so `bs.manual_seed` decides them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

import backsweep as bs

from .. import errors
from .._core import Tensor


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """Give the factor that keeps the variance of activations when this nonlinearity follows.

    param is the negative slope of "leaky_relu", 0.01 if left out.
    Example:
        >>> nn.init.calculate_gain("tanh")
        1.6666666666666667
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2.0 / (1 + (0.01 if param is None else param) ** 2))
    gains = {"tanh": 5.0 / 3, "relu": math.sqrt(2.0), "selu": 3.0 / 4}
    linear = ("linear", "sigmoid", *(f"conv{way}{n}d" for way in ("", "_transpose") for n in (1, 2, 3)))
    gains.update(dict.fromkeys(linear, 1.0))
    if nonlinearity not in gains:
        raise errors.ValueError(
            f"calculate_gain: no gain is known for {nonlinearity!r}; "
            f"one of leaky_relu, {', '.join(gains)} is needed"
        )
    return gains[nonlinearity]


def _calculate_fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    shape = tuple(tensor.shape)
    if len(shape) < 2:
        raise errors.ShapeError(
            f"init: fan-in of shape {list(shape)} is not defined; 2 axes or more are needed"
        )
    receptive = math.prod(shape[2:])
    return shape[1] * receptive, shape[0] * receptive


def _fan(tensor: Tensor, mode: str) -> int:
    fans = dict(zip(("fan_in", "fan_out"), _calculate_fan_in_and_fan_out(tensor), strict=True))
    if mode not in fans:
        raise errors.ValueError(f"init: mode {mode!r} is unknown; fan_in or fan_out is needed")
    return fans[mode]


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Fill with draws from U(a, b)."""
    with bs.no_grad():
        return tensor.uniform_(a, b)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Fill with draws from N(mean, std²)."""
    with bs.no_grad():
        return tensor.normal_(mean, std)


def trunc_normal_(
    tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0
) -> Tensor:
    """Fill with draws from N(mean, std²), on condition that they lie in [a, b]; exact for any bounds."""
    if not a < b or not std > 0:
        raise errors.ValueError(f"trunc_normal_: a={a}, b={b}, std={std}; a < b and std > 0 are needed")
    dtype = bs.float64 if tensor.dtype == bs.float64 else bs.float32

    def draw(count: int, fill: Callable[[Tensor], Any]) -> np.ndarray[Any, Any]:
        sample = bs.empty(count, dtype=dtype)
        fill(sample)
        return sample.numpy()

    below_b, below_a = (0.5 * math.erfc((mean - bound) / (std * math.sqrt(2))) for bound in (b, a))
    mode = max(a, min(mean, b))  # where the density has its maximum within the bounds
    size = math.prod(tensor.shape)
    values = np.empty(size, dtype=np.float64 if dtype == bs.float64 else np.float32)
    pending = np.arange(size)
    while pending.size:
        count = int(pending.size)
        if below_b - below_a > 0.3:  # most normal draws lie within the bounds
            proposal = draw(count, lambda sample: sample.normal_(mean, std))
            accept = (proposal >= a) & (proposal <= b)
        else:  # in a tail, or a narrow interval: uniform draws, accepted in proportion to the density
            proposal = draw(count, lambda sample: sample.uniform_(a, b))
            log_density = 0.5 * (((mode - mean) / std) ** 2 - ((proposal - mean) / std) ** 2)
            accept = draw(count, lambda sample: sample.uniform_(0.0, 1.0)) <= np.exp(log_density)
        values[pending[accept]] = proposal[accept]
        pending = pending[~accept]
    return _copy(tensor, values)


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill with one value."""
    with bs.no_grad():
        return tensor.fill_(val)


def ones_(tensor: Tensor) -> Tensor:
    """Fill with 1."""
    return constant_(tensor, 1.0)


def zeros_(tensor: Tensor) -> Tensor:
    """Fill with 0."""
    with bs.no_grad():
        return tensor.zero_()


def eye_(tensor: Tensor) -> Tensor:
    """Fill a matrix with the identity."""
    if tensor.ndim != 2:
        raise errors.ShapeError(f"eye_: shape {list(tensor.shape)} is no matrix; 2 axes are needed")
    return _copy(tensor, np.eye(*tensor.shape, dtype=np.float32))


def dirac_(tensor: Tensor, groups: int = 1) -> Tensor:
    """Fill a convolution weight so that the layer passes its input on, channel by channel."""
    shape = tuple(tensor.shape)
    if len(shape) not in (3, 4, 5):
        raise errors.ShapeError(
            f"dirac_: shape {list(shape)} is no convolution weight; 3 to 5 axes are needed"
        )
    if shape[0] % groups:
        raise errors.ValueError(f"dirac_: {shape[0]} output channels do not divide into {groups} groups")
    values = np.zeros(shape, dtype=np.float32)
    each = shape[0] // groups
    centre = tuple(size // 2 for size in shape[2:])
    for group in range(groups):
        for channel in range(min(each, shape[1])):
            values[(group * each + channel, channel, *centre)] = 1
    return _copy(tensor, values)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Fill from U(-bound, bound), bound = gain·√(6 / (fan_in + fan_out)).   Glorot and Bengio 2010"""
    bound = gain * math.sqrt(6.0 / sum(_calculate_fan_in_and_fan_out(tensor)))
    return uniform_(tensor, -bound, bound)


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Fill from N(0, std²), std = gain·√(2 / (fan_in + fan_out)).   Glorot and Bengio 2010"""
    return normal_(tensor, 0.0, gain * math.sqrt(2.0 / sum(_calculate_fan_in_and_fan_out(tensor))))


def kaiming_uniform_(
    tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Fill from U(-bound, bound), bound = gain·√(3 / fan); a is the slope of leaky_relu.   He et al. 2015"""
    if 0 in tensor.shape:
        return tensor
    bound = calculate_gain(nonlinearity, a) * math.sqrt(3.0 / _fan(tensor, mode))
    return uniform_(tensor, -bound, bound)


def kaiming_normal_(
    tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Fill from N(0, std²), std = gain/√fan; a is the slope of leaky_relu.   He et al. 2015"""
    if 0 in tensor.shape:
        return tensor
    return normal_(tensor, 0.0, calculate_gain(nonlinearity, a) / math.sqrt(_fan(tensor, mode)))


def orthogonal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Fill with a uniformly distributed (semi-)orthogonal matrix, axes from the second on taken together.

    Saxe et al. 2013, arXiv:1312.6120
    """
    shape = tuple(tensor.shape)
    if len(shape) < 2:
        raise errors.ShapeError(f"orthogonal_: shape {list(shape)} has no columns; 2 axes or more are needed")
    if 0 in shape:
        return tensor
    rows, columns = shape[0], math.prod(shape[1:])
    tall = (max(rows, columns), min(rows, columns))
    q, r = np.linalg.qr(bs.empty(*tall, dtype=bs.float64).normal_(0.0, 1.0).numpy())
    q *= np.sign(np.diag(r))  # makes q uniform: Mezzadri, arXiv:math-ph/0609050
    return _copy(tensor, gain * (q if rows >= columns else q.T))


def sparse_(tensor: Tensor, sparsity: float, std: float = 0.01) -> Tensor:
    """Fill a matrix from N(0, std²), then set the fraction sparsity of each column to 0.   Martens 2010"""
    if tensor.ndim != 2:
        raise errors.ShapeError(f"sparse_: shape {list(tensor.shape)} is no matrix; 2 axes are needed")
    rows, columns = tensor.shape
    values = normal_(bs.empty(rows, columns), 0.0, std).numpy().copy()
    for column in range(columns):
        values[bs.randperm(rows).numpy()[: math.ceil(sparsity * rows)], column] = 0
    return _copy(tensor, values)


def _copy(tensor: Tensor, values: np.ndarray[Any, Any]) -> Tensor:
    with bs.no_grad():
        return tensor.copy_(bs.from_numpy(np.ascontiguousarray(values.reshape(tuple(tensor.shape)))))
