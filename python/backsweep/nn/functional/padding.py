"""Padding of a tensor's last axes: with a number, or with its own elements."""

from __future__ import annotations

from collections.abc import Sequence

from ... import errors
from ..._core import Tensor, apply
from ...creation import ones, tensor
from ...dtypes import bool as bool_
from ...dtypes import int64

MODES = ("constant", "reflect", "replicate", "circular")


def pad(input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Tensor:
    """More elements before and after the last axes, or fewer where a size is negative.

    `pad` holds two sizes an axis, (before, after), from the last axis on.

    Raises: ShapeError where an axis is too short for its padding
    """
    sizes = [int(size) for size in pad]
    if len(sizes) % 2 or len(sizes) > 2 * input.ndim:
        raise errors.ValueError(
            f"pad: {len(sizes)} sizes for {list(input.shape)}; two for each axis, from the last on, are needed"
        )
    if mode not in MODES:
        raise errors.ValueError(f"pad: mode is '{mode}'; one of {', '.join(MODES)} is needed")
    sides = [(0, 0)] * (input.ndim - len(sizes) // 2)
    sides += [(sizes[i], sizes[i + 1]) for i in range(len(sizes) - 2, -1, -2)]
    if mode == "constant":
        return _constant(input, sides, 0.0 if value is None else value)
    if value is not None:
        raise errors.ValueError(f"pad: value {value} with mode '{mode}'; only mode 'constant' takes a value")
    for axis, (before, after) in enumerate(sides):
        if before or after:
            places = _places(input, axis, before, after, mode)
            input = input.index_select(axis, tensor(places, dtype=int64))
    return input


def _constant(input: Tensor, sides: list[tuple[int, int]], value: float) -> Tensor:
    shape = tuple(size + before + after for size, (before, after) in zip(input.shape, sides, strict=True))
    cropped = [(max(-before, 0), max(-after, 0)) for before, after in sides]
    kept = tuple(size - before - after for size, (before, after) in zip(input.shape, cropped, strict=True))
    if any(size < 0 for size in kept + shape):
        raise errors.ShapeError(f"pad: sizes {sides} leave nothing of {list(input.shape)}; smaller crops are needed")
    if not any(map(any, sides)):
        return input
    steps = (1,) * input.ndim
    if kept != input.shape:
        input = apply("slice", input, tuple(before for before, _ in cropped), steps, kept)
    window = (tuple(max(before, 0) for before, _ in sides), steps, kept, shape)
    if kept == shape:
        return input
    padded = apply("embed", input, *window)
    if value == 0:
        return padded
    return apply("where", apply("embed", ones(kept, dtype=bool_), *window), padded, value)


def _places(input: Tensor, axis: int, before: int, after: int, mode: str) -> list[int]:
    size = input.shape[axis]
    most = {"reflect": size - 1, "replicate": before + after if size else 0, "circular": size}[mode]
    if max(before, after) > most:
        raise errors.ShapeError(
            f"pad: {before} and {after} in mode '{mode}' on size {size} of dim {axis} of {list(input.shape)}; "
            f"at most {most} is possible"
        )
    wanted = range(-before, size + after)
    if mode == "replicate":
        return [min(max(place, 0), size - 1) for place in wanted]
    if mode == "circular":
        return [place % size for place in wanted]
    last = size - 1
    return [last - abs(last - abs(place)) for place in wanted]
