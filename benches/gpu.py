"""What a GPU does: launches, memory-bound kernels, products; and what training steps send to it.

    python benches/gpu.py [--device gpu] [--small] [--only NAME ...] [--table | --half | --follow]

Times are medians of several runs, each of which ends with a wait; bytes are those read and written at least once. The
workloads are those of workloads.py. On a software adapter the counts are the figures; `--small` keeps all layers and
narrows them. `--half` counts what models in float16 send there and back, and the bytes of results and scratch that they
ask for. `--follow` trains three models at their full widths for 50 steps on the CPU and on the GPU, small batches, and
fails where the losses part.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

import backsweep as bs
import backsweep.nn.functional as F
from backsweep import _core, demo, nn, optim
from workloads import WORKLOADS, Gpt, Lstm, Mlp, ResNet, Workload


def seconds(work: Callable[[], object], device: str, repeats: int = 7) -> float:
    """The median time of the work, everything it asked for done."""
    # Results are held, as what nobody holds need not be computed.
    held = work()
    _core.gpu_wait(device)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        held = work()
        _core.gpu_wait(device)
        times.append(time.perf_counter() - start)
    del held
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
        figures["softmax_bytes"] = 8 * n / seconds(lambda: x.view(-1, 1024).softmax(-1), device)
        figures["layer_norm_bytes"] = 8 * n / seconds(lambda: F.layer_norm(x.view(-1, 1024), (1024,)), device)
        figures["rand_bytes"] = 4 * n / seconds(lambda: bs.rand(n, device=device), device)
        figures["dropout_bytes"] = 8 * n / seconds(lambda: F.dropout(x, 0.1), device)
        rows = n >> 10
        places = bs.randint(0, rows, (rows,), device=device)
        figures["embedding_bytes"] = 8 * n / seconds(lambda: F.embedding(places, x.view(rows, 1024)), device)
        figures["index_add_bytes"] = 12 * n / seconds(
            lambda: y.view(rows, 1024).index_add(0, places, x.view(rows, 1024)), device
        )
        figures["sort_elements"] = n / 16 / seconds(lambda: x[: n // 16].sort(), device)
        figures["topk_rows"] = rows / seconds(lambda: x.view(rows, 1024).topk(8), device)
        params = [bs.rand(n // 8, device=device).requires_grad_() for _ in range(4)]
        for param in params:
            param.grad = bs.rand(n // 8, device=device)
        adam = optim.Adam(params)
        figures["adam_bytes"] = 28 * n / 2 / seconds(adam.step, device)
        figures["clip_bytes"] = 12 * n / 2 / seconds(lambda: nn.utils.clip_grad_norm_(params, 1e-3), device)
        for size in (256,) if small else (1024, 4096):
            a, b = bs.rand(size, size, device=device), bs.rand(size, size, device=device)
            figures[f"matmul_{size}_flops"] = 2 * size**3 / seconds(lambda a=a, b=b: a @ b, device)
        figures |= attention(device, *((2, 4, 128, 64) if small else (16, 12, 1024, 64)))
        tiny, launches = bs.rand(64, device=device), 2000
        tiny @ tiny
        _core.gpu_wait(device)
        # Of this thread alone: a software adapter computes on others meanwhile.
        start = time.thread_time()
        held = [tiny @ tiny for _ in range(launches)]
        figures["launch_seconds"] = (time.thread_time() - start) / launches
        del held
        figures["read_seconds"] = seconds(lambda: tiny.sum().item(), device)
    return figures


def attention(device: str, batch: int, heads: int, length: int, width: int) -> dict[str, float]:
    """Operations a second of causal attention, forward and backward, those above the diagonal not counted."""
    q, k, v = (bs.randn(batch, heads, length, width, device=device).requires_grad_() for _ in range(3))
    product = batch * heads * length * length * width

    def forward() -> bs.Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    with bs.enable_grad():
        dy = bs.ones_like(forward().detach())
        there = seconds(forward, device)
        both = seconds(lambda: forward().backward(dy), device)
    return {"attention_flops": 2 * product / there, "attention_backward_flops": 5 * product / (both - there)}


SMALL = {
    "tiny": Mlp((2, 16, 16, 1), 100, False),
    "mlp": Mlp((784, 64, 64, 10), 16, True),
    "resnet20": ResNet((8, 8, 16), 3, 2, 16),
    "resnet18": ResNet((8, 16, 16, 32), 2, 2, 16),
    "lstm": Lstm(16, 16, 64, 4),
    "gpt-cpu": Gpt(4, 4, 32, 16, 2),
    "gpt-baby": Gpt(6, 6, 48, 16, 2),
    "gpt-long": Gpt(2, 4, 32, 128, 1),
}


def least(model: Gpt | ResNet | Mlp | Lstm) -> int:
    """Dispatches of a step that could hardly be fewer.

    A kernel for each product, each reduction that others wait for, attention and the loss, there and back (two back where
    both operands get a gradient), whatever is elementwise within these, and one for the optimizer.
    """
    loss, optimizer = 2, 1
    if isinstance(model, Mlp):
        products = len(model.sizes) - 1
        return 3 * products - 1 + loss + optimizer
    if isinstance(model, ResNet):
        stages = model.stages()
        convolutions = 1 + sum(2 + (inside != outside or stride != 1) for inside, outside, stride in stages)
        norms, head = 2 * convolutions, 3
        return 3 * convolutions - 1 + norms + head + loss + optimizer
    if isinstance(model, Lstm):
        embedding, inputs, recurrence, head = 2, 3, 3, 3
        return embedding + inputs + recurrence + head + loss + optimizer
    layer, embedding, end = 3 * 4 + 2 + 2 * 2, 2, 2 + 3
    return model.layers * layer + embedding + end + loss + optimizer


def train(workload: Workload, device: str, small: bool) -> dict[str, float]:
    """A training step of a workload, batch and loss moved: its time, and what it sends."""
    definition = SMALL[workload.name] if small else workload.model
    bs.manual_seed(0)
    model = definition.build(bs, nn, F).to(device)
    optimizer = getattr(optim, workload.optimizer)(model.parameters(), **workload.settings)
    loss_of = workload.loss_function(F)
    batches = [definition.draw(np.random.default_rng(step)) for step in range(4)]
    batch_bytes = sum(part.nbytes for part in batches[0])
    turn = itertools.cycle(batches)

    def step() -> None:
        x, y = (bs.from_numpy(part).to(device) for part in next(turn))
        optimizer.zero_grad()
        loss = loss_of(model, x, y)
        loss.backward()
        optimizer.step()
        loss.item()

    for _ in range(3):
        step()
    _core.gpu_wait(device)
    before, count, start = _core.gpu_counts(device), 4, time.thread_time()
    for _ in range(count):
        step()
    spent, after = time.thread_time() - start, _core.gpu_counts(device)
    row = {name: (n - before[name]) / count for name, n in after.items()}
    row["launch_seconds"] = spent / (after["dispatches"] - before["dispatches"])
    row |= {"least_dispatches": least(definition), "batch_bytes": batch_bytes}
    return row | {"seconds": seconds(step, device, 3 if small else 7)}


def half(workload: Workload, device: str, small: bool) -> tuple[float, int]:
    """Dispatches of a forward and a backward in float16, and the bytes of all memory that was asked for meanwhile."""
    definition = SMALL[workload.name] if small else workload.model
    bs.manual_seed(0)
    model = definition.build(bs, nn, F).to(device).half()
    loss_of = workload.loss_function(F)
    x, y = (bs.from_numpy(part).to(device) for part in definition.draw(np.random.default_rng(0)))
    x = x.half() if x.dtype is bs.float32 else x

    def work() -> bs.Tensor:
        model.zero_grad()
        loss = loss_of(model, x, y)
        loss.backward()
        return loss

    held = work()
    before, count = _core.gpu_counts(device)["dispatches"], 4
    for _ in range(count):
        held = work()
    dispatches = (_core.gpu_counts(device)["dispatches"] - before) / count
    with bs.memory.record(device) as recording:
        held = work()
    held.item()
    return dispatches, sum(size for event, _, size, _ in recording.events if event == "alloc")


class Demo:
    """The model and the recipe of `backsweep demo`, in batches of two."""

    text = demo.Text.read(None, "cpu")

    def build(self, *_: Any) -> nn.Module:
        return demo.GPT(len(self.text.symbols))

    def draw(self, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        starts = random.integers(0, len(self.text.train) - demo.CONTEXT - 1, 2)
        window = self.text.train[starts[:, None] + np.arange(demo.CONTEXT + 1)]
        return np.ascontiguousarray(window[:, :-1]), np.ascontiguousarray(window[:, 1:])


# Models at their full widths; how far losses may part in 50 steps, relative, and the settings of the optimizer.
FOLLOWED: dict[str, tuple[Any, str, dict[str, float], float]] = {
    "demo": (Demo(), "AdamW", {"lr": demo.RATE, "weight_decay": demo.DECAY}, 1e-3),
    "resnet20": (ResNet((16, 32, 64), 3, 4), "SGD", {"lr": 1e-4, "momentum": 0.9}, 2e-3),
    "lstm": (Lstm(128, 256, 64, 2), "Adam", {"lr": 1e-3}, 1e-3),
}


def losses(name: str, device: str, steps: int, nudge: float = 0.0) -> list[float]:
    """The losses of a followed model, each read at once; its first weights are off by the nudge, relative."""
    definition, rule, settings, _ = FOLLOWED[name]
    bs.manual_seed(0)
    model = definition.build(bs, nn, F).to(device)
    with bs.no_grad():
        for parameter in model.parameters() if nudge else ():
            parameter.mul_(1.0 + nudge)
    optimizer = getattr(optim, rule)(model.parameters(), **settings)
    seen = []
    for step in range(steps):
        x, y = (bs.from_numpy(part).to(device) for part in definition.draw(np.random.default_rng(step)))
        optimizer.zero_grad()
        logits = model(x)
        loss = F.cross_entropy(logits.reshape(-1, logits.shape[-1]), y.reshape(-1))
        loss.backward()
        optimizer.step()
        seen.append(loss.item())
    return seen


def follow(device: str, names: list[str], steps: int = 50) -> bool:
    """Prints how far the losses of a GPU part from the CPU's; false when one is too far."""
    fine = True
    print("| model | first loss | last | furthest apart | the CPU from weights 1e-7 off | allowed |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in names:
        want = losses(name, "cpu", steps)
        runs = losses(name, device, steps), losses(name, "cpu", steps, 1e-7)
        apart, own = (max(abs(a - b) / abs(b) for a, b in zip(run, want, strict=True)) for run in runs)
        allowed = FOLLOWED[name][3]
        fine &= apart <= allowed
        print(f"| {name} | {want[0]:.5f} | {want[-1]:.5f} | {apart:.1e} | {own:.1e} | {allowed:.0e} |", flush=True)
    return fine


def table(rows: dict[str, dict[str, float]]) -> str:
    """Counts of the workloads as a table for a page."""
    lines = [
        "| workload | dispatches | least | submissions | uploaded | of it batch | params | read back |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        if "error" in row:
            lines.append(f"| {name} | {row['error']} |")
            continue
        names = ("dispatches", "least_dispatches", "submissions", "uploaded_bytes", "batch_bytes", "param_bytes")
        cells = [f"{row[key]:,.0f}" for key in (*names, "downloaded_bytes")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print one JSON object, or the table of counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="gpu")
    parser.add_argument("--small", action="store_true", help="narrow shapes, for a software adapter")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="these workloads, and no kernels")
    parser.add_argument("--table", action="store_true", help="print the counts of the workloads as a table alone")
    parser.add_argument("--half", action="store_true", help="count the models in float16, there and back")
    parser.add_argument("--follow", action="store_true", help="compare the losses of 50 steps with the CPU's")
    options = parser.parse_args()
    if options.follow:
        sys.exit(0 if follow(options.device, options.only or list(FOLLOWED)) else 1)
    if options.half:
        print("| model | dispatches | bytes |", "| --- | --- | --- |", sep="\n")
        for name in options.only or ("mlp", "resnet20", "lstm", "gpt-cpu"):
            dispatches, size = half(WORKLOADS[name], options.device, options.small)
            print(f"| {name} | {dispatches:,.0f} | {size:,} |", flush=True)
        return
    found = {gpu["name"]: gpu for gpu in bs.devices()[1:]}
    rows: dict[str, Any] = {}
    for name in options.only or WORKLOADS:
        try:
            rows[name] = train(WORKLOADS[name], options.device, options.small)
        except bs.errors.DeviceError as error:
            rows[name] = {"error": str(error)}
    if options.table:
        print(table(rows))
        return
    report = {"adapter": found.get(_core.device_name("bench", options.device)), "version": bs.__version__}
    if options.only is None:
        report |= kernels(options.device, options.small)
    print(json.dumps(report | {"workloads": rows}, indent=2))


if __name__ == "__main__":
    main()
