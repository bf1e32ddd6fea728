"""The ways to start a sweep: into the `.grad` of leaves, or to the gradients of chosen tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from .. import _core, errors
from .._core import Tensor, apply
from ..attach import method_as
from ..types import Tensors

Gradients: TypeAlias = Tensor | Sequence[Tensor | None] | None

_sweep = _core.sweep


@method_as("backward")
def _backward(
    self: Tensor,
    gradient: Tensor | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    inputs: Tensors | None = None,
) -> None:
    """Add the gradient of this tensor to the `.grad` of every leaf behind it, or of inputs only.

    gradient is what this tensor weighs; a single element weighs 1. The graph is freed unless it is retained, which
    create_graph does by default; create_graph records the sweep, so that gradients have gradients.
    Raises: GraphError if there is no history, or it was freed, or a value in it was changed in place
    """
    _run([self], [_weight(self, gradient)], retain_graph, create_graph, inputs)


def _run(
    roots: list[Tensor],
    weights: list[Tensor | None],
    retain_graph: bool | None,
    create_graph: bool,
    inputs: Tensors | None,
) -> None:
    retain = create_graph if retain_graph is None else retain_graph
    if inputs is None:
        _sweep(roots, weights, None, retain, create_graph)
        return
    targets = _list(inputs)
    _check_targets("backward", targets)
    for target, dx in zip(targets, _sweep(roots, weights, targets, retain, create_graph), strict=True):
        if dx is not None:
            # A gradient may share its memory with another; a leaf's is its own.
            target.grad = dx.clone() if target.grad is None else target.grad + dx


def _weight(root: Tensor, gradient: Tensor | None) -> Tensor | None:
    """The gradient a sweep starts with; None is 1, for a tensor of one element."""
    if gradient is None:
        return None
    shape = root.shape
    if not isinstance(gradient, Tensor):
        raise errors.DTypeError(f"backward: gradient is a {type(gradient).__name__}; a tensor is needed")
    if gradient.shape != shape:
        raise errors.ShapeError(
            f"backward: gradient has shape {list(gradient.shape)} for a tensor of {list(shape)}; the shapes must be equal"
        )
    return gradient if gradient.dtype is root.dtype else apply("cast", gradient, root.dtype)


def _list(tensors: Tensors) -> list[Tensor]:
    return [tensors] if isinstance(tensors, Tensor) else list(tensors)


def _roots(op: str, outputs: Tensors, grad_outputs: Gradients) -> tuple[list[Tensor], list[Tensor | None]]:
    roots = _list(outputs)
    given = [grad_outputs] if grad_outputs is None or isinstance(grad_outputs, Tensor) else list(grad_outputs)
    if grad_outputs is None:
        given = [None] * len(roots)
    if len(given) != len(roots):
        raise errors.ValueError(f"{op}: {len(given)} gradients for {len(roots)} tensors; one for each is needed")
    return roots, [_weight(root, gradient) for root, gradient in zip(roots, given, strict=True)]


def _check_targets(op: str, targets: list[Tensor]) -> None:
    for place, target in enumerate(targets):
        if not target.requires_grad:
            raise errors.GraphError(
                f"{op}: inputs[{place}] of shape {list(target.shape)} does not require a gradient; "
                f"call requires_grad_() before it is used"
            )


def backward(
    tensors: Tensors,
    grad_tensors: Gradients = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    *,
    inputs: Tensors | None = None,
) -> None:
    """Sweep once from several tensors, as `Tensor.backward` does from one."""
    _run(*_roots("backward", tensors, grad_tensors), retain_graph, create_graph, inputs)


def grad(
    outputs: Tensors,
    inputs: Tensors,
    grad_outputs: Gradients = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    *,
    allow_unused: bool | None = None,
    materialize_grads: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of outputs by inputs; no `.grad` is touched.

    An input that the outputs do not depend on raises, gives None with allow_unused, or zeros with materialize_grads.
    Example:
        >>> x = bs.tensor(3.0, requires_grad=True)
        >>> (dy,) = bs.autograd.grad(x**2, x)
        >>> dy.item()
        6.0
    """
    roots, weights = _roots("grad", outputs, grad_outputs)
    targets = _list(inputs)
    _check_targets("grad", targets)
    retain = create_graph if retain_graph is None else retain_graph
    found = _sweep(roots, weights, targets, retain, create_graph)
    for place, (target, dx) in enumerate(zip(targets, found, strict=True)):
        if dx is not None:
            continue
        if materialize_grads:
            found[place] = _core.full(target.shape, 0.0, target.dtype, target.device)
        elif not allow_unused:
            raise errors.GraphError(
                f"grad: the outputs do not depend on inputs[{place}] of shape {list(target.shape)}; "
                f"leave it out, or pass allow_unused=True to get None"
            )
    return tuple(found)
