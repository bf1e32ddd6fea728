"""Normalisation by the batch, by running statistics, by groups of channels, by each image, by the last dims."""

from __future__ import annotations

from collections.abc import Sequence

from ... import errors
from ..._core import Tensor, apply
from ...autograd import no_grad
from ...dtypes import finfo


def _by_channel(x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """x · weight + bias, one of each a channel."""
    per_channel = (1, -1) + (1,) * (x.ndim - 2)
    if weight is not None:
        return apply("channel_affine", x, weight, *(() if bias is None else (bias,)), bias is not None)
    return x if bias is None else x + apply("reshape", bias, per_channel)


def _by_statistics(
    x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    scale = apply("rsqrt", variance + eps)
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale if bias is None else bias - mean * scale
    return apply("channel_affine", x, scale.to(x.dtype), shift.to(x.dtype), True)


def _update(running: Tensor | None, now: Tensor, momentum: float) -> None:
    if running is not None:
        running.lerp_(now, momentum)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each channel by the batch and move the running statistics towards it; or, outside training, by those.

    Shapes: input [n, c, ...], the others [c] → [n, c, ...]
    Saves: in training the input, and two numbers a channel
    """
    if not training:
        if running_mean is None or running_var is None:
            raise errors.ValueError("batch_norm: no running statistics outside training; both are needed")
        return _by_statistics(input, running_mean, running_var, weight, bias, eps)
    given = [t for t in (weight, bias) if t is not None]
    y, mean, variance = apply("batch_norm", input, *given, eps, weight is not None, bias is not None)
    if running_mean is not None or running_var is not None:
        count = input.numel() // input.shape[1]
        with no_grad():
            _update(running_mean, mean, momentum)
            _update(running_var, variance * (count / (count - 1)), momentum)
    return y


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each channel of each image, then scale and shift; or, without input statistics, as batch_norm.

    Shapes: input [n, c, ...], the others [c] → [n, c, ...]
    Saves: the input, and two numbers a channel and image
    """
    if not use_input_stats:
        return batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    count = input[0, 0].numel() if input.ndim > 2 and input.numel() else 0
    if count < 2:
        raise errors.ShapeError(
            f"instance_norm: {count} values a channel and image of {list(input.shape)}; at least 2 are needed"
        )
    if running_mean is not None or running_var is not None:
        over = tuple(range(2, input.ndim))
        with no_grad():
            mean, variance = (f.mean(dim=0) for f in (input.mean(dim=over), input.var(dim=over)))
            _update(running_mean, mean, momentum)
            _update(running_var, variance, momentum)
    return _by_channel(_rows_normalised(input, input.shape[:2], eps), weight, bias)


def group_norm(
    input: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Normalise groups of channels of each image, then scale and shift each channel.

    Shapes: input [n, c, ...], weight and bias [c] → [n, c, ...]
    Saves: the input, and two numbers a group and image
    """
    if input.ndim < 2 or num_groups < 1 or input.shape[1] % num_groups:
        raise errors.ShapeError(
            f"group_norm: input {list(input.shape)} in {num_groups} groups; "
            "[n, c, ...] with channels that divide into equal groups is needed"
        )
    return _by_channel(_rows_normalised(input, (input.shape[0], num_groups), eps), weight, bias)


def _rows_normalised(x: Tensor, lead: tuple[int, ...], eps: float) -> Tensor:
    """Mean 0 and variance 1 over all that follows the leading sizes."""
    if not x.numel():
        return x * 1.0
    flat = apply("layer_norm", apply("reshape", x, (*lead, -1)), 1, eps, False, False)
    return apply("reshape", flat, x.shape)


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise the last dims, then scale and shift.

    Saves: the input, and two numbers a row.
    """
    shape = tuple(normalized_shape)
    if input.shape[input.ndim - len(shape) :] != shape or not shape:
        raise errors.ShapeError(
            f"layer_norm: normalized_shape {list(shape)} for input {list(input.shape)}; its last dims are needed"
        )
    given = [t for t in (weight, bias) if t is not None]
    return apply("layer_norm", input, *given, len(shape), eps, weight is not None, bias is not None)


def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """Divide by the root of the mean square of the last dims, then scale."""
    dims = tuple(range(-len(tuple(normalized_shape)), 0))
    eps = finfo(input.dtype).eps if eps is None else eps
    scaled = input * apply("rsqrt", apply("mean", input * input, dims, True) + eps)
    return scaled if weight is None else scaled * weight
