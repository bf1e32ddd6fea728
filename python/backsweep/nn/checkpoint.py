"""A module whose activations are dropped after its forward."""

from __future__ import annotations

from typing import Any

from ..checkpoint import checkpoint
from .module import Module


class Checkpoint(Module):
    """Call a module in a checkpointed region: see `backsweep.checkpoint`.

    Parameters keep their names below `module.`.
    """

    def __init__(self, module: Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module, and drop what it saved."""
        return checkpoint(self.module, *args, **kwargs)
