"""Normalisation: over the batch, the last axes, groups of channels, or each instance."""

from __future__ import annotations

from typing import Any, ClassVar

import backsweep as bs

from .. import errors
from .._core import Tensor
from . import functional as F
from . import init
from .module import Module, Parameter


class _RunningNorm(Module):
    """What batch and instance norm share: affine parameters and running statistics."""

    _ranks: ClassVar[tuple[int, ...]]
    weight: Parameter | None
    bias: Parameter | None
    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: str | None = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        """Start with weight 1, bias 0, running mean 0 and variance 1; momentum None gives a plain average."""
        super().__init__()
        self.num_features = num_features
        self.eps = eps
        self.momentum = momentum
        self.affine = affine
        self.track_running_stats = track_running_stats
        for name, wanted in (("weight", affine), ("bias", affine and bias)):
            value = Parameter(bs.empty(num_features, device=device, dtype=dtype)) if wanted else None
            self.register_parameter(name, value)
        tracked = track_running_stats
        self.register_buffer(
            "running_mean", bs.zeros(num_features, device=device, dtype=dtype) if tracked else None
        )
        self.register_buffer(
            "running_var", bs.ones(num_features, device=device, dtype=dtype) if tracked else None
        )
        self.register_buffer(
            "num_batches_tracked", bs.tensor(0, dtype=bs.int64, device=device) if tracked else None
        )
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Forget the running statistics."""
        if (
            self.running_mean is not None
            and self.running_var is not None
            and self.num_batches_tracked is not None
        ):
            init.zeros_(self.running_mean)
            init.ones_(self.running_var)
            init.zeros_(self.num_batches_tracked)

    def reset_parameters(self) -> None:
        """Set weight to 1 and bias to 0, and forget the running statistics."""
        self.reset_running_stats()
        _reset_affine(self.weight, self.bias)

    def _check(self, x: Tensor, channels: int) -> None:
        if x.ndim not in self._ranks:
            ranks = " or ".join(str(rank) for rank in self._ranks)
            raise errors.ShapeError(
                f"{type(self).__name__}: shape {list(x.shape)} has {x.ndim} axes; {ranks} are needed"
            )
        if channels != self.num_features:
            raise errors.ShapeError(
                f"{type(self).__name__}: shape {list(x.shape)} has {channels} channels; "
                f"{self.num_features} are needed"
            )

    def extra_repr(self) -> str:
        """Say the settings."""
        return (
            f"{self.num_features}, eps={self.eps}, momentum={self.momentum}, affine={self.affine}, "
            f"bias={self.bias is not None}, track_running_stats={self.track_running_stats}"
        )


class _BatchNorm(_RunningNorm):
    def forward(self, input: Tensor) -> Tensor:
        """Normalise by the batch in training, by the running statistics in evaluation."""
        self._check(input, input.shape[1] if input.ndim > 1 else 0)
        momentum = self.momentum
        tracked = self.num_batches_tracked
        if self.training and self.track_running_stats and tracked is not None:
            with bs.no_grad():
                tracked.add_(1)
            if momentum is None:
                momentum = 1.0 / float(tracked.item())
        by_batch = self.training or self.running_mean is None
        # In training, statistics are only updated, and only if they are tracked.
        update = not self.training or self.track_running_stats
        return F.batch_norm(
            input,
            self.running_mean if update else None,
            self.running_var if update else None,
            self.weight,
            self.bias,
            by_batch,
            0.0 if momentum is None else momentum,
            self.eps,
        )


class BatchNorm1d(_BatchNorm):
    """Normalise each channel over the batch.   Ioffe and Szegedy 2015, arXiv:1502.03167

    Shapes: [n, c] or [n, c, l] → the same
    """

    _ranks = (2, 3)


class BatchNorm2d(_BatchNorm):
    """Normalise each channel over the batch and both spatial axes.

    Shapes: [n, c, h, w] → the same
    """

    _ranks = (4,)


class BatchNorm3d(_BatchNorm):
    """Normalise each channel over the batch and all spatial axes.

    Shapes: [n, c, d, h, w] → the same
    """

    _ranks = (5,)


class _InstanceNorm(_RunningNorm):
    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        affine: bool = False,
        track_running_stats: bool = False,
        device: str | None = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        """Start without parameters or running statistics, unless they are asked for."""
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype, bias=bias)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each channel of each instance over its spatial axes."""
        batched = input.ndim == self._ranks[-1]
        self._check(input, input.shape[1 if batched else 0] if input.ndim else 0)
        y = F.instance_norm(
            input if batched else input.unsqueeze(0),
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training or not self.track_running_stats,
            0.0 if self.momentum is None else self.momentum,
            self.eps,
        )
        return y if batched else y.squeeze(0)


