"""What this machine can do at most: multiply-adds a second for each instruction set, and bytes a second.

The native module measures both on all threads of its pool (`_core.roofline`). Without it NumPy measures the
bandwidth alone, on as many threads, and there is no arithmetic peak. Run as a command, it prints the table.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

LEVELS = ("neon", "plain") if platform.machine() in ("aarch64", "arm64") else ("avx512", "avx2", "plain")


def measure() -> dict[str, Any]:
    """{"fma_flops": FLOP/s or None, "triad_bytes": bytes/s, "source": who measured} at the level in force."""
    try:
        from backsweep._core import roofline
    except ImportError:
        return {"fma_flops": None, "triad_bytes": numpy_triad(os.cpu_count() or 1), "source": "numpy"}
    return {**roofline(), "source": "backsweep"}


def numpy_triad(threads: int, words: int = 1 << 24, rounds: int = 7) -> float:
    """Bytes a second of a = b + c over arrays far larger than the caches, the best of some rounds."""
    rows = [[np.ones(words // threads, np.float32) for _ in range(3)] for _ in range(threads)]
    seconds = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(rounds):
            start = time.perf_counter()
            list(pool.map(lambda row: np.add(row[1], row[2], out=row[0]), rows))
            seconds.append(time.perf_counter() - start)
    return 3 * 4 * words / min(seconds)


def measure_level(level: str) -> dict[str, Any]:
    """Measure in a process of its own, since the level is fixed once a process has started."""
    environment = {**os.environ, "BACKSWEEP_SIMD": level}
    run = subprocess.run(
        [sys.executable, __file__, "--here"], env=environment, capture_output=True, text=True, check=True
    )
    return dict(json.loads(run.stdout))


def main() -> None:
    if "--here" in sys.argv:
        print(json.dumps(measure()))
        return
    for level in LEVELS:
        peak = measure_level(level)
        flops = "–" if peak["fma_flops"] is None else f"{peak['fma_flops'] / 1e9:.0f}"
        bandwidth = peak["triad_bytes"] / 1e9
        print(f"{level:8} {flops:>6} GFLOP/s  {bandwidth:6.1f} GB/s  ({peak['source']})")
        if peak["source"] == "numpy":
            break


if __name__ == "__main__":
    main()
