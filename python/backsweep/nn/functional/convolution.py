"""Convolutions and their transposes, brought down to two dimensions: an axis of size 1 is added, or depth is unrolled."""

from __future__ import annotations

import functools
import operator

from ... import errors
from ..._core import Tensor, apply
from ...joining import stack
from .padding import pad

Size = int | tuple[int, ...]


def each_axis(op: str, name: str, size: Size, axes: int) -> tuple[int, ...]:
    """One size for each axis; one int stands for all."""
    sizes = (size,) * axes if isinstance(size, int) else tuple(size)
    if len(sizes) == 1:
        sizes *= axes
    if len(sizes) != axes:
        raise errors.ValueError(f"{op}: {name} is {size}; an int or {axes} ints are needed")
    return sizes


def _ranks(op: str, input: Tensor, weight: Tensor, axes: int) -> Tensor:
    """The input with a batch axis."""
    if weight.ndim != axes + 2 or input.ndim not in (axes + 1, axes + 2):
        raise errors.ShapeError(
            f"{op}: input {list(input.shape)} with a weight {list(weight.shape)}; "
            f"{axes + 1} or {axes + 2} dims and {axes + 2} are needed"
        )
    return input.unsqueeze(0) if input.ndim == axes + 1 else input


def _convolve(
    op: str,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Size,
    padding: Size | str,
    dilation: Size,
    groups: int,
) -> Tensor:
    axes = int(op[4])
    x = _ranks(op, input, weight, axes)
    stride, dilation = each_axis(op, "stride", stride, axes), each_axis(op, "dilation", dilation, axes)
    if isinstance(padding, str):
        x, padding = _named_padding(op, x, weight, stride, padding, dilation)
    padding = each_axis(op, "padding", padding, axes)
    given = (x, weight) if bias is None else (x, weight, bias)
    if axes == 3:
        y = _unrolled(x, weight, bias, stride, padding, dilation, groups)
    elif axes == 1:
        given = (x.unsqueeze(2), weight.unsqueeze(2), *given[2:])
        sizes = ((1, *stride), (0, *padding), (1, *dilation))
        y = apply("conv2d", *given, *sizes, groups, bias is not None).squeeze(2)
    else:
        y = apply("conv2d", *given, stride, padding, dilation, groups, bias is not None)
    return y if input.ndim == axes + 2 else y.squeeze(0)


