"""RMSprop."""

from __future__ import annotations

from typing import Any

import backsweep as bs

from .._core import Tensor
from .optimizer import Optimizer, Params, check_range


class RMSprop(Optimizer):
    """Steps divided by the root of the running mean square of the gradient.

    Hinton, Coursera lecture 6, 2012. centered subtracts the square of the running mean: Graves 2013,
    arXiv:1308.0850.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        momentum: float = 0.0,
        centered: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        """Keep the settings."""
        settings = {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay, "momentum": momentum}
        for name, value in settings.items():
            check_range("RMSprop", name, value)
        super().__init__(params, {**settings, "centered": centered, "maximize": maximize})

    def _update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        lr, alpha, momentum = group["lr"], group["alpha"], group["momentum"]
        names = ["square_avg"] + ["momentum_buffer"] * (momentum > 0) + ["grad_avg"] * group["centered"]
        states = self._states(
            params, lambda param: {"step": 0, **{name: bs.zeros_like(param) for name in names}}
        )
        # What is not kept is stood in for by the mean of squares.
        rows = [
            (param, grad, state["square_avg"])
            + tuple(state.get(name, state["square_avg"]) for name in ("grad_avg", "momentum_buffer"))
            for param, grad, state in zip(params, grads, states, strict=True)
        ]
        numbers = (lr, alpha, group["eps"], momentum, group["centered"])
        for param, grad, average, mean, velocity in self._left_by_gpus("rmsprop", group, rows, numbers):
            grad = -grad if group["maximize"] else grad
            if group["weight_decay"] != 0:
                grad = grad.add(param, alpha=group["weight_decay"])
            square = average.mul_(alpha).addcmul_(grad, grad, value=1 - alpha)
            if group["centered"]:
                mean.lerp_(grad, 1 - alpha)
                root = square.addcmul(mean, mean, value=-1.0).sqrt_()
            else:
                root = square.sqrt()
            root.add_(group["eps"])
            if momentum > 0:
                param.add_(velocity.mul_(momentum).addcdiv_(grad, root), alpha=-lr)
            else:
                param.addcdiv_(grad, root, value=-lr)