class InstanceNorm1d(_InstanceNorm):
    """Normalise each channel of each instance.   Ulyanov et al. 2016, arXiv:1607.08022

    Shapes: [n, c, l] or [c, l] → the same
    """

    _ranks = (2, 3)


class InstanceNorm2d(_InstanceNorm):
    """Normalise each channel of each instance.

    Shapes: [n, c, h, w] or [c, h, w] → the same
    """

    _ranks = (3, 4)


class InstanceNorm3d(_InstanceNorm):
    """Normalise each channel of each instance.

    Shapes: [n, c, d, h, w] or [c, d, h, w] → the same
    """

    _ranks = (4, 5)


class LayerNorm(Module):
    """Normalise over the last axes, then scale and shift.   Ba et al. 2016, arXiv:1607.06450

    Shapes: [..., *normalized_shape] → the same
    """

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        """Start with weight 1 and bias 0."""
        super().__init__()
        self.normalized_shape = _shape(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        for name, wanted in (("weight", elementwise_affine), ("bias", elementwise_affine and bias)):
            value = (
                Parameter(bs.empty(*self.normalized_shape, device=device, dtype=dtype)) if wanted else None
            )
            self.register_parameter(name, value)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set weight to 1 and bias to 0."""
        _reset_affine(self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise the last axes of input."""
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Say the settings."""
        return (
            f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}, "
            f"bias={self.bias is not None}"
        )


class RMSNorm(Module):
    """Divide by the root of the mean square over the last axes, then scale.

    Zhang and Sennrich 2019, arXiv:1910.07467

    Shapes: [..., *normalized_shape] → the same
    """

    weight: Parameter | None

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float | None = None,
        elementwise_affine: bool = True,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        """Start with weight 1; eps None is the machine epsilon of x."""
        super().__init__()
        self.normalized_shape = _shape(normalized_shape)
        self.eps = eps
        self.elementwise_affine = elementwise_affine
        value = (
            Parameter(bs.empty(*self.normalized_shape, device=device, dtype=dtype))
            if elementwise_affine
            else None
        )
        self.register_parameter("weight", value)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set weight to 1."""
        _reset_affine(self.weight, None)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise the last axes of input."""
        return F.rms_norm(input, self.normalized_shape, self.weight, self.eps)

    def extra_repr(self) -> str:
        """Say the settings."""
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={self.elementwise_affine}"


class GroupNorm(Module):
    """Normalise each group of channels of each instance.   Wu and He 2018, arXiv:1803.08494

    Shapes: [n, num_channels, ...] → the same
    """

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        num_groups: int,
        num_channels: int,
        eps: float = 1e-5,
        affine: bool = True,
        device: str | None = None,
        dtype: Any = None,
        *,
        bias: bool = True,
    ) -> None:
        """Start with weight 1 and bias 0."""
        super().__init__()
        if num_groups < 1 or num_channels % num_groups:
            raise errors.ValueError(
                f"GroupNorm: {num_channels} channels do not divide into {num_groups} groups; "
                f"num_groups must divide them"
            )
        self.num_groups = num_groups
        self.num_channels = num_channels
        self.eps = eps
        self.affine = affine
        for name, wanted in (("weight", affine), ("bias", affine and bias)):
            value = Parameter(bs.empty(num_channels, device=device, dtype=dtype)) if wanted else None
            self.register_parameter(name, value)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set weight to 1 and bias to 0."""
        _reset_affine(self.weight, self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Normalise each group."""
        return F.group_norm(input, self.num_groups, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        """Say the settings."""
        return (
            f"{self.num_groups}, {self.num_channels}, eps={self.eps}, affine={self.affine}, "
            f"bias={self.bias is not None}"
        )


def _shape(normalized_shape: int | tuple[int, ...]) -> tuple[int, ...]:
    return (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)


def _reset_affine(weight: Tensor | None, bias: Tensor | None) -> None:
    if weight is not None:
        init.ones_(weight)
    if bias is not None:
        init.zeros_(bias)
