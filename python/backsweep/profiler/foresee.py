"""A forecast of an unchanged script: its first steps on shapes alone, before any of them is run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .. import errors, memory
from ..optim.optimizer import after_step
from .capture import SCHEMA
from .ledger import Row

# The second step has an optimizer's state, and the gradients of the first, from its beginning.
_STEPS = 2


class _Enough(BaseException):
    """The steps wanted have ended."""


def foresee(run: Callable[[], Any], *, budgets: bool = False, fits: int | None = None) -> Row:
    """Run a program on shapes until its second step has ended, and tell what memory it will need.

    A program that reads a number after its first step is told of up to there. With `budgets`, or where the peak does not
    fit, it is run once more, for the planner.

    Raises: GraphError when a number is read, or a budget set, before the first step has ended.
    """
    first: list[int] = []
    forecast = memory.forecast(_Stopped(run, first))
    row: Row = {
        "schema": SCHEMA,
        "view": "forecast",
        "steps": len(first),
        "peak_bytes": forecast.peak,
        "peak_by_category": forecast.by_category,
        "largest": forecast.largest,
        "fits": None if fits is None else forecast.peak <= fits,
        "fits_bytes": fits,
        "least_bytes": None,
        "budgets": [],
    }
    if first and (budgets or row["fits"] is False):
        plans = forecast.budgets()
        row["least_bytes"] = min(plan.peak for plan in plans)
        row["budgets"] = [
            {"budget_bytes": plan.peak, "overhead": plan.recompute / plan.base if plan.base else 0.0} for plan in plans
        ]
    return row


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
        except errors.GraphError as error:
            if not self.ended or "forecast" not in str(error):
                raise
        finally:
            after_step.remove(self._count)

    def _count(self) -> None:
        self.ended.append(len(self.ended) + 1)
        if len(self.ended) == _STEPS:
            raise _Enough
