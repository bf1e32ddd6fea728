"""Budget against recomputation: the one place where the profiler asks the planner."""

from __future__ import annotations

from typing import Any

from .capture import Capture


def ladder(capture: Capture) -> list[dict[str, Any]] | None:
    """Rows of budget, peak and recomputation, the largest budget first; None when the run has none.

    They are the ones that the run attached under "pareto". Nothing is estimated here.
    """
    rows: list[dict[str, Any]] | None = capture.facts.get("pareto")
    return rows
