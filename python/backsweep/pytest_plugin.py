"""Markers for pytest that keep the memory of training within limits.

    @pytest.mark.limit_peak_memory("64 MiB")        the most live bytes, what was alive before the test not counted
    @pytest.mark.limit_activation_memory("32 MiB")  the most bytes kept for backward
    @pytest.mark.limit_recompute("10%")             the work of replays over all other work

The test's call is captured by the profiler; a test that exceeds a limit fails with the table of its peak.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

_MARKERS = {
    "limit_peak_memory": "(bytes): fail when more bytes than this are alive at a moment of the test",
    "limit_activation_memory": "(bytes): fail when more bytes than this are kept for backward",
    "limit_recompute": "(share): fail when replays are more than this share of the work, such as '10%'",
}


def pytest_configure(config: pytest.Config) -> None:
    """Make the markers known."""
    for name, text in _MARKERS.items():
        config.addinivalue_line("markers", f"{name}{text}")


def _limit(item: pytest.Item, name: str) -> Any:
    marker = item.get_closest_marker(name)
    if marker is None:
        return None
    if len(marker.args) != 1 or marker.kwargs:
        raise ValueError(f"{name}: {len(marker.args)} values; one is needed")
    return marker.args[0]


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, Any, Any]:
    """Capture a marked test, and judge it when it has passed."""
    peak, activation, recompute = (_limit(pyfuncitem, name) for name in _MARKERS)
    if peak is None and activation is None and recompute is None:
        return (yield)
    from .memory import parse_bytes
    from .profiler import limits, profile, report

    try:
        peak = None if peak is None else parse_bytes(peak)
        activation = None if activation is None else parse_bytes(activation)
        recompute = None if recompute is None else limits.parse_share(recompute)
    except ValueError as error:
        pytest.fail(str(error), pytrace=False)
    with profile() as prof:
        result = yield
    broken = limits.broken_limits(prof.tables, peak, activation, recompute, prof.tables.present_bytes)
    if broken:
        lines = [*broken, "", "alive at the peak", report.blocks(prof.peak(), 15)]
        if activation is not None:
            lines += ["", "kept for backward, when that was most", report.blocks(prof.saved(), 15)]
        pytest.fail("\n".join(lines), pytrace=False)
    return result
