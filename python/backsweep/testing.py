"""Assertions for tests of training code."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from . import _core, memory
from ._core import Tensor


def assert_same_under_budget(
    step: Callable[[], Any],
    parameters: Iterable[Tensor],
    *,
    budget: int | str | None = None,
    ratio: float = 0.7,
    device: str = "cpu",
) -> int:
    """Run `step`, a forward and a backward, with and without a budget on a device: each gradient must have the same bits.

    Gradients are cleared before each run and the random stream is put back in between; a step that changes parameters or
    running statistics has other inputs the second time. Without `budget`, it is the share `ratio` of the first run's peak.
    Returns the peak under the budget.

    Raises: AssertionError that names the first gradient that differs; OutOfMemoryError when the budget cannot be kept.
    """
    watched = list(parameters)
    state = _core.rng_state()

    def gradients() -> list[Any]:
        for p in watched:
            p.grad = None
        _core.set_rng_state(*state)
        memory.reset_peak(device)
        step()
        return [None if p.grad is None else p.grad.cpu().numpy().copy() for p in watched]

    wanted = gradients()
    cap = int(ratio * memory.stats(device)["peak"]) if budget is None else memory.parse_bytes(budget)
    # The gradients of the first run count as alive otherwise.
    for p in watched:
        p.grad = None
    with memory.budget(cap, device):
        found = gradients()
    peak = int(memory.stats(device)["peak"])
    for number, (a, b) in enumerate(zip(wanted, found, strict=True)):
        if (a is None) != (b is None) or (a is not None and a.tobytes() != b.tobytes()):
            far = "" if a is None or b is None else f", by up to {np.abs(a - b).max():g}"
            raise AssertionError(f"the gradient of parameter {number} differs under a budget of {cap} bytes{far}")
    return peak