def _named_padding(
    op: str, x: Tensor, weight: Tensor, stride: tuple[int, ...], padding: str, dilation: tuple[int, ...]
) -> tuple[Tensor, tuple[int, ...]]:
    if padding == "valid":
        return x, (0,) * len(stride)
    if padding != "same":
        raise errors.ValueError(f"{op}: padding is '{padding}'; a size, 'same' or 'valid' is needed")
    if any(step != 1 for step in stride):
        raise errors.ValueError(f"{op}: padding 'same' with stride {stride}; stride 1 is needed")
    totals = [step * (size - 1) for step, size in zip(dilation, weight.shape[2:], strict=True)]
    if any(total % 2 for total in totals):
        x = pad(x, [size for total in reversed(totals) for size in (0, total % 2)])
    return x, tuple(total // 2 for total in totals)


def _unrolled(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Tensor:
    """conv3d as conv2d of images whose channels are the channels of each tap along the depth."""
    out, inside, taps, *kernel = weight.shape
    if padding[0]:
        x = pad(x, (0, 0, 0, 0, padding[0], padding[0]))
    batch, channels, depth, height, width = x.shape
    reach = dilation[0] * (taps - 1) + 1
    if min(stride[0], dilation[0], taps) < 1 or depth < reach:
        raise errors.ShapeError(
            f"conv3d: a kernel of {reach} with stride {stride[0]} and dilation {dilation[0]} on depth {depth}; "
            "the kernel must fit, and all three must be above zero"
        )
    last = depth - reach + 1
    rows = [x[:, :, tap * dilation[0] : tap * dilation[0] + last : stride[0]] for tap in range(taps)]
    images = stack(rows, 2).permute(0, 3, 1, 2, 4, 5)
    slices = images.shape[1]
    images = apply("reshape", images, (batch * slices, channels * taps, height, width))
    flat = apply("reshape", weight, (out, inside * taps, *kernel))
    given = (images, flat) if bias is None else (images, flat, bias)
    y = apply("conv2d", *given, stride[1:], padding[1:], dilation[1:], groups, bias is not None)
    return apply("reshape", y, (batch, slices, *y.shape[1:])).permute(0, 2, 1, 3, 4)


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Sums of windows times the weight.

    Shapes: input [n, c, l] or [c, l], weight [out, c / groups, k], bias [out] → [n, out, l']
    """
    return _convolve("conv1d", input, weight, bias, stride, padding, dilation, groups)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Sums of windows times the weight; the result lies channels last in memory.

    Shapes: input [n, c, h, w] or [c, h, w], weight [out, c / groups, kh, kw], bias [out] → [n, out, h', w']
    Saves: the input and the weight
    """
    return _convolve("conv2d", input, weight, bias, stride, padding, dilation, groups)


def conv3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size | str = 0,
    dilation: Size = 1,
    groups: int = 1,
) -> Tensor:
    """Sums of windows times the weight, by a 2-d convolution over the taps of the depth side by side.

    Shapes: input [n, c, d, h, w] or [c, d, h, w], weight [out, c / groups, kd, kh, kw], bias [out] → [n, out, d', h', w']
    Saves: the input once for each tap along the depth, and the weight
    """
    return _convolve("conv3d", input, weight, bias, stride, padding, dilation, groups)


def _transpose(
    op: str,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Size,
    padding: Size,
    output_padding: Size,
    groups: int,
    dilation: Size,
) -> Tensor:
    axes = int(op[14])
    x = _ranks(op, input, weight, axes)
    stride, padding = each_axis(op, "stride", stride, axes), each_axis(op, "padding", padding, axes)
    extra, dilation = each_axis(op, "output_padding", output_padding, axes), each_axis(op, "dilation", dilation, axes)
    if any(not 0 <= e < max(s, d) for e, s, d in zip(extra, stride, dilation, strict=True)):
        raise errors.ValueError(
            f"{op}: output_padding {extra} with stride {stride} and dilation {dilation}; "
            "less than one of the two is needed"
        )
    if groups < 1 or x.shape[1] != weight.shape[0] or x.shape[1] % groups:
        raise errors.ShapeError(
            f"{op}: input {list(x.shape)} with a weight {list(weight.shape)} in {groups} groups; "
            "[n, c, ...] and [c, out / groups, ...] with equal groups are needed"
        )
    # Whole steps of output padding meet further rows of zeros.
    if any(e >= s > 0 for e, s in zip(extra, stride, strict=True)):
        more = [e // s for e, s in zip(extra, stride, strict=True)]
        x = pad(x, [size for count in reversed(more) for size in (0, count)])
        extra = tuple(e % s for e, s in zip(extra, stride, strict=True))
    sizes = tuple(
        (n - 1) * s - 2 * p + d * (k - 1) + e + 1
        for n, s, p, d, k, e in zip(x.shape[2:], stride, padding, dilation, weight.shape[2:], extra, strict=True)
    )
    if min(sizes) < 1:
        raise errors.ShapeError(
            f"{op}: input {list(input.shape)} with a weight {list(weight.shape)} gives sizes {list(sizes)}; "
            "smaller padding is needed"
        )
    if axes == 3:
        y = _rolled(x, weight, stride, padding, dilation, groups, sizes)
    elif axes == 1:
        steps = ((1, *stride), (0, *padding), (1, *dilation), groups)
        y = apply("conv2d_data_gradient", x.unsqueeze(2), weight.unsqueeze(2), *steps, (1, *sizes)).squeeze(2)
    else:
        y = apply("conv2d_data_gradient", x, weight, stride, padding, dilation, groups, sizes)
    if bias is not None:
        if bias.shape != y.shape[1:2]:
            raise errors.ShapeError(
                f"{op}: a bias {list(bias.shape)} for {y.shape[1]} channels; one a channel is needed"
            )
        y = y + apply("reshape", bias, (1, -1) + (1,) * axes)
    return y if input.ndim == axes + 2 else y.squeeze(0)


def _rolled(
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    sizes: tuple[int, ...],
) -> Tensor:
    """The way back of `_unrolled`: the taps along the depth are added where they belong."""
    batch, channels, depth, height, width = x.shape
    inside, outside, taps, *kernel = weight.shape
    images = apply("reshape", x.permute(0, 2, 1, 3, 4), (batch * depth, channels, height, width))
    flat = apply("reshape", weight, (inside, outside * taps, *kernel))
    y = apply("conv2d_data_gradient", images, flat, stride[1:], padding[1:], dilation[1:], groups, sizes[1:])
    y = apply("reshape", y, (batch, depth, groups * outside, taps, *sizes[1:])).permute(0, 2, 3, 1, 4, 5)
    full = (depth - 1) * stride[0] + dilation[0] * (taps - 1) + 1
    shape = (batch, groups * outside, full, *sizes[1:])
    spread = []
    for tap in range(taps):
        part = y[:, :, tap]
        spread.append(apply("embed", part, (0, 0, tap * dilation[0], 0, 0), (1, 1, stride[0], 1, 1), part.shape, shape))
    total: Tensor = functools.reduce(operator.add, spread)
    # Output padding goes beyond what the taps reach.
    return pad(total, (0, 0, 0, 0, -padding[0], sizes[0] + padding[0] - full))


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """The transpose of conv1d.

    Shapes: input [n, c, l] or [c, l], weight [c, out / groups, k], bias [out] → [n, out, l']
    """
    return _transpose("conv_transpose1d", input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """The transpose of conv2d.

    Shapes: input [n, c, h, w] or [c, h, w], weight [c, out / groups, kh, kw], bias [out] → [n, out, h', w'],
        h' = (h - 1)·stride - 2·padding + dilation·(kh - 1) + output_padding + 1
    """
    return _transpose("conv_transpose2d", input, weight, bias, stride, padding, output_padding, groups, dilation)


def conv_transpose3d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Size = 1,
    padding: Size = 0,
    output_padding: Size = 0,
    groups: int = 1,
    dilation: Size = 1,
) -> Tensor:
    """The transpose of conv3d.

    Shapes: input [n, c, d, h, w] or [c, d, h, w], weight [c, out / groups, kd, kh, kw], bias [out] → [n, out, d', h', w']
    """
    return _transpose("conv_transpose3d", input, weight, bias, stride, padding, output_padding, groups, dilation)
