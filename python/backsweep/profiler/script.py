"""Running a script as Python itself would: its name, its arguments, its folder first on the path."""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType


class Script:
    """A file, or with `module` the name of a module, and its arguments."""

    def __init__(self, name: str, arguments: Sequence[str], *, module: bool = False) -> None:
        self.name, self.arguments, self.module = name, list(arguments), module

    @property
    def stem(self) -> str:
        """A name for files about it."""
        return self.name.rpartition(".")[2] if self.module else Path(self.name).stem

    def missing(self) -> str | None:
        """What is wrong with a file's name, if anything is."""
        if self.module or Path(self.name).is_file():
            return None
        if Path(self.name).is_dir():
            return f"'{self.name}' is a folder; a file is needed, or -m and the name of a module"
        return f"there is no script '{self.name}'"

    def run(self) -> None:
        """Run it as `__main__`."""
        before = sys.argv, sys.path[:]
        sys.argv = [self.name, *self.arguments]
        sys.path[0:1] = [os.getcwd() if self.module else str(Path(self.name).absolute().parent)]
        try:
            if self.module:
                runpy.run_module(self.name, run_name="__main__", alter_sys=True)
            else:
                runpy.run_path(self.name, run_name="__main__")
        finally:
            sys.argv, sys.path[:] = before

    @staticmethod
    def status(action: Callable[[], object]) -> int:
        """Do something that runs it; tell of its errors as Python would, and return its exit status."""
        try:
            action()
        except SystemExit as end:
            if end.code is None or isinstance(end.code, int):
                return end.code or 0
            print(end.code, file=sys.stderr)
            return 1
        except BaseException as error:
            traceback.print_exception(type(error), error, _own_frames(error.__traceback__))
            return 130 if isinstance(error, KeyboardInterrupt) else 1
        return 0


def _own_frames(trace: TracebackType | None) -> TracebackType | None:
    """The frames of the script: those of this command say nothing about it."""
    here = str(Path(__file__).parent)
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if not file.startswith((here, "<frozen")):
            return trace
        trace = trace.tb_next
    return None
