"""Caps on the bill: a hard limit, and a budget that the engine keeps by dropping activations and making them again."""

from __future__ import annotations

from .. import _core
from .._core import Plan, Tensor
from .sizes import parse_bytes


class limit:
    """A hard cap on the live bytes of a device, until `limit(None)` lifts it or, used with `with`, the block ends.

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
    """A cap on the live bytes of a device that the engine keeps by dropping activations and computing them again, bit for bit.

    Used with `with`, around unchanged training code. Gradients, losses, running statistics and random draws are those of the
    run without it. What is recorded outside the block is never dropped. Without `device` it caps the CPU's memory, wherever the
    training is; one device at a time has a budget.

    Raises: OutOfMemoryError when nothing that could be dropped is left, here or at any allocation; the state is then as it
    was before that call. ValueError when `amount` is no size above zero. DeviceError when there is no such device. GraphError
    inside a budget, or a capture, of another device.

    Example:
        with bs.memory.budget("512 MiB"):
            loss = model(x).square().mean()
            loss.backward()
            optimizer.step()
    """

    def __init__(self, amount: int | str, device: str = "cpu") -> None:
        self.amount, self.device = parse_bytes(amount), device
        self._entered: list[_core.Budget] = []

    def __enter__(self) -> budget:
        self._entered.append(_core.set_budget(self.amount, self.device))
        return self

    def __exit__(self, *exception: object) -> None:
        self._entered.pop().restore()


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
