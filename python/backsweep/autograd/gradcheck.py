"""Gradients compared with finite differences, in float64."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

from .. import _core, errors
from .._core import Tensor
from .grad_mode import enable_grad, no_grad
from .sweep import grad

Outputs = list[Tensor]
Flat = list[float]


def gradcheck(
    func: Callable[..., Any],
    inputs: Tensor | Sequence[Any],
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    fast_mode: bool = False,
) -> bool:
    """Compare the gradients of func with central differences; every float64 input that requires one is checked.

    The whole Jacobian is compared, or with fast_mode one random combination of its rows and columns.
    Raises: GraphError at the first element that differs by more than atol + rtol · |numerical|
    Example:
        >>> x = bs.rand(3, dtype=bs.float64, requires_grad=True)
        >>> bs.autograd.gradcheck(lambda x: x.exp(), x)
        True
    """
    try:
        _check(func, _inputs("gradcheck", inputs), eps, atol, rtol, fast_mode)
    except errors.GraphError:
        if raise_exception:
            raise
        return False
    return True


def gradgradcheck(
    func: Callable[..., Any],
    inputs: Tensor | Sequence[Any],
    grad_outputs: Tensor | Sequence[Tensor] | None = None,
    *,
    eps: float = 1e-6,
    atol: float = 1e-5,
    rtol: float = 1e-3,
    raise_exception: bool = True,
    fast_mode: bool = False,
) -> bool:
    """Compare the gradients of func's gradients with central differences.

    grad_outputs weigh the outputs; random ones are drawn if left out.
    Raises: GraphError at the first element that differs
    """
    given = _inputs("gradgradcheck", inputs)
    if grad_outputs is None:
        draw = random.Random(0)
        weights = [
            _tensor([draw.gauss(0.0, 1.0) for _ in range(y.numel())], y.shape).requires_grad_()
            for y in _outputs(func, given)
        ]
    else:
        weights = [grad_outputs] if isinstance(grad_outputs, Tensor) else list(grad_outputs)
    places = [i for i, x in enumerate(given) if isinstance(x, Tensor) and x.requires_grad]

    def first(*arguments: Any) -> tuple[Tensor, ...]:
        values, dy = list(arguments[: len(given)]), arguments[len(given) :]
        # Differences move a detached copy of one input, where nothing is recorded.
        for i in places:
            values[i] = values[i] if values[i].requires_grad else values[i].detach().requires_grad_()
        with enable_grad():
            wanted = [values[i] for i in places]
            found = grad(_outputs(func, values), wanted, list(dy), create_graph=True, materialize_grads=True)
        return tuple(dx for dx in found if dx is not None)

    return gradcheck(
        first,
        [*given, *weights],
        eps=eps,
        atol=atol,
        rtol=rtol,
        raise_exception=raise_exception,
        fast_mode=fast_mode,
    )


def _inputs(op: str, inputs: Tensor | Sequence[Any]) -> list[Any]:
    given = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    checked = [x for x in given if isinstance(x, Tensor) and x.requires_grad]
    if not checked:
        raise errors.ValueError(f"{op}: no input requires a gradient; one or more is needed")
    for x in checked:
        if x.dtype is not _core.float64:
            raise errors.DTypeError(
                f"{op}: an input of dtype {x.dtype.name}; float64 is needed, as differences lose half the digits"
            )
    return given


def _outputs(func: Callable[..., Any], inputs: Sequence[Any]) -> Outputs:
    made = func(*inputs)
    outputs = list(made) if isinstance(made, (tuple, list)) else [made]
    return [y for y in outputs if isinstance(y, Tensor) and y.is_floating_point()]


def _tensor(values: Flat, shape: Sequence[int]) -> Tensor:
    from ..creation import tensor

    return tensor(values, dtype=_core.float64).reshape(shape)


def _flat(x: Tensor) -> Flat:
    return x.detach().double().reshape(-1).tolist()


def _check(
    func: Callable[..., Any], inputs: list[Any], eps: float, atol: float, rtol: float, fast: bool
) -> None:
    places = [i for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad]
    outputs = _outputs(func, inputs)
    if not any(y.requires_grad for y in outputs):
        raise errors.GraphError("gradcheck: no output depends on an input; the function cuts the graph")
    draw = random.Random(0)

    def moved(place: int, direction: Flat) -> list[Flat]:
        """The change of every output along a direction of one input, by central differences."""
        ends = []
        x = inputs[place].detach()
        with no_grad():
            for step in (eps, -eps):
                at = x + _tensor(direction, x.shape) * step
                ends.append([_flat(y) for y in _outputs(func, [*inputs[:place], at, *inputs[place + 1 :]])])
        return [
            [(up - down) / (2 * eps) for up, down in zip(high, low, strict=True)]
            for high, low in zip(*ends, strict=True)
        ]

    def swept(output: int, weight: Flat) -> list[Flat]:
        """The gradient of every checked input by a weighted output."""
        y = outputs[output]
        targets = [inputs[i] for i in places]
        if not y.requires_grad:
            return [[0.0] * x.numel() for x in targets]
        found = grad(
            y,
            targets,
            _tensor(weight, y.shape).to(y.dtype),
            retain_graph=True,
            materialize_grads=True,
        )
        return [_flat(dx) for dx in found if dx is not None]

    def compare(numerical: float, analytical: float, what: Callable[[], str]) -> None:
        equal = abs(numerical - analytical) <= atol + rtol * abs(numerical)
        if not equal:  # a NaN is no match either
            raise errors.GraphError(
                f"gradcheck: {what()} is {analytical:.6g}, and central differences give {numerical:.6g}; "
                f"they must agree within atol={atol:g} and rtol={rtol:g}"
            )

    if fast:
        for place in places:
            u = [draw.gauss(0.0, 1.0) for _ in range(inputs[place].numel())]
            for output, changes in enumerate(moved(place, u)):
                v = [draw.gauss(0.0, 1.0) for _ in changes]
                dx = swept(output, v)[places.index(place)]
                compare(
                    sum(a * b for a, b in zip(v, changes, strict=True)),
                    sum(a * b for a, b in zip(u, dx, strict=True)),
                    lambda: f"the gradient of output {output} by input {place}, projected on random directions,",  # noqa: B023
                )
        return
    numerical = {place: _columns(moved, place, inputs[place].numel()) for place in places}
    for output, y in enumerate(outputs):
        for row in range(y.numel()):
            gradients = swept(output, [float(i == row) for i in range(y.numel())])
            for place, dx in zip(places, gradients, strict=True):
                for column, value in enumerate(dx):
                    compare(
                        numerical[place][column][output][row],
                        value,
                        lambda: (
                            f"the gradient of output {output} at {_index(row, y.shape)} "  # noqa: B023
                            f"by input {place} at {_index(column, inputs[place].shape)}"  # noqa: B023
                        ),
                    )


def _columns(moved: Callable[[int, Flat], list[Flat]], place: int, size: int) -> list[list[Flat]]:
    return [moved(place, [float(i == column) for i in range(size)]) for column in range(size)]


def _index(flat: int, shape: Sequence[int]) -> list[int]:
    index = []
    for size in reversed(shape):
        index.append(flat % size)
        flat //= size
    return index[::-1]
