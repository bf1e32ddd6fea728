"""Ctrl-C: a sweep stops within its promise and leaves no half gradient; the demo keeps what was learned."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import backsweep as bs


@pytest.fixture(autouse=True)
def listening() -> Iterator[None]:
    """A shell that starts something in the background makes it deaf to Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_sweep_stops_soon_and_the_next_step_works() -> None:
    x = bs.ones(64, 64).requires_grad_()
    y = x
    for _ in range(40_000):
        y = y.sin()
    loss = y.sum()
    sent: list[float] = []

    def interrupt() -> None:
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.05, interrupt)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        loss.backward()
    # 100 ms is the promise; the rest is for a busy machine.
    assert time.perf_counter() - sent[0] < 1.0
    assert x.grad is None
    (x * x).sum().backward()
    assert x.grad is not None and x.grad[0, 0].item() == 2.0


@pytest.mark.parametrize("backward", [False, True])
def test_one_long_kernel_stops_as_well(backward: bool) -> None:
    """Interrupted a while after the product began, long before its end."""
    n = 1024
    while True:
        a = bs.ones(n, n, requires_grad=True)
        start = time.perf_counter()
        loss = (a @ a).sum()
        whole = time.perf_counter() - start
        if whole > 0.8:
            break
        n *= 2
    sent: list[float] = []

    def interrupt() -> None:
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    timer = threading.Timer(0.1, interrupt)
    timer.start()
    live = bs.memory.stats()["live"]
    with pytest.raises(KeyboardInterrupt):
        if backward:
            loss.backward()
        else:
            a @ a
    # As above: the rest is for a busy machine.
    assert time.perf_counter() - sent[0] < min(0.5, whole / 2)
    assert a.grad is None and bs.memory.stats()["live"] <= live
    b = bs.ones(8, 8, requires_grad=True)
    (b @ b).sum().backward()
    assert b.grad is not None and b.grad[0, 0].item() == 16.0


def test_the_demo_keeps_what_it_learned(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    command = [sys.executable, "-m", "backsweep", "demo", "--steps", "1000000", "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            # The first line of progress: a step is done.
            assert process.stderr is not None and process.stderr.readline()
            process.send_signal(signal.SIGINT)
            output, _ = process.communicate(timeout=100)
        finally:
            process.kill()
    report = json.loads((out / "report.json").read_text())
    assert process.returncode == 130 and report["interrupted"] and 0 < report["steps"] < 1_000_000
    assert f"stopped by Ctrl-C after {report['steps']} steps; what was learned is kept" in output
    assert all(norm > 0 for norm in report["gradient_norms"].values()) and "blocks.3" in report["gradient_norms"]
    weights = bs.load(report["weights"])
    assert weights["token.weight"].shape[1] == 128


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--data", "missing.txt"], "demo: [Errno 2] No such file or directory: 'missing.txt'"),
        (["--data", "short.txt"], "demo: a text of 3 characters; 660 or more are needed"),
        (["--device", "moon"], "demo: there is no device 'moon'; 'cpu', 'gpu', 'gpu:1' … or 'auto' is needed"),
        (["--out", "short.txt/x"], "demo: [Errno 20] Not a directory: 'short.txt/x'"),
        (["--steps", "many"], "argument --steps: many steps; one or more are needed"),
    ],
)
def test_what_the_demo_cannot_do_it_says_before_it_trains(options: list[str], text: str, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("abc")
    command = [sys.executable, "-m", "backsweep", "demo", *options]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert run.returncode == 2 and run.stderr.rstrip().endswith(text) and not run.stdout
