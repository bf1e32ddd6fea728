"""What a byte budget costs: planned for nine networks (layer a), and executed on the workloads (layer b).

    python benches/memory.py --layer a [--networks vgg16,unet] [--json]
    python benches/memory.py --layer b [--workloads gpt-cpu,resnet20] [--shares 0.75,0.5] [--steps 6] [--json]
    python benches/memory.py --layer b --half --workloads gpt-baby,resnet18
    python benches/memory.py --layer lean [--workloads resnet20] [--steps 30] [--peer-python PATH]
    python benches/memory.py --layer plan
    python benches/memory.py --layer ledger [--workloads gpt-cpu] [--steps 30]

Each row ends with "pass", or with "SHORT" and what it falls short of; the exit code is 1 where one does.

Layer a: plans of our engine's tapes, by simulation, beside the methods of others on the same tapes. A budget is what is alive
when the step begins plus a share of the rest of its peak. It fails where another method is cheaper, or goes lower.

Layer b: the peak of a step without a budget is measured; then the same steps run under shares of that peak, and under the
least budget that there is a plan for. A row passes when the peak stayed within the budget, every gradient and loss has the
same bits, and the plan (without a budget: the forecast) had foretold the peak to the byte. Seconds are of steps with the
budget and without, in turns. A budget below the least is refused, and so it should be. With --half there are two budgets
instead. "half" leaves out half of the activations of a step in which nothing is dropped, one that keeps all that its ops save as
other engines do. Such a step may take at most 1.1 times as long as one without a budget. "leaner" goes further, and its time is
shown without a verdict: it leaves out half of what is kept without a budget, when what is cheap to make again is not kept to
begin with. What is left to drop there are outputs of products and convolutions, whose making again is a share of the step that
no plan avoids.

Layer lean: bytes kept for the sweep, beside PyTorch's; and seconds of a step, with every saved value kept and as the engine
does it, in turns.

Layer plan: seconds from a tape of 5,000 ops to the first plan that fits, and to the plan that is used from then on. A budget is
the least plus a share of what lies between it and the peak.

Layer ledger: what the ledger and a recording of every event take of a step. The ledger cannot be turned off; its share is the
number of its events in a step times what one takes, measured on a ledger of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import backsweep as bs
import backsweep.nn.functional as F
import tapes
from backsweep import nn, optim
from peers import Worker
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

    def tape(self) -> bs.memory.Tape:
        """A step as it is once the optimizer has its state."""
        with bs.memory.capture() as steps:
            self.run(2, None)
        return steps.tape

    def step(self) -> None:
        """The first batch's step, by itself."""
        self.optimizer.zero_grad()
        self.loss_of(self.model, *self.batches[0]).backward()
        self.optimizer.step()

    def run(self, steps: int, budget: int | None) -> dict[str, Any]:
        """Steps under a budget: median seconds of the last ones, the peak, and a fingerprint of every gradient."""
        seconds, fingerprints, peaks, losses, predicted = [], [], [], [], []
        plan, kept = None, 0
        for step in range(steps):
            x, y = self.batches[step % len(self.batches)]
            bs.memory.reset_peak()
            start = time.perf_counter()
            with bs.memory.budget(budget) if budget else contextlib.nullcontext():
                self.optimizer.zero_grad()
                loss = self.loss_of(self.model, x, y)
                kept = bs.memory.stats()["activation"]
                loss.backward()
                self.optimizer.step()
            seconds.append(time.perf_counter() - start)
            peaks.append(bs.memory.stats()["peak"])
            plan = bs.memory.current_plan() if budget else None
            predicted.append(plan.peak if plan else None)
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
            "activation": kept,
            "recompute": plan.recompute / plan.base if plan else 0.0,
        }

    def in_turns(self, rounds: int, budget: int | None) -> tuple[float, float, float]:
        """Median seconds of a step under the budget and of one without, and the median ratio of two that follow each other."""
        pairs = [(self.run(1, budget)["seconds"], self.run(1, None)["seconds"]) for _ in range(rounds)]
        return (
            statistics.median(pair[0] for pair in pairs),
            statistics.median(pair[1] for pair in pairs),
            statistics.median(under / free for under, free in pairs),
        )


