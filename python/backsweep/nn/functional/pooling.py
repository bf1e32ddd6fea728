"""Pooling over windows, brought down to two dimensions: an axis of size 1 is added, or rows and depth take turns."""

from __future__ import annotations

from typing import Any

from ... import errors
from ..._core import Tensor, apply
from .convolution import Size, each_axis

Sizes = int | tuple[int | None, ...]


def _batched(op: str, input: Tensor, axes: int) -> Tensor:
    if input.ndim not in (axes + 1, axes + 2):
        raise errors.ShapeError(
            f"{op}: input {list(input.shape)} has {input.ndim} dims; {axes + 1} or {axes + 2} are needed"
        )
    return input.unsqueeze(0) if input.ndim == axes + 1 else input


def _restored(result: Any, input: Tensor, axes: int) -> Any:
    """Without the batch axis that the input did not have."""
    if input.ndim == axes + 2:
        return result
    return tuple(part.squeeze(0) for part in result) if isinstance(result, tuple) else result.squeeze(0)


def _over_depth(x: Tensor, rows: Any, depth: Any) -> Tensor:
    """`rows` on the last two axes of [n, c, d, h, w], then `depth` on the third, as a column."""
    batch, channels, slices, *image = x.shape
    y = rows(apply("reshape", x, (batch, channels * slices, *image)))
    height, width = y.shape[2:]
    y = depth(apply("reshape", y, (batch, channels, slices, height * width)))
    return apply("reshape", y, (batch, channels, y.shape[2], height, width))


def _max_pool(
    op: str,
    input: Tensor,
    kernel_size: Size,
    stride: Size | None,
    padding: Size,
    dilation: Size,
    ceil_mode: bool,
    return_indices: bool,
) -> Any:
    axes = int(op[8])
    x = _batched(op, input, axes)
    given = (kernel_size, kernel_size if stride is None else stride, padding, dilation)
    names = ("kernel_size", "stride", "padding", "dilation")
    sizes = [each_axis(op, name, size, axes) for name, size in zip(names, given, strict=True)]
    if axes == 1:
        flat = [(least, *size) for least, size in zip((1, 1, 0, 1), sizes, strict=True)]
        result = apply("max_pool2d", x.unsqueeze(2), *flat, ceil_mode, return_indices)
        result = tuple(part.squeeze(2) for part in result) if return_indices else result.squeeze(2)
    elif axes == 2:
        result = apply("max_pool2d", x, *sizes, ceil_mode, return_indices)
    elif return_indices:
        raise errors.ValueError(f"{op}: return_indices is possible for 1 and 2 axes")
    else:
        column = [(size[0], least) for size, least in zip(sizes, (1, 1, 0, 1), strict=True)]
        result = _over_depth(
            x,
            lambda rows: apply("max_pool2d", rows, *(size[1:] for size in sizes), ceil_mode, False),
            lambda depth: apply("max_pool2d", depth, *column, ceil_mode, False),
        )
    return _restored(result, input, axes)


