"""A forecast of an unchanged script: its first steps on shapes alone, before any of them is run."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .. import errors, memory
from .._core import Tensor
from ..optim.optimizer import after_step
from .capture import SCHEMA
from .ledger import Row

# The second step has an optimizer's state, and the gradients of the first, from its beginning.
_STEPS = 2


class _Enough(BaseException):
    """The steps wanted have ended."""


def foresee(run: Callable[[], Any], *, budgets: bool = False, fits: int | None = None) -> Row:
    """Run a program on shapes until its second step has ended, and tell what memory it will need.

    A float that it reads, such as a loss to be printed, is NaN. With `budgets`, or where the peak does not fit, it is run once
    more, for the planner.

    Raises: GraphError when the values of an array or a truth are asked for, or a budget is set.
    """
    first: list[int] = []
    numbers: list[str] = []
    # What an earlier run left in cycles would count as alive.
    gc.collect()
    with _unknown_numbers(numbers):
        forecast = memory.forecast(_Stopped(run, first))
    row: Row = {
        "schema": SCHEMA,
        "view": "forecast",
        "steps": len(first),
        "unknown_numbers": len(numbers),
        "device": forecast.device,
        "device_peaks": forecast.peaks,
        "peak_bytes": forecast.peak,
        "peak_by_category": forecast.by_category,
        "largest": forecast.largest,
        "fits": None if fits is None else forecast.peak <= fits,
        "fits_bytes": fits,
        "least_bytes": None,
        "budgets": [],
    }
    if first and (budgets or row["fits"] is False):
        gc.collect()
        with _unknown_numbers([]):
            plans = forecast.budgets()
        row["least_bytes"] = min(plan.peak for plan in plans)
        # A plan that keeps all needs more than the step as it is, which makes again what costs next to nothing.
        row["budgets"] = [
            {"budget_bytes": plan.peak, "overhead": plan.recompute / plan.base if plan.base else 0.0}
            for plan in plans
            if plan.peak < forecast.peak
        ]
    return row


@contextmanager
def _unknown_numbers(read: list[str]) -> Iterator[None]:
    """Let a float that is read from a tensor be NaN where there is none; what was asked is added to `read`."""
    before = {name: getattr(Tensor, name) for name in ("item", "__float__")}

    def unknown(name: str) -> Callable[[Tensor], Any]:
        def number(tensor: Tensor) -> Any:
            try:
                return before[name](tensor)
            except errors.GraphError:
                read.append(name)
                return math.nan

        return number

    try:
        for name in before:
            setattr(Tensor, name, unknown(name))
        yield
    finally:
        for name, method in before.items():
            setattr(Tensor, name, method)


class _Stopped:
    """A program that ends after so many steps."""

    def __init__(self, run: Callable[[], Any], ended: list[int]) -> None:
        self.run, self.ended = run, ended

    def __call__(self) -> None:
        self.ended.clear()
        after_step.append(self._count)
        try:
            self.run()
        except _Enough:
            pass
        except SystemExit as end:
            if end.code:
                raise
        finally:
            after_step.remove(self._count)

    def _count(self) -> None:
        self.ended.append(len(self.ended) + 1)
        if len(self.ended) == _STEPS:
            raise _Enough
