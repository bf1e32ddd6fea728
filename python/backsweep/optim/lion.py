"""Lion."""

from __future__ import annotations

from typing import Any

import backsweep as bs

from .._core import Tensor
from .optimizer import Optimizer, Params, check_range


class Lion(Optimizer):
    """Steps of one size, in the direction of the sign of an interpolated momentum.

    Chen et al. 2023, arXiv:2302.06675. Half of Adam's state; the rate is usually a third to a tenth of
    Adam's, and the weight decay as much larger.
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.99),
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
    ) -> None:
        """Keep the settings."""
        check_range("Lion", "lr", lr)
        check_range("Lion", "betas[0]", betas[0], below=1)
        check_range("Lion", "betas[1]", betas[1], below=1)
        check_range("Lion", "weight_decay", weight_decay)
        super().__init__(
            params, {"lr": lr, "betas": betas, "weight_decay": weight_decay, "maximize": maximize}
        )

    def _update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        lr, (beta1, beta2) = group["lr"], group["betas"]
        states = self._states(params, lambda param: {"step": 0, "exp_avg": bs.zeros_like(param)})
        rows = [(param, grad, state["exp_avg"]) for param, grad, state in zip(params, grads, states, strict=True)]
        for param, grad, mean in self._left_by_gpus("lion", group, rows, (lr, beta1, beta2)):
            grad = -grad if group["maximize"] else grad
            direction = mean.lerp(grad, 1 - beta1).sign()
            if group["weight_decay"] != 0:
                param.mul_(1 - lr * group["weight_decay"])
            param.add_(direction, alpha=-lr)
            mean.lerp_(grad, 1 - beta2)
