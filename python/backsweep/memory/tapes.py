"""Steps taken down as tapes, for which plans can be made."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from .. import _core, errors
from .._core import Tape


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
def capture(device: str = "cpu") -> Iterator[Steps]:
    """Take the steps of the block down as tapes, with the bytes of a device's memory, for which plans can be made.

    What ops would otherwise make again in the sweep as they go is kept meanwhile, for the planner to decide: the peak of
    the block may be above that of a step outside of it.

    Example:
        with bs.memory.capture() as steps:
            loss_of(model, batch).backward()
        for plan in steps.tape.ladder([2**20, 2**21]):
            print(plan)
    """
    steps = Steps()
    watch = _core.watch_steps(device)
    try:
        yield steps
    finally:
        steps._tape = watch.end()
