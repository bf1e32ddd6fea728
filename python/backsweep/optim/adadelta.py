"""Adadelta."""

from __future__ import annotations

from typing import Any

import backsweep as bs

from .._core import Tensor
from .optimizer import Optimizer, Params, check_range


class Adadelta(Optimizer):
    """Steps scaled by the ratio of running root mean squares of steps and gradients.

    Zeiler 2012, arXiv:1212.5701
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1.0,
        rho: float = 0.9,
        eps: float = 1e-6,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        """Keep the settings."""
        check_range("Adadelta", "lr", lr)
        check_range("Adadelta", "rho", rho, below=1)
        check_range("Adadelta", "eps", eps)
        check_range("Adadelta", "weight_decay", weight_decay)
        super().__init__(
            params, {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        )

    def _update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        rho, eps = group["rho"], group["eps"]
        states = self._states(
            params,
            lambda param: {"step": 0, "square_avg": bs.zeros_like(param), "acc_delta": bs.zeros_like(param)},
        )
        rows = [
            (param, grad, state["square_avg"], state["acc_delta"])
            for param, grad, state in zip(params, grads, states, strict=True)
        ]
        for param, grad, average, steps in self._left_by_gpus("adadelta", group, rows, (group["lr"], rho, eps)):
            grad = -grad if group["maximize"] else grad
            if group["weight_decay"] != 0:
                grad = grad.add(param, alpha=group["weight_decay"])
            square = average.mul_(rho).addcmul_(grad, grad, value=1 - rho)
            delta = steps.add(eps).sqrt_().div_(square.add(eps).sqrt_()).mul_(grad)
            steps.mul_(rho).addcmul_(delta, delta, value=1 - rho)
            param.add_(delta, alpha=-group["lr"])
