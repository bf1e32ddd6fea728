"""Operations whose gradient the user writes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from .. import _core, errors
from .._core import Tensor, is_grad_enabled
from .grad_mode import no_grad


class FunctionContext:
    """What a Function's forward leaves for its backward."""

    def __init__(self, needs_input_grad: tuple[bool, ...]) -> None:
        """Begin with nothing saved."""
        # One flag for each argument of forward.
        self.needs_input_grad = needs_input_grad
        self._saved: list[Tensor | None] | None = None
        self._constant: tuple[Tensor, ...] = ()
        self._materialize = True

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep tensors for backward, on the bill and guarded against changes in place.

        Save inputs and outputs if gradients of gradients are wanted: anything else counts as a constant.
        """
        for tensor in tensors:
            if tensor is not None and not isinstance(tensor, Tensor):
                raise errors.DTypeError(
                    f"save_for_backward: a {type(tensor).__name__} was given; a tensor or None is needed "
                    f"(help: set other things as attributes of ctx)"
                )
        self._saved = list(tensors)

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        """What save_for_backward was given, in backward."""
        if self._saved is None:
            raise errors.GraphError("saved_tensors: nothing was saved; call ctx.save_for_backward(…) in forward")
        return tuple(self._saved)

    def mark_non_differentiable(self, *outputs: Tensor) -> None:
        """Say of outputs that they have no gradient."""
        self._constant = outputs

    def set_materialize_grads(self, value: bool) -> None:
        """Give backward zeros, or None, for an output that nothing depends on."""
        self._materialize = value


class Function:
    """An operation with its own gradient: define `forward` and `backward`, and call `apply`.

    backward returns one gradient for each argument of forward, None where there is none.
    Example:
        >>> class Cube(bs.autograd.Function):
        ...     @staticmethod
        ...     def forward(ctx, x):
        ...         ctx.save_for_backward(x)
        ...         return x**3
        ...     @staticmethod
        ...     def backward(ctx, dy):
        ...         (x,) = ctx.saved_tensors
        ...         return dy * 3 * x**2
        >>> x = bs.tensor(2.0, requires_grad=True)
        >>> Cube.apply(x).backward()
        >>> x.grad.item()
        12.0
    """

    @staticmethod
    def forward(*args: Any) -> Any:
        """Compute the outputs from ctx and the arguments; recording is off."""
        raise NotImplementedError("Function: forward is missing; define it as a static method")

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        """Compute the gradients of the arguments from those of the outputs."""
        raise NotImplementedError("Function: backward is missing; define it as a static method")

    # Defined by subclasses whose forward takes no ctx: setup_context(ctx, inputs, output) saves for it.
    setup_context: Callable[[Any, tuple[Any, ...], Any], None] | None = None

    @classmethod
    def apply(cls, *args: Any) -> Any:
        """Run forward on the arguments, and record backward as its gradient."""
        needs = tuple(isinstance(arg, Tensor) and arg.requires_grad for arg in args)
        recorded = is_grad_enabled() and any(needs)
        ctx = FunctionContext(needs)
        with no_grad():
            if cls.setup_context is None:
                made = cls.forward(ctx, *args)
            else:
                made = cls.forward(*args)
                cls.setup_context(ctx, args, made)
        several = isinstance(made, (tuple, list))
        outputs = list(made) if several else [made]
        name = cls.__name__
        differentiable = [
            place
            for place, output in enumerate(outputs)
            if isinstance(output, Tensor)
            and output.is_floating_point()
            and not any(output is constant for constant in ctx._constant)
        ]
        if not differentiable:
            recorded = False
        if recorded:
            inputs = [arg for arg in args if isinstance(arg, Tensor)]
            saved = ctx._saved
            kept = [tensor for tensor in saved or () if tensor is not None]
            present = None if saved is None else [tensor is not None for tensor in saved]
            ctx._saved = None
            values = [outputs[place] for place in differentiable]
            gradient = _Gradient(cls, ctx, present, args, values)
            made_vars = _core.record_custom(name, inputs, values, kept, gradient)
            for place, value in zip(differentiable, made_vars, strict=True):
                outputs[place] = value
        outputs = [
            output.detach() if isinstance(output, Tensor) and not (recorded and place in differentiable) else output
            for place, output in enumerate(outputs)
        ]
        if not several:
            return outputs[0]
        return type(made)(outputs) if type(made) in (tuple, list) else tuple(outputs)


class _Gradient:
    """What the engine calls for the gradient of one application; holds no tensor."""

    def __init__(
        self,
        function: type[Function],
        ctx: FunctionContext,
        present: list[bool] | None,
        args: tuple[Any, ...],
        outputs: list[Tensor],
    ) -> None:
        """Remember which arguments were tensors, and what the outputs looked like."""
        self.function = function
        self.ctx = ctx
        self.present = present
        self.tensors = [isinstance(arg, Tensor) for arg in args]
        self.like = [(output.shape, output.dtype) for output in outputs]

    def __call__(self, saved: list[Tensor], dy: list[Tensor | None]) -> list[Tensor | None]:
        ctx = self.ctx
        rest = iter(saved)
        ctx._saved = None if self.present is None else [next(rest) if there else None for there in self.present]
        if ctx._materialize:
            dy = [
                _core.full(shape, 0.0, dtype) if one is None else one
                for one, (shape, dtype) in zip(dy, self.like, strict=True)
            ]
        try:
            given = self.function.backward(ctx, *dy)
        finally:
            ctx._saved = None
        gradients = list(given) if isinstance(given, (tuple, list)) else [given]
        name = self.function.__name__
        if len(gradients) < len(self.tensors) or any(one is not None for one in gradients[len(self.tensors) :]):
            raise errors.GraphError(
                f"{name}.backward: {len(gradients)} gradients for {len(self.tensors)} arguments of forward; "
                f"return one for each, None where there is none"
            )
        for place, (one, tensor) in enumerate(zip(gradients, self.tensors, strict=False)):
            if one is not None and not (tensor and isinstance(one, Tensor)):
                what = f"a {type(one).__name__}" if tensor else "a gradient, and the argument is no tensor"
                raise errors.GraphError(f"{name}.backward: gradient {place} is {what}; a tensor or None is needed")
        return [one for one, tensor in zip(gradients, self.tensors, strict=False) if tensor]


def once_differentiable(backward: Callable[..., Any]) -> Callable[..., Any]:
    """Mark a backward whose own gradient would be wrong: asking for it raises."""

    @functools.wraps(backward)
    def run(ctx: Any, *grad_outputs: Any) -> Any:
        with no_grad():
            given = backward(ctx, *grad_outputs)
        if not is_grad_enabled():
            return given
        gradients = list(given) if isinstance(given, (tuple, list)) else [given]

        def refuse(saved: list[Tensor], dy: list[Tensor | None]) -> list[Tensor | None]:
            raise errors.GraphError(
                "once_differentiable: this gradient has no gradient of its own; leave create_graph out"
            )

        for place, one in enumerate(gradients):
            if isinstance(one, Tensor):
                # Hung below all that it may depend on, so that a second sweep meets the refusal.
                above = [dy for dy in grad_outputs if isinstance(dy, Tensor)]
                above += [x for x in ctx._saved or () if x is not None]
                gradients[place] = _core.record_custom("once_differentiable", above, [one], [], refuse)[0]
        return tuple(gradients)

    return run
