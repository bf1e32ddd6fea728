"""What a GPU does: launches, memory-bound kernels, products; and what a training step sends to it.

    python benches/gpu.py [--device gpu] [--small]

Times are medians of several runs, each of which ends with a wait; bytes are those read and written at least once. On a
software adapter the counts are the figures, and `--small` keeps the shapes short.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import backsweep as bs
import backsweep.nn.functional as F
from backsweep import _core, nn, optim


def seconds(work: Callable[[], object], device: str, repeats: int = 7) -> float:
    """The median time of the work, everything it asked for done."""
    work()
    _core.gpu_wait(device)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        _core.gpu_wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def kernels(device: str, small: bool) -> dict[str, float]:
    """Bytes a second of memory-bound kernels, operations a second of products, seconds of CPU time a launch."""
    figures = {}
    n = 1 << (20 if small else 26)
    x, y = bs.rand(n, device=device), bs.rand(n, device=device)
    with bs.no_grad():
        figures["copy_bytes"] = 8 * n / seconds(lambda: y.copy_(x), device)
        figures["add_bytes"] = 12 * n / seconds(lambda: x + y, device)
        figures["gelu_bytes"] = 8 * n / seconds(lambda: F.gelu(x), device)
        figures["sum_bytes"] = 4 * n / seconds(lambda: x.sum(), device)
        for size in (256,) if small else (1024, 4096):
            a, b = bs.rand(size, size, device=device), bs.rand(size, size, device=device)
            figures[f"matmul_{size}_flops"] = 2 * size**3 / seconds(lambda a=a, b=b: a @ b, device)
        tiny, launches = bs.rand(64, device=device), 2000
        tiny + tiny
        _core.gpu_wait(device)
        start = time.perf_counter()
        for _ in range(launches):
            tiny + tiny
        figures["launch_seconds"] = (time.perf_counter() - start) / launches
        figures["read_seconds"] = seconds(lambda: tiny.sum().item(), device)
    return figures


def step(device: str, small: bool) -> dict[str, float]:
    """A training step of the MLP: its time, and what it sends."""
    width, batch = (64, 32) if small else (1024, 128)
    model = nn.Sequential(
        nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
    ).to(device)
    optimizer = optim.Adam(model.parameters())
    x, y = bs.rand(batch, 784, device=device), bs.rand(batch, 10, device=device)

    def train() -> None:
        optimizer.zero_grad()
        F.mse_loss(model(x), y).backward()
        optimizer.step()

    took = seconds(train, device)
    before = _core.gpu_counts(device)
    for _ in range(10):
        train()
    _core.gpu_wait(device)
    after = _core.gpu_counts(device)
    return {"mlp_seconds": took} | {f"mlp_{name}": (n - before[name]) / 10 for name, n in after.items()}


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="gpu")
    parser.add_argument("--small", action="store_true", help="short shapes, for a software adapter")
    options = parser.parse_args()
    found = {gpu["name"]: gpu for gpu in bs.devices()[1:]}
    report = {"adapter": found.get(_core.device_name("bench", options.device)), "version": bs.__version__}
    report |= kernels(options.device, options.small) | step(options.device, options.small)
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