def executed(name: str, shares: list[float], steps: int, *, half: bool) -> list[dict[str, Any]]:
    """The rows of one workload."""
    workload = WORKLOADS[name]

    def fresh() -> Training:
        """After one step, so that the optimizer has its state."""
        training = Training(workload)
        training.step()
        return training

    training = fresh()
    base = training.run(steps, None)
    tape = training.tape()
    del training
    gc.collect()
    least = tape.least().peak
    peak = base["peak"]
    budgets = [(f"{share:.2f}", int(peak * share)) for share in shares]
    budgets.append(("least", least))
    if half:
        usual = bs._core.set_lean_share(0.0)
        whole = fresh().run(steps, None)
        bs._core.set_lean_share(usual)
        gc.collect()
        budgets = [
            ("half", whole["peak"] - whole["activation"] // 2),
            ("leaner", peak - base["activation"] // 2),
        ]
    rows = []
    for label, budget in [("none", None), *budgets]:
        training = fresh()
        row: dict[str, Any] = {"workload": name, "share": label, "budget": budget, "base_peak": peak, "least": least}
        try:
            run = training.run(steps, budget)
            seconds, beside, ratio = training.in_turns(4 * steps if half else steps, budget)
        except bs.OutOfMemoryError as error:
            rows.append({**row, "feasible": False, "error": str(error).splitlines()[0]})
            continue
        finally:
            del training
            gc.collect()
        foretold = [(p, q) for p, q in zip(run["peaks"], run["predicted"], strict=True) if q is not None]
        if budget is None:
            foretold = [forecast_and_peak(workload)]
        rows.append(
            {
                **row,
                "feasible": True,
                "peak": run["peak"],
                "kept": budget is None or run["peak"] <= budget,
                "same_bits": run["fingerprints"] == base["fingerprints"] and run["losses"] == base["losses"],
                "planned_steps": len(foretold),
                "off": max((abs(p - q) for p, q in foretold), default=0),
                "seconds": seconds,
                "base_seconds": beside,
                "ratio": ratio,
                "recompute": run["recompute"],
            }
        )
    return rows


def forecast_and_peak(workload: Workload) -> tuple[int, int]:
    """What is foretold of a step without a budget, and its peak."""
    training = Training(workload)
    training.step()
    told = bs.memory.forecast(training.step).peak
    bs.memory.reset_peak()
    training.step()
    return told, bs.memory.stats()["peak"]


HALF_TIME = 1.10


def show(row: dict[str, Any]) -> str:
    head = f"{row['workload']:10} {row['share']:>6}"
    if not row["feasible"]:
        verdict = "pass" if passed(row) else "SHORT"
        return (
            f"{head} {row['budget'] / 2**20:9.2f} MiB  refused; the least is {row['least'] / 2**20:.2f} MiB  {verdict}"
        )
    budget = "" if row["budget"] is None else f"{row['budget'] / 2**20:.2f} MiB"
    foretold = f"{row['planned_steps']} steps planned, {row['off']} B off" if row["budget"] else f"{row['off']} B off"
    return (
        f"{head} {budget:>13}  peak {row['peak'] / 2**20:9.2f} MiB  {1e3 * row['seconds']:9.2f} ms  "
        f"× {row['ratio']:5.3f} (planned {1 + row['recompute']:.3f})  {foretold}  {'pass' if passed(row) else 'SHORT'}"
    )


def passed(row: dict[str, Any]) -> bool:
    if not row["feasible"]:
        return row["budget"] < row["least"]
    quick = row.get("share") != "half" or row["ratio"] <= HALF_TIME
    return row["kept"] and row["same_bits"] and row["off"] == 0 and quick


SHARES = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
OURS = "backsweep"


def planned(name: str) -> dict[str, Any]:
    """One network: by budget and method, what share of the step is computed again; and how low each method goes."""
    tape = tapes.tape(name)
    budgets = [tape.base + int((tape.peak - tape.base) * share) for share in SHARES]
    ladder = dict(zip(budgets, tape.ladder(budgets), strict=True))
    cells: list[dict[str, Any]] = []
    least: dict[str, int] = {}
    for budget in budgets:
        found = tape.methods(budget)
        plan = ladder[budget]
        found[OURS] = None if plan is None else (plan.peak, plan.recompute)
        for method, result in found.items():
            if result is not None and result[0] <= budget:
                least[method] = min(least.get(method, result[0]), result[0])
        cells.append({m: None if r is None else r[1] / tape.seconds for m, r in found.items()})
    # Between the lowest budget where some method had a plan and the next, each may go lower yet.
    for method in [m for m in least if m != OURS]:
        low, high = tape.bound(), least[method]
        for _ in range(8):
            middle = (low + high) // 2
            result = tape.methods(middle, [method])[method]
            low, high = (middle, high) if result is None else (low, min(result[0], middle))
        least[method] = high
    least[OURS] = tape.least().peak
    return {
        "network": name, "ops": len(tape), "base": tape.base, "peak": tape.peak, "bound": tape.bound(),
        "budgets": budgets, "cells": cells, "least": least,
    }  # fmt: skip


def wrong(row: dict[str, Any]) -> list[str]:
    """Where another method is better than ours."""
    found = []
    for budget, cell in zip(row["budgets"], row["cells"], strict=True):
        for method, value in cell.items():
            if value is not None and (cell[OURS] is None or cell[OURS] > value * (1 + 1e-9)):
                found.append(f"{row['network']}: {method} takes {value:.4f} at {budget}, ours {cell[OURS]}")
    for method, size in row["least"].items():
        if size < row["least"][OURS]:
            found.append(f"{row['network']}: {method} goes down to {size}, ours to {row['least'][OURS]}")
    return found


def show_plans(row: dict[str, Any]) -> str:
    methods = sorted(row["cells"][0], key=lambda m: m != OURS)
    lines = [f"{row['network']}: {row['ops']} ops, {row['base']:,} of {row['peak']:,} bytes are there before the step"]
    lines.append("  budget " + "".join(f"{m:>13}" for m in methods))
    for share, cell in zip(SHARES, row["cells"], strict=True):
        values = ("-" if cell[m] is None else f"{100 * cell[m]:.2f} %" for m in methods)
        lines.append(f"  {share:6.1f} " + "".join(f"{v:>13}" for v in values))
    part = row["peak"] - row["base"]
    lowest = (f"{(row['least'][m] - row['base']) / part:.3f}" if m in row["least"] else "-" for m in methods)
    lines.append(
        "   least " + "".join(f"{v:>13}" for v in lowest) + f"   (bound {(row['bound'] - row['base']) / part:.3f})"
    )
    complaints = wrong(row)
    lines += [f"  SHORT: {text}" for text in complaints]
    lines += [] if complaints else ["  pass: no method is cheaper at a budget, or lower"]
    return "\n".join(lines)


# At most this share of what PyTorch keeps.
KEPT = {"tiny": 1.0, "mlp": 1.0}
KEPT_USUALLY = 0.85


def kept_by_torch(name: str, python: str) -> int | None:
    """Bytes of the storages that autograd saves in a forward, as `peers.py` counts them; None without torch."""
    worker = Worker("torch", WORKLOADS[name], python, os.cpu_count() or 1)
    kept = None if worker.missing else worker.ask("kept")
    worker.close()
    return kept


def lean(name: str, rounds: int, python: str) -> dict[str, Any]:
    """Bytes kept and median seconds, with everything kept and as it is, step by step in turns."""
    training = Training(WORKLOADS[name])
    training.run(2, None)
    usual = bs._core.set_lean_share(0.0)
    runs: dict[float, list[dict[str, Any]]] = {0.0: [], usual: []}
    for _ in range(rounds):
        for share, list_of in runs.items():
            bs._core.set_lean_share(share)
            list_of.append(training.run(1, None))
    bs._core.set_lean_share(usual)
    seconds = {share: statistics.median(r["seconds"] for r in rows) for share, rows in runs.items()}
    kept = {share: rows[-1]["activation"] for share, rows in runs.items()}
    pairs = zip(*(row_list for row_list in runs.values()), strict=True)
    ratios = [after["seconds"] / before["seconds"] for before, after in pairs]
    return {
        "workload": name, "kept": kept[usual], "all": kept[0.0], "torch": kept_by_torch(name, python),
        "seconds": seconds[usual], "all_seconds": seconds[0.0], "ratio": statistics.median(ratios),
    }  # fmt: skip


def lean_passed(row: dict[str, Any]) -> bool:
    return row["torch"] is None or row["kept"] <= KEPT.get(row["workload"], KEPT_USUALLY) * row["torch"]


def show_lean(row: dict[str, Any]) -> str:
    text = f"{row['workload']:10} keeps {row['kept']:12,} bytes; all: {row['all']:12,}, at × {row['ratio']:.3f} the time of that"
    if row["torch"] is None:
        return text + "; torch is not there"
    share, most = row["kept"] / row["torch"], KEPT.get(row["workload"], KEPT_USUALLY)
    return text + f"; torch: {row['torch']:12,}, × {share:.3f}  {'pass' if lean_passed(row) else f'SHORT of {most}'}"


FIRST_PLAN_SECONDS, PLAN_SECONDS = 0.05, 2.0


def long_tape(kind: str) -> bs.memory.Tape:
    """A step of about 5,000 ops, on shapes alone."""

    def blocks() -> bs.Tensor:
        width = 32
        layers = [[nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.Linear(4 * width, width)] for _ in range(500)]
        x = bs.zeros(64, width)
        for norm, up, down in layers:
            x = x + down(F.gelu(up(norm(x))))
        return x

    def cells() -> bs.Tensor:
        cell = nn.LSTMCell(32, 32)
        x, state = bs.zeros(16, 32), (bs.zeros(16, 32), bs.zeros(16, 32))
        weight = nn.Linear(64, 128)
        for _ in range(208):
            i, f, g, o = weight(bs.cat([x, state[0]], 1)).chunk(4, 1)
            c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
            state = (o.sigmoid() * c.tanh(), c)
        del cell
        return state[0]

    def step() -> None:
        {"blocks": blocks, "cells": cells}[kind]().square().mean().backward()

    return bs.memory.forecast(step).tape()


def timed(kind: str) -> list[dict[str, Any]]:
    tape = long_tape(kind)
    rows = []
    least = tape.least().peak
    for share in (0.7, 0.5, 0.3, 0.0):
        budget = least + int((tape.peak - least) * share)
        start = time.perf_counter()
        tape.plan(budget, quick=True)
        first = time.perf_counter()
        plan = tape.plan(budget)
        end = time.perf_counter()
        rows.append(
            {
                "tape": kind, "ops": len(tape), "share": share, "first": first - start, "full": end - first,
                "recompute": plan.recompute / plan.base,
            }
        )  # fmt: skip
    return rows


def timed_passed(row: dict[str, Any]) -> bool:
    return row["first"] <= FIRST_PLAN_SECONDS and row["full"] <= PLAN_SECONDS


def show_timed(row: dict[str, Any]) -> str:
    return (
        f"{row['tape']:10} {row['ops']} ops, budget {row['share']}: first plan in {1e3 * row['first']:6.1f} ms, "
        f"plan in {row['full']:.2f} s, {100 * row['recompute']:.2f} % more computing  "
        f"{'pass' if timed_passed(row) else 'SHORT'}"
    )


LEDGER_SHARE = 0.02


def ledger(name: str, rounds: int) -> dict[str, Any]:
    """Seconds of a step without and with a recording of its events, in turns; and the ledger's part of it."""
    training = Training(WORKLOADS[name])
    training.run(3, None)
    before = bs.memory.stats()["allocations"]
    training.step()
    pairs = bs.memory.stats()["allocations"] - before
    watches: dict[str, Callable[[], Any]] = {
        "plain": contextlib.nullcontext, "recording": bs.memory.record, "profiling": bs.profiler.profile
    }  # fmt: skip
    seconds: dict[str, list[float]] = {watch: [] for watch in watches}
    for _ in range(rounds):
        for watch, begin in watches.items():
            with begin():
                start = time.perf_counter()
                training.step()
                seconds[watch].append(time.perf_counter() - start)
    a_pair = statistics.median(bs._core.ledger_seconds(10_000) for _ in range(20)) / 10_000
    step = statistics.median(seconds["plain"])

    def more(watch: str) -> float:
        return statistics.median(b / a for a, b in zip(seconds["plain"], seconds[watch], strict=True)) - 1

    return {
        "workload": name, "pairs": pairs, "a_pair": a_pair, "step": step, "ledger": pairs * a_pair / step,
        "recording": more("recording"), "profiling": more("profiling"),
    }  # fmt: skip


def ledger_passed(row: dict[str, Any]) -> bool:
    return row["ledger"] + max(row["recording"], row["profiling"], 0.0) <= LEDGER_SHARE


def show_ledger(row: dict[str, Any]) -> str:
    return (
        f"{row['workload']:10} {1e3 * row['step']:.2f} ms a step; ledger: {row['pairs']} blocks at {1e9 * row['a_pair']:.0f} ns, "
        f"{100 * row['ledger']:.2f} %; recording {100 * row['recording']:+.2f} %, profiling {100 * row['profiling']:+.2f} %  "
        f"{'pass' if ledger_passed(row) else 'SHORT'}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layer", choices=["a", "b", "lean", "plan", "ledger"], default="b")
    parser.add_argument("--networks", default=",".join(tapes.NETWORKS))
    parser.add_argument("--workloads", default=None)
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter that has torch")
    parser.add_argument("--shares", default="0.75,0.5,0.3")
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    failures: list[str] = []

    def add(row: dict[str, Any], text: Callable[[dict[str, Any]], str]) -> None:
        rows.append(row)
        if not options.json:
            print(text(row), flush=True)

    if options.layer == "a":
        for name in options.networks.split(","):
            add(planned(name), show_plans)
            failures += wrong(rows[-1])
    if options.layer == "plan":
        for row in timed("blocks") + timed("cells"):
            add(row, show_timed)
            failures += [] if timed_passed(row) else [show_timed(row)]
    usual = {"b": list(WORKLOADS), "lean": list(WORKLOADS), "ledger": ["gpt-cpu"]}.get(options.layer, [])
    for name in options.workloads.split(",") if options.workloads and usual else usual:
        if options.layer == "lean":
            add(lean(name, options.steps, options.peer_python), show_lean)
            failures += [] if lean_passed(rows[-1]) else [show_lean(rows[-1])]
            continue
        if options.layer == "ledger":
            add(ledger(name, options.steps), show_ledger)
            failures += [] if ledger_passed(rows[-1]) else [show_ledger(rows[-1])]
            continue
        for row in executed(name, [float(s) for s in options.shares.split(",")], options.steps, half=options.half):
            add(row, show)
            failures += [] if passed(row) else [show(row)]
    print(json.dumps(rows, indent=1) if options.json else "\n".join(failures or ["all rows pass"]))
    return 1 if failures else 0


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore")
    sys.exit(main())
