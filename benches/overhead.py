"""What an operation costs beyond its arithmetic: time a recorded op, bytes a node, a step of a tiny model.

    python benches/overhead.py [--peer-python PATH] [--json FILE]

Each library is measured in a process of its own; torch is left out where the peer's interpreter has none.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from worker import Eager
from workloads import WORKLOADS

CHAIN = 50
NODES = 1_000_000
UNITS = {"_ns": "ns", "_us": "µs", "_s": "s", "_bytes": "bytes"}


def repeat_seconds(work: Callable[[], object], rounds: int = 15, at_least: float = 0.02) -> float:
    """The median over rounds of the mean time of `work`."""
    start = time.perf_counter()
    work()
    count = max(1, round(at_least / max(time.perf_counter() - start, 1e-7)))
    turns = []
    for _ in range(rounds):
        start = time.perf_counter()
        for _ in range(count):
            work()
        turns.append((time.perf_counter() - start) / count)
    return median(turns)


def resident_bytes() -> int:
    """The process's resident memory, as the system sees it; 0 where there is no /proc."""
    path = Path("/proc/self/statm")
    return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.exists() else 0


def chain(x: Any, constant: Any, length: int) -> Any:
    y = x
    for _ in range(length):
        y = y + constant
    return y


def long_chain(x: Any, constant: Any) -> dict[str, float]:
    """Build, sweep and drop a chain of a million additions, which save nothing: what is left is the graph."""
    before = resident_bytes()
    start = time.perf_counter()
    y = chain(x, constant, NODES)
    built = time.perf_counter()
    held = resident_bytes() - before
    y.sum().backward()
    swept = time.perf_counter()
    del y
    y = chain(x, constant, NODES)
    start_drop = time.perf_counter()
    del y
    return {
        "million_build_s": built - start,
        "million_sweep_s": swept - built,
        "million_drop_s": time.perf_counter() - start_drop,
        "resident_a_node_bytes": held / NODES,
    }


def measure(library: str) -> dict[str, float]:
    """Every figure of one library; the name of a figure ends with its unit."""
    lib = importlib.import_module(library)
    x = lib.ones(4).requires_grad_(True)
    constant = lib.ones(4)

    def recorded_chain() -> Any:
        return chain(x, constant, CHAIN)

    def swept_chain() -> None:
        x.grad = None
        chain(x, constant, CHAIN).sum().backward()

    session = Eager(library, WORKLOADS["tiny"])
    batch = session.batches[0]
    return {
        "unrecorded_op_ns": 1e9 * repeat_seconds(lambda: chain(constant, constant, CHAIN)) / CHAIN,
        "recorded_op_ns": 1e9 * repeat_seconds(recorded_chain) / CHAIN,
        "forward_and_backward_an_op_ns": 1e9 * repeat_seconds(swept_chain) / CHAIN,
        "tiny_step_us": 1e6 * repeat_seconds(lambda: session.step(*batch)),
        **long_chain(x, constant),
    }


def ask(python: str, library: str) -> dict[str, float] | None:
    """Measure in a process of the given interpreter; None where the library is missing."""
    run = subprocess.run(
        [python, __file__, "--measure", library], stdout=subprocess.PIPE, text=True, check=False
    )
    if run.returncode != 0:
        print(f"{library} left out")
        return None
    return dict(json.loads(run.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description="What an operation costs beyond its arithmetic.")
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter that has torch")
    parser.add_argument("--json", type=Path, help="write every figure there")
    parser.add_argument("--measure", choices=("backsweep", "torch"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        try:
            print(json.dumps(measure(options.measure)))
        except ImportError as error:
            sys.exit(str(error))
        return
    asked = {"backsweep": ask(sys.executable, "backsweep"), "torch": ask(options.peer_python, "torch")}
    figures = {library: found for library, found in asked.items() if found is not None}
    for name in next(iter(figures.values()), {}):
        unit = next(text for ending, text in UNITS.items() if name.endswith(ending))
        row = "  ".join(f"{library} {found[name]:10.2f} {unit}" for library, found in figures.items())
        print(f"{name.rpartition('_')[0].replace('_', ' '):32} {row}")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
