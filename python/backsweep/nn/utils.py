"""Gradient clipping, and parameters as one vector."""

from __future__ import annotations

import math
from collections.abc import Iterable

import backsweep as bs

from .. import _core, errors
from .._core import Tensor


def _gradients(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    _, grads = _core.with_gradients([parameters] if isinstance(parameters, Tensor) else parameters)
    return grads


def get_total_norm(tensors: Tensor | Iterable[Tensor], norm_type: float = 2.0) -> Tensor:
    """Give the norm of all tensors taken as one vector; the 2-norm is summed in float64."""
    tensors = [tensor.detach() for tensor in ([tensors] if isinstance(tensors, Tensor) else tensors)]
    if _on_one_gpu(tensors, float(norm_type)):
        return _core.clip_norm(tensors)
    return bs.tensor(_norm(tensors, float(norm_type)))


def _on_one_gpu(tensors: list[Tensor], norm_type: float) -> bool:
    """Whether one kernel makes the norm where the tensors are: it stays there, in float32, and nothing waits for it."""
    devices = {tensor.device for tensor in tensors}
    return (
        norm_type == 2.0
        and len(devices) == 1
        and devices != {"cpu"}
        and all(tensor.dtype is bs.float32 for tensor in tensors)
    )


def _norm(tensors: list[Tensor], norm_type: float) -> float:
    tensors = [tensor for tensor in tensors if tensor.numel()]
    if not tensors:
        return 0.0
    if norm_type == 2.0:
        return math.sqrt(_core.sum_of_squares(tensors))
    with bs.no_grad():
        if norm_type == math.inf:
            largest = [float(tensor.abs().amax().item()) for tensor in tensors]
            return math.nan if any(map(math.isnan, largest)) else max(largest)
        if not norm_type > 0:
            raise errors.ValueError(
                f"clip_grad_norm_: norm_type={norm_type}; a value above 0, or inf, is needed"
            )
        # GPUs have no float64.
        wide = [tensor.double() if tensor.device == "cpu" else tensor.float() for tensor in tensors]
        return sum(float(tensor.abs().pow(norm_type).sum().item()) for tensor in wide) ** (1 / norm_type)


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
) -> Tensor:
    """Scale all gradients together, so that their norm is at most max_norm; give the norm they had.

    On a GPU the norm is a tensor there, and nothing waits for it unless error_if_nonfinite is set.

    Raises: ValueError if the norm is NaN or Inf and error_if_nonfinite is set; gradients are as before.
    Example:
        >>> net = nn.Linear(2, 1)
        >>> net(bs.ones(1, 2)).sum().backward()
        >>> norm = nn.utils.clip_grad_norm_(net.parameters(), 1.0)
    """
    grads = _gradients(parameters)
    there = _on_one_gpu(grads, float(norm_type))
    if there and not error_if_nonfinite:
        return _core.clip_norm(grads, max_norm)
    norm = _core.clip_norm(grads).item() if there else _norm(grads, float(norm_type))
    if error_if_nonfinite and not math.isfinite(norm):
        raise errors.ValueError(
            f"clip_grad_norm_: the gradients have norm {norm}; a finite norm is needed "
            f"(help: bs.detect_anomaly() names the op that made it)"
        )
    if there:
        return _core.clip_norm(grads, max_norm)
    factor = max_norm / (norm + 1e-6)  # PyTorch's guard against 0/0, kept for step parity
    if not factor >= 1.0:  # a NaN must reach the gradients, not be hidden
        _core.scale_(grads, factor)
    return bs.tensor(norm)


def clip_grad_value_(parameters: Tensor | Iterable[Tensor], clip_value: float) -> None:
    """Clip each element of the gradients to [-clip_value, clip_value]."""
    with bs.no_grad():
        for grad in _gradients(parameters):
            grad.clamp_(-clip_value, clip_value)


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """Join parameters into one vector, in order."""
    return bs.cat([parameter.reshape(-1) for parameter in parameters])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Copy the parts of a vector into parameters, in order.

    Raises: ShapeError if the vector is too long or too short; parameters are as before.
    """
    parameters = list(parameters)
    total = sum(parameter.numel() for parameter in parameters)
    if tuple(vec.shape) != (total,):
        raise errors.ShapeError(
            f"vector_to_parameters: the vector has shape {list(vec.shape)}; "
            f"{[total]} is needed to fill the parameters"
        )
    start = 0
    with bs.no_grad():
        for parameter in parameters:
            end = start + parameter.numel()
            parameter.copy_(vec[start:end].reshape(parameter.shape))
            start = end
