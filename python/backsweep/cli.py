"""The command line: `backsweep demo`, `backsweep profile`, `backsweep env`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["profile"]:
        # It has words and options of its own, and hands the rest to a script.
        from .profiler.command import main as profile

        return profile(given[1:])
    parser = argparse.ArgumentParser(prog="backsweep", description="Train neural networks, and know where every byte went.")
    commands = parser.add_subparsers(dest="command", required=True)

    demo = commands.add_parser("demo", help="train a small language model on text that every Python carries")
    demo.add_argument("--data", metavar="FILE", help="train on this text file instead")
    demo.add_argument("--steps", type=_positive, default=500, metavar="N", help="training steps (default 500)")
    demo.add_argument("--device", default="cpu", metavar="D", help="where to train: cpu, gpu, gpu:1 … or auto (default cpu)")
    demo.add_argument("--seed", type=int, default=1337, metavar="N", help="seed of weights and batches (default 1337)")
    demo.add_argument("--out", default="backsweep-demo", metavar="DIR", help="folder for weights and report")
    demo.add_argument("--json", action="store_true", help="print the report as JSON on standard output")
    demo.add_argument("--quiet", action="store_true", help="no progress and no tables")

    commands.add_parser("profile", help="say where the memory of a script goes, and of what a capture holds", add_help=False)

    env = commands.add_parser("env", help="say what this machine offers")
    env.add_argument("--json", action="store_true", help="as JSON")

    options = parser.parse_args(given)
    if options.command == "env":
        return _env(options.json)
    from . import demo as running

    return running.run(options)


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} steps; one or more are needed")
    return int(text)


def _gpus(found: list[dict[str, str]]) -> dict[str, str]:
    from . import _core

    if not found:
        return {"gpu": "none: " + _core.why_no_gpu()}
    return {gpu["name"]: f"{gpu['adapter']} ({gpu['kind']}, {gpu['backend']}, {gpu['driver']})" for gpu in found}


def _env(as_json: bool) -> int:
    import platform

    import numpy

    import backsweep as bs

    facts = {
        "backsweep": bs.__version__,
        "python": platform.python_version(),
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        **bs.cpu_info(),
        **_gpus(bs.devices()[1:]),
    }
    if as_json:
        json.dump(facts, sys.stdout, indent=2)
        print()
    else:
        for name, value in facts.items():
            print(f"{name:12} {value}")
    return 0