def max_pool1d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The maximum of each window, and with return_indices its place in the channel.

    Shapes: [n, c, l] or [c, l] → [n, c, l']
    Saves: one byte an output, or four for windows of more than 256 elements
    """
    return _max_pool("max_pool1d", input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The maximum of each window, and with return_indices its place in the channel, as row · w + column.

    Shapes: [n, c, h, w] or [c, h, w] → [n, c, h', w']
    Saves: one byte an output, or four for windows of more than 256 elements
    """
    return _max_pool("max_pool2d", input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def max_pool3d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The maximum of each window: of rows and columns, then along the depth.

    Shapes: [n, c, d, h, w] or [c, d, h, w] → [n, c, d', h', w']
    Raises: ValueError for return_indices
    """
    return _max_pool("max_pool3d", input, kernel_size, stride, padding, dilation, ceil_mode, return_indices)


def _avg_pool(
    op: str,
    input: Tensor,
    kernel_size: Size,
    stride: Size | None,
    padding: Size,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    axes = int(op[8])
    x = _batched(op, input, axes)
    given = (kernel_size, kernel_size if stride is None else stride, padding)
    sizes = [
        each_axis(op, name, size, axes) for name, size in zip(("kernel_size", "stride", "padding"), given, strict=True)
    ]
    rest = (ceil_mode, count_include_pad, divisor_override)
    if axes == 1:
        flat = [(least, *size) for least, size in zip((1, 1, 0), sizes, strict=True)]
        y = apply("avg_pool2d", x.unsqueeze(2), *flat, *rest).squeeze(2)
    elif axes == 2:
        y = apply("avg_pool2d", x, *sizes, *rest)
    else:
        column = [(size[0], least) for size, least in zip(sizes, (1, 1, 0), strict=True)]
        sums = rest if divisor_override is None else (ceil_mode, count_include_pad, 1)
        y = _over_depth(
            x,
            lambda rows: apply("avg_pool2d", rows, *(size[1:] for size in sizes), *sums),
            lambda depth: apply("avg_pool2d", depth, *column, *rest),
        )
    return _restored(y, input, axes)


def avg_pool1d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """The mean of each window. Saves: nothing.

    Shapes: [n, c, l] or [c, l] → [n, c, l']
    """
    return _avg_pool("avg_pool1d", input, kernel_size, stride, padding, ceil_mode, count_include_pad, None)


def avg_pool2d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of each window, or its sum over divisor_override. Saves: nothing.

    Shapes: [n, c, h, w] or [c, h, w] → [n, c, h', w']
    """
    return _avg_pool("avg_pool2d", input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def avg_pool3d(
    input: Tensor,
    kernel_size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """The mean of each window: of rows and columns, then along the depth. Saves: nothing.

    Shapes: [n, c, d, h, w] or [c, d, h, w] → [n, c, d', h', w']
    """
    return _avg_pool("avg_pool3d", input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


def _output_sizes(op: str, x: Tensor, output_size: Sizes, axes: int) -> tuple[int, ...]:
    """None keeps the size of an axis."""
    sizes = (output_size,) * axes if isinstance(output_size, int) else tuple(output_size)
    if len(sizes) != axes:
        raise errors.ValueError(f"{op}: output_size is {output_size}; an int or {axes} ints are needed")
    return tuple(own if size is None else size for size, own in zip(sizes, x.shape[2:], strict=True))


def _adaptive(op: str, input: Tensor, output_size: Sizes, *flags: bool) -> Any:
    axes, name = int(op[-2]), f"{op[:-2]}2d"
    x = _batched(op, input, axes)
    sizes = _output_sizes(op, x, output_size, axes)
    if axes == 1:
        result = apply(name, x.unsqueeze(2), (1, *sizes), *flags)
        result = tuple(part.squeeze(2) for part in result) if any(flags) else result.squeeze(2)
    elif axes == 2:
        result = apply(name, x, sizes, *flags)
    else:
        result = _over_depth(
            x,
            lambda rows: apply(name, rows, sizes[1:], *flags),
            lambda depth: apply(name, depth, (sizes[0], depth.shape[3]), *flags),
        )
    return _restored(result, input, axes)


def adaptive_avg_pool1d(input: Tensor, output_size: Sizes) -> Tensor:
    """The mean of as many windows as the output has, which cover the input evenly.

    Shapes: [n, c, l] or [c, l] → [n, c, output_size]
    """
    return _adaptive("adaptive_avg_pool1d", input, output_size)


def adaptive_avg_pool2d(input: Tensor, output_size: Sizes) -> Tensor:
    """The mean of as many windows as the output has, which cover the input evenly.

    Shapes: [n, c, h, w] or [c, h, w] → [n, c, *output_size]
    """
    return _adaptive("adaptive_avg_pool2d", input, output_size)


def adaptive_avg_pool3d(input: Tensor, output_size: Sizes) -> Tensor:
    """The mean of as many windows as the output has, which cover the input evenly.

    Shapes: [n, c, d, h, w] or [c, d, h, w] → [n, c, *output_size]
    """
    return _adaptive("adaptive_avg_pool3d", input, output_size)


def adaptive_max_pool1d(input: Tensor, output_size: Sizes, return_indices: bool = False) -> Any:
    """The maximum of as many windows as the output has, and with return_indices its place in the channel.

    Shapes: [n, c, l] or [c, l] → [n, c, output_size]
    """
    return _adaptive("adaptive_max_pool1d", input, output_size, return_indices)


def adaptive_max_pool2d(input: Tensor, output_size: Sizes, return_indices: bool = False) -> Any:
    """The maximum of as many windows as the output has, and with return_indices its place in the channel.

    Shapes: [n, c, h, w] or [c, h, w] → [n, c, *output_size]
    """
    return _adaptive("adaptive_max_pool2d", input, output_size, return_indices)
