"""Forecasts: what memory a step will need, from shapes alone, before it runs."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .. import _core
from .._core import Plan, Tape
from .bill import CATEGORIES
from .sizes import format_bytes, parse_bytes
from .tapes import capture


@dataclass(frozen=True)
class Forecast:
    """What a step will need: its peak in bytes, by category, and the ten largest holders at that moment.

    These, and the plans, are of the memory of `device`, on which the step asks for most bytes; `peaks` has every device's peak.
    """

    device: str
    peaks: dict[str, int]
    peak: int
    by_category: dict[str, int]
    largest: list[dict[str, Any]]
    _tape: Callable[[], Tape] = field(repr=False, compare=False)

    def tape(self) -> Tape:
        """The step as the planner sees it. Runs it on shapes alone once more."""
        return self._tape()

    def budgets(self, count: int = 4) -> list[Plan]:
        """Plans from the least feasible budget up to that of the step as it is, each with its peak and its cost."""
        tape = self.tape()
        least = tape.least()
        rungs = tape.ladder([least.peak + (tape.peak - least.peak) * i // max(count - 1, 1) for i in range(count)])
        return [plan for plan in rungs if plan is not None]

    def fits(self, budget: int | str) -> bool:
        """True when the peak is at most `budget`, bytes or a text such as "8 GiB"."""
        return self.peak <= parse_bytes(budget)

    def __repr__(self) -> str:
        """Show the bill of the peak."""
        there = "" if self.device == "cpu" else f" on {self.device}"
        lines = [f"Forecast: a peak of {format_bytes(self.peak)} ({self.peak:,} bytes){there}"]
        for category, size in sorted(self.by_category.items(), key=lambda item: -item[1]):
            if size:
                lines.append(f"  {category:12} {format_bytes(size):>10}  {100 * size / max(self.peak, 1):5.1f} %")
        lines.append("the largest holders")
        for row in self.largest:
            where = f"{row['category']} of {row['op'] or '-'} in {row['module'] or '-'} at {row['line'] or '-'}"
            lines.append(f"  {format_bytes(row['bytes']):>10}  {where} ({row['blocks']} blocks)")
        return "\n".join(lines)


def forecast(step: Callable[..., Any], *args: Any, **kwargs: Any) -> Forecast:
    """Run step(*args, **kwargs), a whole training step as it is, on shapes alone, and tell what memory it will need.

    No kernel runs and no data-sized memory is taken, so a step that this machine could not hold is forecast in seconds. The
    peak is that of the real step to the byte, with all that is alive around it, on this machine's number of threads; of a step
    on a GPU it is that of the GPU's memory. Every
    block is counted, those of the optimizer's first step and the kernels' scratch memory too. A `memory.limit` is not
    enforced meanwhile. Afterwards parameters, gradients, the state of optimizers and schedulers, running statistics and the
    random stream are as before; tensors that the step stores elsewhere have no numbers, and no op takes them.

    Raises: GraphError when the step reads a number (item(), float(), numpy(), a branch on a value), inside a
        memory.budget or memory.record, and for a sweep of what was recorded before.

    Example:
        >>> net = bs.nn.Linear(1000, 1000)
        >>> optimizer = bs.optim.Adam(net.parameters())
        >>> def step(x):
        ...     optimizer.zero_grad()
        ...     net(x).square().mean().backward()
        ...     optimizer.step()
        >>> bs.memory.forecast(step, bs.zeros(8, 1000)).fits("64 MiB")
        True
    """
    devices = _on_paper(lambda: step(*args, **kwargs))
    device, peak, _, blocks = max(devices, key=lambda row: row[2])
    by_category = dict.fromkeys(CATEGORIES, 0)
    holders: dict[tuple[str, str, str, str], list[int]] = {}
    for block in blocks:
        by_category[block["category"]] += block["bytes"]
        holder = holders.setdefault(tuple(block[name] for name in _HOLDER), [0, 0])  # type: ignore[arg-type]
        holder[0] += block["bytes"]
        holder[1] += 1
    largest = sorted(holders.items(), key=lambda item: (-item[1][0], item[0]))[:10]
    rows = [
        {"bytes": size, "blocks": count, **dict(zip(_HOLDER, names, strict=True))} for names, (size, count) in largest
    ]

    def tape() -> Tape:
        with capture(device) as steps:
            _on_paper(lambda: step(*args, **kwargs))
        return steps.tape

    return Forecast(device, {row[0]: row[1] for row in devices}, peak, by_category, rows, tape)


def _on_paper(step: Callable[[], Any]) -> list[tuple[str, int, int, list[dict[str, Any]]]]:
    """Run a step on shapes alone; return for each device its name, its peak, the bytes asked for, and the blocks at the peak."""
    state = _core.rng_state()
    kept = [(owner, _copied(vars(owner))) for owner in stateful]
    running = _core.begin_forecast()
    try:
        step()
    finally:
        for owner, attributes in kept:
            _restore(vars(owner), attributes)
        _core.set_rng_state(*state)
        devices = running.end()
    return devices


_HOLDER = ("category", "module", "op", "line")
# Optimizers and schedulers: their attributes are put back after a forecast.
stateful: weakref.WeakSet[Any] = weakref.WeakSet()


def _copied(value: Any) -> Any:
    """Copy containers to any depth, and share what they hold."""
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_copied(item) for item in value]
    return set(value) if isinstance(value, set) else value


def _restore(target: dict[Any, Any], before: dict[Any, Any]) -> None:
    """Make the containers what they were, each the same object as before."""
    for key in target.keys() - before.keys():
        del target[key]
    for key, value in before.items():
        now = target.get(key)
        if isinstance(value, dict) and isinstance(now, dict):
            _restore(now, value)
        elif isinstance(value, list) and isinstance(now, list) and len(now) == len(value):
            slots = dict(enumerate(now))
            _restore(slots, dict(enumerate(value)))
            now[:] = [slots[place] for place in range(len(value))]
        elif isinstance(value, set) and isinstance(now, set):
            now.clear()
            now.update(value)
        else:
            target[key] = value
