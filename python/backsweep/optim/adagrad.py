"""Adagrad."""

from __future__ import annotations

from typing import Any

import backsweep as bs

from .._core import Tensor
from .optimizer import Optimizer, Params, check_range


class Adagrad(Optimizer):
    """Steps divided by the root of the sum of all squared gradients.   Duchi et al. 2011"""

    def __init__(
        self,
        params: Params,
        lr: float = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        *,
        maximize: bool = False,
    ) -> None:
        """Keep the settings."""
        settings = {
            "lr": lr,
            "lr_decay": lr_decay,
            "eps": eps,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
        }
        for name, value in settings.items():
            check_range("Adagrad", name, value)
        super().__init__(params, {**settings, "maximize": maximize})

    def _update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        start = group["initial_accumulator_value"]
        states = self._states(params, lambda param: {"step": 0, "sum": bs.full_like(param, start)})
        # A parameter that once had no gradient is behind in its count; nearly always there is one count.
        counts: dict[int, list[tuple[Tensor, ...]]] = {}
        for param, grad, state in zip(params, grads, states, strict=True):
            counts.setdefault(state["step"], []).append((param, grad, state["sum"]))
        for step, rows in counts.items():
            lr = group["lr"] / (1 + (step - 1) * group["lr_decay"])
            for param, grad, total in self._left_by_gpus("adagrad", group, rows, (lr, group["eps"])):
                grad = -grad if group["maximize"] else grad
                if group["weight_decay"] != 0:
                    grad = grad.add(param, alpha=group["weight_decay"])
                root = total.addcmul_(grad, grad, value=1.0).sqrt().add_(group["eps"])
                param.addcdiv_(grad, root, value=-lr)
