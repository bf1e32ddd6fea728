"""Adam and AdamW."""

from __future__ import annotations

from typing import Any

import backsweep as bs

from .. import _core
from .._core import Tensor
from .optimizer import Optimizer, Params, check_range


class Adam(Optimizer):
    """Steps by running means of the gradient and its square.   Kingma and Ba 2014, arXiv:1412.6980

    weight_decay goes into the gradient; decoupled_weight_decay shrinks the parameter instead, as in AdamW.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
    ) -> None:
        """Keep the settings."""
        op = type(self).__name__
        check_range(op, "lr", lr)
        check_range(op, "eps", eps)
        check_range(op, "betas[0]", betas[0], below=1)
        check_range(op, "betas[1]", betas[1], below=1)
        check_range(op, "weight_decay", weight_decay)
        super().__init__(
            params,
            {
                "lr": lr,
                "betas": betas,
                "eps": eps,
                "weight_decay": weight_decay,
                "amsgrad": amsgrad,
                "maximize": maximize,
                "decoupled_weight_decay": decoupled_weight_decay,
            },
        )

    def _update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        names = ["exp_avg", "exp_avg_sq"] + ["max_exp_avg_sq"] * group["amsgrad"]
        states = self._states(
            params, lambda param: {"step": 0, **{name: bs.zeros_like(param) for name in names}}
        )
        (beta1, beta2), decoupled = group["betas"], group["decoupled_weight_decay"]
        # A parameter that once had no gradient is behind in its count; nearly always there is one count.
        counts: dict[int, list[tuple[Tensor, ...]]] = {}
        for param, grad, state in zip(params, grads, states, strict=True):
            row = (param, grad, *(state[name] for name in names))
            counts.setdefault(state["step"], []).append(row)
        if group["amsgrad"]:
            for step, rows in counts.items():
                numbers = (group["lr"], beta1, beta2, group["eps"], step, decoupled)
                for row in self._left_by_gpus("amsgrad", group, rows, numbers):
                    _amsgrad_step(group, step, *row)
            return
        settings = (
            group["lr"],
            beta1,
            beta2,
            group["eps"],
            group["weight_decay"],
            decoupled,
            group["maximize"],
        )
        for step, rows in counts.items():
            own, own_grads, means, squares = map(list, zip(*rows, strict=True))
            _core.adam_step(own, own_grads, means, squares, step, *settings)


class AdamW(Adam):
    """Adam with weight decay apart from the gradient.   Loshchilov and Hutter 2017, arXiv:1711.05101"""

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        """Keep the settings."""
        super().__init__(
            params, lr, betas, eps, weight_decay, amsgrad, maximize=maximize, decoupled_weight_decay=True
        )


def _amsgrad_step(
    group: dict[str, Any], step: int, param: Tensor, grad: Tensor, mean: Tensor, square: Tensor, largest: Tensor
) -> None:
    """Divide by the largest mean square so far.   Reddi et al. 2018, arXiv:1904.09237"""
    lr, (beta1, beta2) = group["lr"], group["betas"]
    grad = -grad if group["maximize"] else grad
    if group["weight_decay"] != 0:
        if group["decoupled_weight_decay"]:
            param.mul_(1 - lr * group["weight_decay"])
        else:
            grad = grad.add(param, alpha=group["weight_decay"])
    mean.lerp_(grad, 1 - beta1)
    square.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    largest.copy_(bs.maximum(largest, square))
    root = largest.sqrt().div_((1 - beta2**step) ** 0.5).add_(group["eps"])
    param.addcdiv_(mean, root, value=-lr / (1 - beta1**step))
