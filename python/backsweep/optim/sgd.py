"""Stochastic gradient descent, with momentum."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

import backsweep as bs

from .. import _core, errors
from .._core import Tensor
from .optimizer import Optimizer, Params, check_range, own

# In the order in which the native step takes them.
_SETTINGS = itemgetter("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")


class SGD(Optimizer):
    """p ← p - lr·g, or p - lr·v with momentum: v ← momentum·v + (1 - dampening)·g.

    Nesterov's form uses g + momentum·v.   Sutskever et al. 2013
    Example:
        >>> net = nn.Linear(2, 1)
        >>> optimizer = optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
        >>> net(bs.ones(1, 2)).sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        maximize: bool = False,
    ) -> None:
        """Keep the settings."""
        check_range("SGD", "lr", lr)
        check_range("SGD", "momentum", momentum)
        check_range("SGD", "weight_decay", weight_decay)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise errors.ValueError(
                f"SGD: nesterov with momentum={momentum}, dampening={dampening}; "
                f"a momentum above 0 and no dampening are needed"
            )
        super().__init__(
            params,
            {
                "lr": lr,
                "momentum": momentum,
                "dampening": dampening,
                "weight_decay": weight_decay,
                "nesterov": nesterov,
                "maximize": maximize,
            },
        )

    def _update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        settings: tuple[float, float, float, float, bool, bool] = _SETTINGS(group)
        if group["momentum"] == 0:
            _core.sgd_step(params, grads, None, *settings, first=False)
            return
        # The first step sets the momentum to the gradient itself, without dampening.
        fresh = {
            id(param): own(bs.zeros_like(param), param)
            for param in params
            if self.state[param].get("momentum_buffer") is None
        }
        rows: dict[bool, list[tuple[Tensor, Tensor, Tensor]]] = {}
        for param, grad in zip(params, grads, strict=True):
            state, first = self.state[param], id(param) in fresh
            if first:
                state["momentum_buffer"] = fresh[id(param)]
            rows.setdefault(first, []).append((param, grad, state["momentum_buffer"]))
        for first, group_rows in rows.items():
            own_params, own_grads, buffers = map(list, zip(*group_rows, strict=True))
            _core.sgd_step(own_params, own_grads, buffers, *settings, first=first)
