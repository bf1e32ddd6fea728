"""What a run may take: judged for the command's `check` and for pytest's markers."""

from __future__ import annotations

from .. import errors
from . import report
from .compare import Comparison


def parse_share(text: str | float) -> float:
    """"10%" → 0.1, 0.1 → 0.1

    Raises: ValueError when it is neither, or below 0.
    """
    try:
        value = float(text[:-1]) / 100 if isinstance(text, str) and text.endswith("%") else float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise errors.ValueError(f"'{text}' is no share; a number from 0 on or a text such as '10%' is needed")
    return value


def broken_limits(
    tables: Comparison,
    peak: int | None = None,
    activation: int | None = None,
    recompute: float | None = None,
    uncounted: int = 0,
) -> list[str]:
    """What a capture exceeds, in words; `uncounted` bytes of the peak do not count."""
    messages = []
    highest = tables.peak_bytes - uncounted
    if peak is not None and highest > peak:
        rest = f" ({report.size(uncounted)} alive before are not counted)" if uncounted else ""
        over = report.size(highest - peak)
        messages.append(f"peak {report.size(highest)} exceeds the limit of {report.size(peak)} by {over}{rest}")
    kept = tables.saved_bytes
    if activation is not None and kept > activation:
        over = report.size(kept - activation)
        messages.append(f"activations of {report.size(kept)} exceed the limit of {report.size(activation)} by {over}")
    share = tables.work()["recompute_share"]
    if recompute is not None and share > recompute:
        messages.append(f"recomputation of {100 * share:.1f} % exceeds the limit of {100 * recompute:.1f} %")
    return messages
