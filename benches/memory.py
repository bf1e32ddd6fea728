"""Budgets executed: step time, peak and gradients of the workloads under byte budgets.

    python benches/memory.py --layer b [--workloads gpt-cpu,resnet20] [--shares 0.75,0.5] [--steps 5] [--json]

For each workload the peak of a step without a budget is measured; then the same steps run under shares of that peak. A row
passes when the peak stayed within the budget and every gradient has the same bits. `of activations` budgets are the
bytes that stay (parameters, gradients, optimizer state, batch) plus a share of the rest.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import statistics
import sys
import time
from typing import Any

import numpy as np

import backsweep as bs
import backsweep.nn.functional as F
from backsweep import nn, optim
from workloads import WORKLOADS, Workload, initial_weights


class Training:
    """One workload's model, optimizer and batches."""

    def __init__(self, workload: Workload) -> None:
        bs.manual_seed(0)
        self.model = workload.build(bs, nn, F)
        shapes = {name: tuple(p.shape) for name, p in self.model.named_parameters()}
        with bs.no_grad():
            for name, weight in initial_weights(shapes).items():
                dict(self.model.named_parameters())[name].copy_(bs.from_numpy(weight))
        self.optimizer = getattr(optim, workload.optimizer)(self.model.parameters(), **dict(workload.settings))
        self.loss_of = workload.loss_function(F)
        self.batches = [(bs.from_numpy(x), bs.from_numpy(y)) for x, y in workload.batches(4)]

    def run(self, steps: int, budget: int | None) -> dict[str, Any]:
        """Steps under a budget: median seconds of the last ones, the peak, and a fingerprint of every gradient."""
        seconds, fingerprints, peaks, losses, predicted = [], [], [], [], []
        replayed = bs.memory.stats()["replayed_seconds"]
        for step in range(steps):
            x, y = self.batches[step % len(self.batches)]
            bs.memory.reset_peak()
            start = time.perf_counter()
            with bs.memory.budget(budget) if budget else contextlib.nullcontext():
                self.optimizer.zero_grad()
                loss = self.loss_of(self.model, x, y)
                loss.backward()
                self.optimizer.step()
            seconds.append(time.perf_counter() - start)
            peaks.append(bs.memory.stats()["peak"])
            plan = bs._core.current_plan() if budget else None
            predicted.append(plan["peak"] if plan else None)
            fingerprints.append([hash(p.grad.numpy().tobytes()) for p in self.model.parameters() if p.grad is not None])
            losses.append(loss.item())
            del loss
        return {
            "seconds": statistics.median(seconds[2:]) if steps > 2 else seconds[-1],
            "peak": max(peaks),
            "peaks": peaks,
            "predicted": predicted,
            "fingerprints": fingerprints,
            "losses": losses,
            "replayed_seconds": bs.memory.stats()["replayed_seconds"] - replayed,
        }


def executed(name: str, shares: list[float], steps: int) -> list[dict[str, Any]]:
    """The rows of one workload."""
    workload = WORKLOADS[name]
    base = Training(workload).run(steps, None)
    gc.collect()
    held = bs.memory.stats()["live"]
    rows = []
    for share in [1.0, *shares]:
        training = Training(workload)
        budget = held + int((base["peak"] - held) * share) if share < 1.0 else None
        row: dict[str, Any] = {"workload": name, "share": share, "budget": budget, "base_peak": base["peak"]}
        try:
            run = training.run(steps, budget)
        except bs.OutOfMemoryError as error:
            rows.append({**row, "feasible": False, "error": str(error).splitlines()[0]})
            continue
        finally:
            del training
            gc.collect()
        rows.append(
            {
                **row,
                "feasible": True,
                "peak": run["peak"],
                "peaks": run["peaks"],
                "predicted": run["predicted"],
                "kept": budget is None or run["peak"] <= budget,
                "same_bits": run["fingerprints"] == base["fingerprints"] and run["losses"] == base["losses"],
                "seconds": run["seconds"],
                "base_seconds": base["seconds"],
            }
        )
    return rows


def show(row: dict[str, Any]) -> str:
    head = f"{row['workload']:10} {row['share']:5.2f}"
    if not row["feasible"]:
        return f"{head} {row['budget'] / 2**20:9.2f} MiB  no plan: {row['error'][:90]}"
    budget = "none" if row["budget"] is None else f"{row['budget'] / 2**20:9.2f} MiB"
    verdict = "pass" if row["kept"] and row["same_bits"] else "FAIL"
    time_ratio = row["seconds"] / row["base_seconds"]
    return (
        f"{head} {budget:>13}  peak {row['peak'] / 2**20:9.2f} MiB  {1e3 * row['seconds']:9.2f} ms  "
        f"× {time_ratio:5.3f}  {verdict}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layer", choices=["b"], default="b")
    parser.add_argument("--workloads", default=",".join(WORKLOADS))
    parser.add_argument("--shares", default="0.75,0.5,0.3")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = []
    for name in options.workloads.split(","):
        for row in executed(name, [float(s) for s in options.shares.split(",")], options.steps):
            rows.append(row)
            if not options.json:
                print(show(row), flush=True)
    if options.json:
        print(json.dumps(rows, indent=1))
    return 0 if all(not r["feasible"] or (r["kept"] and r["same_bits"]) for r in rows) else 1


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    sys.exit(main())
