"""Dropout of elements and of channels."""

from __future__ import annotations

from ... import _core, errors
from ..._core import Tensor, apply
from ...creation import ones
from .activation import in_place_of


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Each element 0 with probability p, the others scaled to keep the mean. Saves: nothing."""
    if not 0.0 <= p <= 1.0:
        raise errors.ValueError(f"dropout: p is {p}; a probability from 0 to 1 is needed")
    if not training or p == 0.0:
        return input
    return in_place_of(input, apply("dropout", input, p, *_core.next_stream(input.numel())), inplace)


def _channel_dropout(op: str, input: Tensor, p: float, training: bool, inplace: bool, unbatched: int) -> Tensor:
    if input.ndim < 2:
        raise errors.ShapeError(f"{op}: input {list(input.shape)}; [n, c, ...] or [c, ...] is needed")
    lead = 1 if input.ndim == unbatched else 2
    drawn = dropout(ones((*input.shape[:lead], *(1,) * (input.ndim - lead)), dtype=input.dtype), p, training)
    return in_place_of(input, input * drawn, inplace) if training and p else input


def dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Dropout of whole channels of [n, c, l] or [c, l]."""
    return _channel_dropout("dropout1d", input, p, training, inplace, 2)


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Dropout of whole channels of [n, c, h, w]."""
    return _channel_dropout("dropout2d", input, p, training, inplace, 0)


def dropout3d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Dropout of whole channels of [n, c, d, h, w] or [c, d, h, w]."""
    return _channel_dropout("dropout3d", input, p, training, inplace, 4)


def alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """Dropout to SELU's lower bound, moved and scaled so that mean 0 and variance 1 stay."""
    if not training or p == 0.0:
        return input
    low = -1.7580993408473766
    kept = apply("ne", dropout(ones(input.shape, dtype=input.dtype), p), 0.0)
    scale = 0.0 if p == 1.0 else ((1.0 - p) * (1.0 + p * low * low)) ** -0.5
    return in_place_of(input, apply("where", kept, input, low) * scale - scale * low * p, inplace)
