"""What the memory bill costs: the ledger, which is always on, and a full capture of the profiler, on a training step.

    python benches/recording.py [--workload gpt-cpu] [--pairs 30] [--json]

The ledger cannot be switched off, so its share is bounded from above: each allocation of a step is charged with the time of
a whole op on four elements, which contains its entry in the ledger, its tag, its line, and much besides. The capture is
measured: steps with and without it in turns, the fastest of each.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import backsweep as bs
from backsweep.profiler import profile
from backsweep.profiler.capture import PRESENT
from overhead import CHAIN, chain, repeat_seconds
from worker import Eager
from workloads import WORKLOADS


def measure(name: str, pairs: int) -> dict[str, Any]:
    session = Eager("backsweep", WORKLOADS[name])
    batches = session.batches

    def timed(i: int) -> float:
        start = time.perf_counter()
        session.step(*batches[i % len(batches)])
        return time.perf_counter() - start

    for i in range(3):
        timed(i)
    before = bs.memory.stats()["allocations"]
    timed(0)
    allocations = bs.memory.stats()["allocations"] - before
    plain, captured, events = [], [], 0
    for i in range(pairs):
        plain.append(timed(i))
        with profile() as prof:
            captured.append(timed(i))
        events = int((prof.capture.events["kind"] != PRESENT).sum())
    constant = bs.ones(4)
    op = repeat_seconds(lambda: chain(constant, constant, CHAIN)) / CHAIN
    step = min(plain)
    return {
        "workload": name,
        "step_seconds": step,
        "allocations": allocations,
        "small_op_seconds": op,
        "ledger_share_at_most": allocations * op / step,
        "events": events,
        "capture_share": min(captured) / step - 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workload", default="gpt-cpu", choices=sorted(WORKLOADS))
    parser.add_argument("--pairs", type=int, default=30, metavar="N")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    row = measure(options.workload, options.pairs)
    if options.json:
        print(json.dumps(row))
        return
    print(
        f"{row['workload']}: step {1e3 * row['step_seconds']:.2f} ms, {row['allocations']} allocations; ledger at most "
        f"{100 * row['ledger_share_at_most']:.2f} % (a small op takes {1e9 * row['small_op_seconds']:.0f} ns); "
        f"full capture {100 * row['capture_share']:+.2f} %, {row['events']} events a step"
    )


if __name__ == "__main__":
    main()
