"""The bill: every byte of the arena by category, op, module and source line; and a hard limit on it.

Figures are bytes that the arena has handed out, its rounding included. Memory of NumPy arrays shared with tensors, and of
the Python objects themselves, is not on the bill.
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from . import _core, errors
from ._core import Plan, Tape, Tensor

CATEGORIES = ("parameter", "buffer", "gradient", "optimizer", "input", "activation", "temporary", "workspace")
_UNITS = {"b": 1, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40, "kb": 10**3, "mb": 10**6, "gb": 10**9}


def stats(device: str = "cpu") -> dict[str, Any]:
    """Bytes live, at the peak and reserved, one entry a category, and the counts of nodes and blocks.

    Raises: DeviceError when there is no such device.
    """
    return dict(_core.memory_stats(device))


def snapshot(device: str = "cpu") -> list[dict[str, Any]]:
    """Every live block of a device's memory: id, bytes, category, op, module, line."""
    return list(_core.memory_snapshot(device))


def reset_peak(device: str = "cpu") -> None:
    """Let the peak start again from the bytes live now."""
    _core.reset_peak(device)


def parse_bytes(amount: int | str) -> int:
    """A number of bytes from an int or a text such as "512 MiB".

    Raises: ValueError when it is neither, or not above zero.
    """
    if isinstance(amount, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*", amount)
        unit = _UNITS.get((match[2] or "B").lower()) if match else None
        if match is None or unit is None:
            raise errors.ValueError(f"memory: '{amount}' is no size; an int or a text such as '512 MiB' is needed")
        amount = int(float(match[1]) * unit)
    if isinstance(amount, bool) or not isinstance(amount, int) or amount <= 0:
        raise errors.ValueError(f"memory: {amount!r} bytes; a whole number above zero is needed")
    return amount


class limit:
    """A hard cap on the live bytes of a device, until it is lifted by `limit(None)` or, used with `with`, at the end of the block.

    Raises: OutOfMemoryError when more is alive already; any allocation over the cap raises it as well.
    """

    def __init__(self, amount: int | str | None, device: str = "cpu") -> None:
        self.device = device
        self.before = _core.set_limit(None if amount is None else parse_bytes(amount), device)

    def __enter__(self) -> limit:
        return self

    def __exit__(self, *exception: object) -> None:
        _core.set_limit(self.before, self.device)


class budget:
    """A cap on live bytes that the engine keeps by dropping activations and computing them again, bit for bit.

    Used with `with`, around unchanged training code. Gradients, losses, running statistics and random draws are those of the
    run without it. What is recorded outside the block is never dropped.

    Raises: OutOfMemoryError when nothing that could be dropped is left, here or at any allocation; the state is then as it
    was before that call. ValueError when `amount` is no size above zero.

    Example:
        with bs.memory.budget("512 MiB"):
            loss = model(x).square().mean()
            loss.backward()
            optimizer.step()
    """

    def __init__(self, amount: int | str) -> None:
        self.amount = parse_bytes(amount)
        self._entered: list[_core.Budget] = []

    def __enter__(self) -> budget:
        self._entered.append(_core.set_budget(self.amount))
        return self

    def __exit__(self, *exception: object) -> None:
        self._entered.pop().restore()


class Steps:
    """What a `capture()` block has seen, once it has ended."""

    def __init__(self) -> None:
        self._tape: Tape | None = None

    @property
    def tape(self) -> Tape:
        """The latest step that has ended in the block.

        Raises: GraphError when none has.
        """
        if self._tape is None:
            raise errors.GraphError(
                "memory.capture: no step has ended in the block; run a whole step there, with its backward()"
            )
        return self._tape


@contextmanager
def capture() -> Iterator[Steps]:
    """Take the steps of the block down as tapes, for which plans can be made.

    What ops would otherwise make again in the sweep as they go is kept meanwhile, for the planner to decide: the peak of
    the block may be above that of a step outside of it.

    Example:
        with bs.memory.capture() as steps:
            loss_of(model, batch).backward()
        for plan in steps.tape.ladder([2**20, 2**21]):
            print(plan)
    """
    steps = Steps()
    watch = _core.watch_steps()
    try:
        yield steps
    finally:
        steps._tape = watch.end()


def current_plan() -> Plan | None:
    """The plan that the latest step under a budget follows, or has followed to its end; None when it follows none."""
    return _core.current_plan()


def must_keep(x: Tensor) -> Tensor:
    """Keep the value of x under any budget, once it is saved; returns x.

    For a value that is dear to make again in ways that the cost model does not see. Without a budget it does nothing.
    """
    _core.hint_value(x, True)
    return x


def must_drop(x: Tensor) -> Tensor:
    """Under a budget, let the value of x be the first to be dropped; returns x."""
    _core.hint_value(x, False)
    return x


class Recording:
    """The block events of a `record()` block, once it has ended."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int, int, str]] = []
        self._peak: list[dict[str, Any]] = []

    def at_peak(self) -> list[dict[str, Any]]:
        """The blocks alive at the peak of the recording."""
        return self._peak


@contextmanager
def record() -> Iterator[Recording]:
    """Keep every block event of the block, so that its peak can be taken apart."""
    recording = Recording()
    _core.record_start()
    try:
        yield recording
    finally:
        recording._peak, recording.events = _core.record_stop()


def bill(blocks: list[dict[str, Any]]) -> dict[str, Any]:
    """Blocks summed by category, and the ten largest holders by category, module and op."""
    by_category = dict.fromkeys(CATEGORIES, 0)
    holders: dict[tuple[str, str, str], list[int]] = {}
    for block in blocks:
        by_category[block["category"]] += block["bytes"]
        holder = holders.setdefault((block["category"], block["module"], block["op"]), [0, 0])
        holder[0] += block["bytes"]
        holder[1] += 1
    largest = sorted(holders.items(), key=lambda item: (-item[1][0], item[0]))[:10]
    return {
        "total": sum(by_category.values()),
        "by_category": by_category,
        "largest": [
            {"bytes": size, "blocks": count, "category": category, "module": module, "op": op}
            for (category, module, op), (size, count) in largest
        ],
    }


@dataclass(frozen=True)
class Forecast:
    """What a step will need: its peak in bytes, by category, and the ten largest holders at that moment."""

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
        lines = [f"Forecast: a peak of {format_bytes(self.peak)} ({self.peak:,} bytes)"]
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
    peak is that of the real step to the byte, with all that is alive around it, on this machine's number of threads. Every
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
    peak, blocks = _on_paper(lambda: step(*args, **kwargs))
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
        with capture() as steps:
            _on_paper(lambda: step(*args, **kwargs))
        return steps.tape

    return Forecast(peak, by_category, rows, tape)


def _on_paper(step: Callable[[], Any]) -> tuple[int, list[dict[str, Any]]]:
    """Run a step on shapes alone; return its peak and the blocks alive at it."""
    state = _core.rng_state()
    kept = [(owner, _copied(vars(owner))) for owner in stateful]
    running = _core.begin_forecast()
    try:
        step()
    finally:
        for owner, attributes in kept:
            _restore(vars(owner), attributes)
        _core.set_rng_state(*state)
        peak, blocks = running.end()
    return peak, blocks


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


def format_bytes(amount: int) -> str:
    """1536 → 1.5 KiB"""
    value, unit = float(amount), "B"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if value < 1024:
            break
        value, unit = value / 1024, larger
    return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"


def bill_text(bill: dict[str, Any]) -> str:
    """A bill as a table for a terminal."""
    total = max(bill["total"], 1)
    lines = [f"memory at the peak of a step: {format_bytes(bill['total'])} ({bill['total']:,} bytes)"]
    for category, size in sorted(bill["by_category"].items(), key=lambda item: -item[1]):
        if size:
            lines.append(f"  {category:12} {format_bytes(size):>10}  {100 * size / total:5.1f} %")
    lines.append("the largest holders")
    for row in bill["largest"]:
        where = f"{row['category']} of {row['op'] or '-'} in {row['module'] or '-'}"
        lines.append(f"  {format_bytes(row['bytes']):>10}  {where} ({row['blocks']} blocks)")
    return "\n".join(lines)
