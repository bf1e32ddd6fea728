"""Convolutions and transposed convolutions in one, two and three dimensions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import backsweep as bs

from .. import errors
from .._core import Tensor
from . import functional as F
from .linear import reset_affine
from .module import Module, Parameter

Size = int | tuple[int, ...]

PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


def each_axis(size: Size, axes: int, what: str) -> tuple[int, ...]:
    """Give a size for every axis: one int stands for all."""
    sizes = (size,) * axes if isinstance(size, int) else tuple(size)
    if len(sizes) != axes:
        raise errors.ValueError(f"{what} is {size}; an int or {axes} ints are needed")
    return sizes


class _Convolution(Module):
    """What all convolutions share: sizes, parameters and text."""

    _axes: ClassVar[int]
    _transposed: ClassVar[bool] = False
    padding: str | tuple[int, ...]
    weight: Parameter
    bias: Parameter | None

    def _set_up(
        self,
        channels: tuple[int, int],
        kernel_size: Size,
        stride: Size,
        padding: Size | str,
        output_padding: Size,
        dilation: Size,
        groups: int,
        bias: bool,
        padding_mode: str,
        device: str | None,
        dtype: Any,
    ) -> None:
        name, axes = type(self).__name__, self._axes
        in_channels, out_channels = channels
        if groups < 1 or in_channels % groups or out_channels % groups:
            raise errors.ValueError(
                f"{name}: {in_channels} input and {out_channels} output channels do not divide into {groups} "
                f"groups; groups must divide both"
            )
        modes = PADDING_MODES[:1] if self._transposed else PADDING_MODES
        if padding_mode not in modes:
            raise errors.ValueError(
                f"{name}: padding_mode {padding_mode!r} is unknown; one of {', '.join(modes)} is needed"
            )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.kernel_size = each_axis(kernel_size, axes, f"{name}: kernel_size")
        self.stride = each_axis(stride, axes, f"{name}: stride")
        self.dilation = each_axis(dilation, axes, f"{name}: dilation")
        self.output_padding = each_axis(output_padding, axes, f"{name}: output_padding")
        self.padding = padding if isinstance(padding, str) else each_axis(padding, axes, f"{name}: padding")
        self.groups = groups
        self.padding_mode = padding_mode
        first, second = (in_channels, out_channels) if self._transposed else (out_channels, in_channels)
        self.weight = Parameter(
            bs.empty(first, second // groups, *self.kernel_size, device=device, dtype=dtype)
        )
        if bias:
            self.bias = Parameter(bs.empty(out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        reset_affine(self.weight, self.bias)

    def extra_repr(self) -> str:
        """Say the sizes that differ from the defaults."""
        zeros, ones = (0,) * self._axes, (1,) * self._axes
        parts = [
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"
        ]
        parts += [f"padding={self.padding}"] * (self.padding != zeros)
        parts += [f"dilation={self.dilation}"] * (self.dilation != ones)
        parts += [f"output_padding={self.output_padding}"] * (self.output_padding != zeros)
        parts += [f"groups={self.groups}"] * (self.groups != 1)
        parts += ["bias=False"] * (self.bias is None)
        parts += [f"padding_mode={self.padding_mode}"] * (self.padding_mode != "zeros")
        return ", ".join(parts)


class _Conv(_Convolution):
    _conv: ClassVar[Callable[..., Tensor]]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        """Draw weight and bias from U(-1/√fan_in, 1/√fan_in); padding may be "same" or "valid"."""
        super().__init__()
        channels = (in_channels, out_channels)
        self._set_up(
            channels, kernel_size, stride, padding, 0, dilation, groups, bias, padding_mode, device, dtype
        )
        sides = self._sides()
        symmetric = all(left == right for left, right in sides)
        self._inner = (
            tuple(left for left, _ in sides) if symmetric and padding_mode == "zeros" else (0,) * self._axes
        )
        # F.pad counts axes from the last one.
        outer = [side for pair in reversed(sides) for side in pair]
        self._outer = outer if any(outer) and not any(self._inner) else None

    def _sides(self) -> list[tuple[int, int]]:
        if not isinstance(self.padding, str):
            return [(size, size) for size in self.padding]
        if self.padding == "valid":
            return [(0, 0)] * self._axes
        if self.padding != "same":
            raise errors.ValueError(
                f"{type(self).__name__}: padding {self.padding!r} is unknown; "
                f"a size, 'same' or 'valid' is needed"
            )
        if any(step != 1 for step in self.stride):
            raise errors.ValueError(
                f"{type(self).__name__}: padding 'same' with stride {self.stride}; stride 1 is needed"
            )
        totals = [step * (size - 1) for step, size in zip(self.dilation, self.kernel_size, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]

    def forward(self, input: Tensor) -> Tensor:
        """Convolve x with the weight."""
        if self._outer is not None:
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            input = F.pad(input, self._outer, mode=mode)
        conv = type(self)._conv
        return conv(input, self.weight, self.bias, self.stride, self._inner, self.dilation, self.groups)


class Conv1d(_Conv):
    """Convolve over one axis.

    Shapes: x [n, in_channels, l] → [n, out_channels, l']; weight [out_channels, in_channels / groups, k]
    """

    _axes = 1
    _conv = staticmethod(F.conv1d)


class Conv2d(_Conv):
    """Convolve over two axes.

    Shapes: x [n, in_channels, h, w] → [n, out_channels, h', w'],
        h' = (h + 2·padding - dilation·(k - 1) - 1) // stride + 1
    Example:
        >>> nn.Conv2d(3, 8, 3, padding=1)(bs.zeros(1, 3, 32, 32)).shape
        (1, 8, 32, 32)
    """

    _axes = 2
    _conv = staticmethod(F.conv2d)


class Conv3d(_Conv):
    """Convolve over three axes.

    Shapes: x [n, in_channels, d, h, w] → [n, out_channels, d', h', w']
    """

    _axes = 3
    _conv = staticmethod(F.conv3d)


class _ConvTranspose(_Convolution):
    _transposed = True
    padding: tuple[int, ...]
    _conv: ClassVar[Callable[..., Tensor]]

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        padding_mode: str = "zeros",
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        """Draw weight and bias as PyTorch does, with the fan-in that the weight's second axis gives."""
        super().__init__()
        channels = (in_channels, out_channels)
        more = (output_padding, dilation, groups, bias, padding_mode, device, dtype)
        self._set_up(channels, kernel_size, stride, padding, *more)

    def forward(self, input: Tensor, output_size: tuple[int, ...] | None = None) -> Tensor:
        """Apply the transpose of a convolution; output_size picks a size that the stride leaves open."""
        extra = self.output_padding if output_size is None else self._extra(input, tuple(output_size))
        conv = type(self)._conv
        return conv(input, self.weight, self.bias, self.stride, self.padding, extra, self.groups, self.dilation)

    def _extra(self, x: Tensor, output_size: tuple[int, ...]) -> tuple[int, ...]:
        sizes = zip(
            x.shape[-self._axes :], self.stride, self.padding, self.dilation, self.kernel_size, strict=True
        )
        least = tuple((n - 1) * s - 2 * p + d * (k - 1) + 1 for n, s, p, d, k in sizes)
        most = tuple(size + step - 1 for size, step in zip(least, self.stride, strict=True))
        wanted = output_size[-self._axes :]
        if len(wanted) != self._axes or any(
            not low <= size <= high for low, size, high in zip(least, wanted, most, strict=True)
        ):
            raise errors.ShapeError(
                f"{type(self).__name__}: output_size {list(output_size)} cannot be reached; "
                f"sizes from {list(least)} to {list(most)} can"
            )
        return tuple(size - low for size, low in zip(wanted, least, strict=True))


class ConvTranspose1d(_ConvTranspose):
    """The transpose of Conv1d.

    Shapes: x [n, in_channels, l] → [n, out_channels, l']; weight [in_channels, out_channels / groups, k]
    """

    _axes = 1
    _conv = staticmethod(F.conv_transpose1d)


class ConvTranspose2d(_ConvTranspose):
    """The transpose of Conv2d.

    Shapes: x [n, in_channels, h, w] → [n, out_channels, h', w'],
        h' = (h - 1)·stride - 2·padding + dilation·(k - 1) + output_padding + 1
    """

    _axes = 2
    _conv = staticmethod(F.conv_transpose2d)


class ConvTranspose3d(_ConvTranspose):
    """The transpose of Conv3d.

    Shapes: x [n, in_channels, d, h, w] → [n, out_channels, d', h', w']
    """

    _axes = 3
    _conv = staticmethod(F.conv_transpose3d)
