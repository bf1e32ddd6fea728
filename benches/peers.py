"""Training steps of backsweep beside its peers, alternating in one run.

    python benches/peers.py [--workloads tiny,mlp] [--peers torch,torch_fused,compile,jax] [--rounds 9]
                            [--peer-python PATH] [--threads N] [--json FILE] [--check]

Every library runs in a process of its own (worker.py) from the same weights and batches, on the same number
of threads, and in turns: while one steps, the others sleep. Losses must agree step by step; the exit code is
1 if they do not. With `--check` a table of goals follows, each with `pass` or `short`, and the exit code is 1
too if a workload is slower than eager torch by more than `SLOWEST_ALLOWED`: goals are aims, that is a floor.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import roofline
from workloads import WORKLOADS, Workload

OURS = "backsweep"
PEERS = ("torch", "torch_fused", "compile", "jax")
SLOWEST_ALLOWED = 1.5
TURN_SECONDS = 0.3
COLUMNS = "{:10} {:12} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}  {}"

# The fastest peer's time over ours, at least, with AVX-512.
FASTER_THAN_ALL = {
    "tiny": 8.0,
    "mlp": 1.0,
    "resnet20": 1.5,
    "resnet18": 1.25,
    "lstm": 1.35,
    "gpt-cpu": 2.5,
    "gpt-baby": 2.0,
    "gpt-long": 2.2,
}
# Where all have AVX2 alone: torch's time, with the faster of its optimizers, over ours.
FASTER_THAN_TORCH = 1.05
BACKWARD_TO_FORWARD = 2.2
FAULTS_A_STEP = 10.0


@dataclass
class Figures:
    """What one library did on one workload."""

    version: str
    parameters: int
    losses: list[float] = field(default_factory=list)
    step_seconds: list[float] = field(default_factory=list)  # the mean step of each turn
    phase_seconds: dict[str, float] = field(default_factory=dict)
    kept_bytes: int | None = None
    peak_bytes: int = 0  # of the process
    faults: float = 0.0  # pages a step, once warm
    worst_disagreement: float = 0.0  # relative difference / tolerance, over the steps

    def backward_to_forward(self) -> float:
        return self.phase_seconds["backward"] / self.phase_seconds["forward"]


class Worker:
    """A library's process, which runs only while it is asked."""

    def __init__(self, peer: str, workload: Workload, python: str, threads: int) -> None:
        count = str(threads)
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": count,
            "MKL_NUM_THREADS": count,
            "BACKSWEEP_THREADS": count,
            "JAX_PLATFORMS": "cpu",
            "CUDA_VISIBLE_DEVICES": "",
        }
        script = str(Path(__file__).with_name("worker.py"))
        # XLA takes as many threads as the process has processors
        processors = sorted(os.sched_getaffinity(0))[:threads] if hasattr(os, "sched_setaffinity") else None
        self.process = subprocess.Popen(
            [python, script, peer, workload.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        if processors is not None:
            os.sched_setaffinity(self.process.pid, processors)
        started = self.read()
        self.missing = started.get("missing")

    def read(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise ChildProcessError(f"the worker ended with exit code {self.process.wait()}")
        return dict(json.loads(line))

    def ask(self, request: str, *arguments: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps([request, *arguments]) + "\n")
        self.process.stdin.flush()
        return self.read()["answer"]

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def start_workers(workload: Workload, options: argparse.Namespace) -> dict[str, Worker]:
    workers = {}
    for peer in (OURS, *options.peers):
        python = sys.executable if peer == OURS else options.peer_python
        try:
            worker = Worker(peer, workload, python, options.threads)
        except ChildProcessError as error:
            print(f"{workload.name}: {peer} left out: {error}")
            continue
        if worker.missing is None:
            workers[peer] = worker
        else:
            print(f"{workload.name}: {peer} left out: {worker.missing}")
            worker.close()
    return workers


def gather(workload: Workload, options: argparse.Namespace) -> dict[str, Figures]:
    """Run every library on one workload, in turns."""
    workers = start_workers(workload, options)
    results: dict[str, Figures] = {}
    turns: dict[str, int] = {}
    with tempfile.TemporaryDirectory() as folder:
        for peer, worker in list(workers.items()):
            try:
                results[peer] = Figures(**worker.ask("load", f"{folder}/weights.npz"))
                results[peer].losses = worker.ask("losses")
                results[peer].peak_bytes = worker.ask("peak")
                results[peer].kept_bytes = worker.ask("kept")
                turns[peer] = max(1, round(TURN_SECONDS / worker.ask("steps", 3) * 3))
            except ChildProcessError as error:
                print(f"{workload.name}: {peer} failed: {error}")
                results.pop(peer, None)
                workers.pop(peer)
    for _ in range(options.rounds):
        for peer, worker in workers.items():
            results[peer].step_seconds.append(worker.ask("steps", turns[peer]) / turns[peer])
    for peer, worker in workers.items():
        results[peer].faults = worker.ask("faults", turns[peer])
        results[peer].phase_seconds = worker.ask("phases", max(3, turns[peer]))
        worker.close()
    return results


def judge(workload: Workload, results: dict[str, Figures]) -> list[str]:
    """Compare everyone's losses with torch's (or the first peer's); say what disagrees."""
    oracle = "torch" if "torch" in results else next(iter(results), None)
    complaints = []
    for peer, figures in results.items():
        if oracle is None or peer == oracle:
            continue
        expected = results[oracle].losses
        for step, (mine, theirs) in enumerate(zip(figures.losses, expected, strict=True)):
            allowed = workload.tolerance(step, len(expected))
            apart = abs(mine - theirs) / abs(theirs)
            if not apart <= allowed:
                complaints.append(
                    f"{workload.name}: {peer} parts from {oracle} at step {step}: "
                    f"{mine:.7g} vs {theirs:.7g}, {apart:.1e} apart, {allowed:.1e} allowed"
                )
                break
            figures.worst_disagreement = max(figures.worst_disagreement, apart / allowed)
    return complaints


def too_slow(workload: Workload, results: dict[str, Figures]) -> list[str]:
    if OURS not in results:
        return [f"{workload.name}: {OURS} has no figures"]
    if "torch" not in results:
        return []
    speed = ratio(results["torch"], results[OURS])
    if speed * SLOWEST_ALLOWED >= 1.0:
        return []
    return [f"{workload.name}: slower than torch by {1 / speed:.2f}×; at most {SLOWEST_ALLOWED}× is allowed"]


def goals(workload: Workload, results: dict[str, Figures], simd: str) -> list[tuple[str, float, str, float]]:
    """Each goal as (what, the figure, "≥" or "≤", the bound); those without the peer they need are left out."""
    if OURS not in results:
        return []
    ours = results[OURS]
    ratios = {peer: ratio(figures, ours) for peer, figures in results.items() if peer != OURS}
    eager = [ratios[peer] for peer in ("torch", "torch_fused") if peer in ratios]
    rows = []
    if eager and simd != "avx512":
        rows.append(("÷ best torch", min(eager), "≥", FASTER_THAN_TORCH))
    elif ratios:
        rows.append(("÷ best peer", min(ratios.values()), "≥", FASTER_THAN_ALL[workload.name]))
    rows.append(("backward / forward", ours.backward_to_forward(), "≤", BACKWARD_TO_FORWARD))
    if "torch" in results:
        mib = 2**20
        rows.append(("process MiB", ours.peak_bytes / mib, "≤", results["torch"].peak_bytes / mib))
    rows.append(("page faults a step", ours.faults, "≤", FAULTS_A_STEP))
    return rows


def verdicts(workload: Workload, results: dict[str, Figures], simd: str) -> list[str]:
    lines = []
    for what, figure, side, bound in goals(workload, results, simd):
        reached = figure >= bound if side == "≥" else figure <= bound
        verdict = "pass" if reached else "short"
        lines.append(f"{workload.name:10} {what:20} {figure:9.2f} {side} {bound:9.2f}  {verdict}")
    return lines


def ratio(peer: Figures, ours: Figures) -> float:
    """The peer's time over ours, round by round, so that a slow spell of the machine cancels."""
    return median(a / b for a, b in zip(peer.step_seconds, ours.step_seconds, strict=True))


def floor_seconds(workload: Workload, parameters: int, peak: dict[str, Any]) -> float | None:
    """The least time of a step: the matrix products at peak, then the optimizer's one pass over memory.

    Leaves out everything between them (activations, norms, losses), which fusion can hide.
    """
    if peak["fma_flops"] is None:
        return None
    optimizer = parameters * workload.bytes_per_parameter / peak["triad_bytes"]
    return float(workload.model.flops() / peak["fma_flops"] + optimizer)


def row(workload: Workload, peer: str, results: dict[str, Figures], peak: dict[str, Any]) -> str:
    figures = results[peer]
    seconds = median(figures.step_seconds)
    floor = floor_seconds(workload, figures.parameters, peak)
    kept = figures.kept_bytes
    return COLUMNS.format(
        workload.name,
        peer,
        f"{1e3 * seconds:.3f}",
        f"{ratio(figures, results[OURS]):.2f}" if OURS in results else "–",
        "–" if floor is None else f"{floor / seconds:.1%}",
        "–" if kept is None else f"{kept / 2**20:.2f}",
        f"{figures.backward_to_forward():.2f}",
        f"{figures.peak_bytes / 2**20:.0f}",
        f"{figures.faults:.0f}",
        f"{figures.worst_disagreement:.2f}",
        figures.version,
    )


def options_from(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Training steps of backsweep beside its peers.")
    parser.add_argument("--workloads", type=lambda text: text.split(","), default=list(WORKLOADS))
    parser.add_argument("--peers", type=lambda text: text.split(","), default=list(PEERS))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter that has the peers")
    parser.add_argument("--json", type=Path, help="write every figure there")
    parser.add_argument("--check", action="store_true", help="say which goals are reached; fail when far too slow")
    options = parser.parse_args(arguments)
    unknown = [*({*options.workloads} - {*WORKLOADS}), *({*options.peers} - {*PEERS})]
    if unknown:
        parser.error(f"unknown: {', '.join(unknown)}; there are {', '.join([*WORKLOADS, *PEERS])}")
    return options


def simd_level() -> str:
    """The instructions that our kernels use here."""
    try:
        from backsweep._core import cpu_info
    except ImportError:
        return "unknown"
    return str(cpu_info()["simd"])


def main() -> int:
    options = options_from()
    peak = roofline.measure()
    simd = simd_level()
    print(f"{platform.processor() or platform.machine()}, {options.threads} threads, {simd}, roofline {peak}")
    print(
        COLUMNS.format(
            "workload",
            "library",
            "ms/step",
            "÷ ours",
            "of floor",
            "kept MiB",
            "bwd/fwd",
            "peak MiB",
            "faults",
            "loss/tol",
            "version",
        )
    )
    everything: dict[str, Any] = {}
    complaints: list[str] = []
    checks: list[str] = []
    for name in options.workloads:
        workload = WORKLOADS[name]
        results = gather(workload, options)
        complaints += judge(workload, results)
        if options.check:
            complaints += too_slow(workload, results)
            checks += verdicts(workload, results, simd)
        for peer in results:
            print(row(workload, peer, results, peak), flush=True)
        everything[name] = {peer: asdict(figures) for peer, figures in results.items()}
    if options.json:
        record = {"roofline": peak, "simd": simd, "threads": options.threads, "workloads": everything}
        options.json.write_text(json.dumps(record, indent=1))
    print("\n".join([*checks, *complaints]))
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
