"""Where every byte of a training went: the bill, caps on it, tapes and forecasts of steps."""

from __future__ import annotations

from .._core import Plan, Tape
from .bill import CATEGORIES, Recording, bill, bill_text, record, reset_peak, snapshot, stats
from .caps import budget, current_plan, limit, must_drop, must_keep
from .forecast import Forecast, forecast, stateful
from .sizes import format_bytes, parse_bytes
from .tapes import Steps, capture

__all__ = [
    "CATEGORIES",
    "Forecast",
    "Plan",
    "Recording",
    "Steps",
    "Tape",
    "bill",
    "bill_text",
    "budget",
    "capture",
    "current_plan",
    "forecast",
    "format_bytes",
    "limit",
    "must_drop",
    "must_keep",
    "parse_bytes",
    "record",
    "reset_peak",
    "snapshot",
    "stateful",
    "stats",
]
