"""Pooling: the maximum or the mean of windows, over one, two or three axes."""

from __future__ import annotations

from typing import Any

from .._core import Tensor
from . import functional as F
from .module import Module

Size = int | tuple[int, ...]


class _MaxPool(Module):
    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        dilation: Size = 1,
        return_indices: bool = False,
        ceil_mode: bool = False,
    ) -> None:
        """Keep the window; the stride is the kernel size if left out."""
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.dilation = dilation
        self.return_indices = return_indices
        self.ceil_mode = ceil_mode

    def _window(self) -> dict[str, Any]:
        return {
            "kernel_size": self.kernel_size,
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "ceil_mode": self.ceil_mode,
            "return_indices": self.return_indices,
        }

    def extra_repr(self) -> str:
        """Say the window."""
        return (
            f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, ceil_mode={self.ceil_mode}"
        )


class MaxPool1d(_MaxPool):
    """The maximum of each window.

    Shapes: [n, c, l] → [n, c, l']
    """

    def forward(self, input: Tensor) -> Any:
        """Pool x; with return_indices, also say where each maximum was."""
        return F.max_pool1d(input, **self._window())


class MaxPool2d(_MaxPool):
    """The maximum of each window.

    Shapes: [n, c, h, w] → [n, c, h', w']
    """

    def forward(self, input: Tensor) -> Any:
        """Pool x; with return_indices, also say where each maximum was."""
        return F.max_pool2d(input, **self._window())


class MaxPool3d(_MaxPool):
    """The maximum of each window.

    Shapes: [n, c, d, h, w] → [n, c, d', h', w']
    """

    def forward(self, input: Tensor) -> Any:
        """Pool x; with return_indices, also say where each maximum was."""
        return F.max_pool3d(input, **self._window())


class _AvgPool(Module):
    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> None:
        """Keep the window; the stride is the kernel size if left out."""
        super().__init__()
        self.kernel_size = kernel_size
        self.stride = kernel_size if stride is None else stride
        self.padding = padding
        self.ceil_mode = ceil_mode
        self.count_include_pad = count_include_pad
        self.divisor_override = divisor_override

    def _window(self) -> tuple[Any, Any, Any, bool, bool]:
        return (self.kernel_size, self.stride, self.padding, self.ceil_mode, self.count_include_pad)

    def extra_repr(self) -> str:
        """Say the window."""
        return f"kernel_size={self.kernel_size}, stride={self.stride}, padding={self.padding}"


class AvgPool1d(_AvgPool):
    """The mean of each window.

    Shapes: [n, c, l] → [n, c, l']
    """

    def __init__(
        self,
        kernel_size: Size,
        stride: Size | None = None,
        padding: Size = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
    ) -> None:
        """Keep the window; the stride is the kernel size if left out."""
        super().__init__(kernel_size, stride, padding, ceil_mode, count_include_pad)

    def forward(self, input: Tensor) -> Tensor:
        """Pool x."""
        return F.avg_pool1d(input, *self._window())


class AvgPool2d(_AvgPool):
    """The mean of each window.

    Shapes: [n, c, h, w] → [n, c, h', w']
    """

    def forward(self, input: Tensor) -> Tensor:
        """Pool x."""
        return F.avg_pool2d(input, *self._window(), self.divisor_override)


class AvgPool3d(_AvgPool):
    """The mean of each window.

    Shapes: [n, c, d, h, w] → [n, c, d', h', w']
    """

    def forward(self, input: Tensor) -> Tensor:
        """Pool x."""
        return F.avg_pool3d(input, *self._window(), self.divisor_override)


class _AdaptivePool(Module):
    def __init__(self, output_size: int | tuple[int | None, ...], return_indices: bool = False) -> None:
        """Keep the output size; None keeps the size of an axis."""
        super().__init__()
        self.output_size = output_size
        self.return_indices = return_indices

    def extra_repr(self) -> str:
        """Say the output size."""
        return f"output_size={self.output_size}"


class AdaptiveMaxPool1d(_AdaptivePool):
    """The maximum of windows chosen to give the output size.

    Shapes: [n, c, l] → [n, c, output_size]
    """

    def forward(self, input: Tensor) -> Any:
        """Pool x; with return_indices, also say where each maximum was."""
        return F.adaptive_max_pool1d(input, self.output_size, self.return_indices)


class AdaptiveMaxPool2d(_AdaptivePool):
    """The maximum of windows chosen to give the output size.

    Shapes: [n, c, h, w] → [n, c, *output_size]
    """

    def forward(self, input: Tensor) -> Any:
        """Pool x; with return_indices, also say where each maximum was."""
        return F.adaptive_max_pool2d(input, self.output_size, self.return_indices)


class _AdaptiveAvgPool(_AdaptivePool):
    def __init__(self, output_size: int | tuple[int | None, ...]) -> None:
        """Keep the output size; None keeps the size of an axis."""
        super().__init__(output_size)


class AdaptiveAvgPool1d(_AdaptiveAvgPool):
    """The mean of windows chosen to give the output size.

    Shapes: [n, c, l] → [n, c, output_size]
    """

    def forward(self, input: Tensor) -> Tensor:
        """Pool x."""
        return F.adaptive_avg_pool1d(input, self.output_size)


class AdaptiveAvgPool2d(_AdaptiveAvgPool):
    """The mean of windows chosen to give the output size.

    Shapes: [n, c, h, w] → [n, c, *output_size]
    """

    def forward(self, input: Tensor) -> Tensor:
        """Pool x."""
        return F.adaptive_avg_pool2d(input, self.output_size)


class AdaptiveAvgPool3d(_AdaptiveAvgPool):
    """The mean of windows chosen to give the output size.

    Shapes: [n, c, d, h, w] → [n, c, *output_size]
    """

    def forward(self, input: Tensor) -> Tensor:
        """Pool x."""
        return F.adaptive_avg_pool3d(input, self.output_size)
