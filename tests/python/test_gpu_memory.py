"""The memory of a GPU under budgets: never passed by a byte, never a bit changed; regions, hints, forecasts, captures.

A software driver will do; without any adapter there is nothing to test here (test_gpu.py makes a missing one a failure).
"""

from __future__ import annotations

import contextlib
import gc
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_budget import FIRST, PROGRAMS, check

import backsweep as bs
import backsweep.nn.functional as F
from backsweep import nn, optim

THERE = len(bs.devices()) > 1


def live(device: str = "gpu") -> int:
    return int(bs.memory.stats(device)["live"])


class Block(nn.Module):
    """A block of a transformer, with dropout wherever one has it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.heads, self.end = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.LayerNorm(width)
        self.wide, self.narrow, self.drop = nn.Linear(width, 4 * width), nn.Linear(4 * width, width), nn.Dropout(0.2)

    def forward(self, x: bs.Tensor) -> bs.Tensor:
        batch, time, width = x.shape
        heads = self.heads(self.norm(x)).reshape(batch, time, 3, 2, width // 2).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], dropout_p=0.1, is_causal=True)
        x = x + self.drop(y.transpose(1, 2).reshape(batch, time, width))
        return x + self.drop(self.narrow(F.gelu(self.wide(self.end(x)))))


class Reader(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.token, self.drop, self.blocks = nn.Embedding(11, 16), nn.Dropout(0.2), nn.Sequential(Block(16), Block(16))

    def forward(self, tokens: bs.Tensor) -> bs.Tensor:
        return F.linear(self.blocks(self.drop(self.token(tokens))), self.token.weight).reshape(-1, 11)


def perceptron() -> nn.Module:
    return nn.Sequential(*(nn.Sequential(nn.Linear(24, 24), nn.Tanh()) for _ in range(6)), nn.Linear(24, 5))


def convolutions() -> nn.Module:
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, padding=1), nn.GELU()]
    return nn.Sequential(*layers, nn.MaxPool2d(2), nn.Dropout(0.3), nn.Flatten(), nn.Linear(96, 5))


KINDS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "perceptron": (perceptron, (64, 24)),
    "convolutions": (convolutions, (16, 3, 8, 8)),
    "transformer": (Reader, (4, 8)),
}


class Training:
    """A small training on the GPU from its beginning, step by step."""

    def __init__(self, kind: str) -> None:
        make, shape = KINDS[kind]
        bs.manual_seed(0)
        self.model = make().to("gpu")
        self.optimizer = optim.SGD(self.model.parameters(), lr=0.05, momentum=0.9)
        numbers = np.random.default_rng(1)
        words = kind == "transformer"
        x = numbers.integers(0, 11, shape) if words else numbers.normal(size=shape).astype("f4")
        y = numbers.integers(0, 11, shape).reshape(-1) if words else numbers.integers(0, 5, shape[0])
        self.x, self.y = bs.from_numpy(x).to("gpu"), bs.from_numpy(y).to("gpu")
        self.results: list[list[bytes]] = []
        self.peaks: list[int] = []
        self.foretold: list[int | None] = []

    def step(self) -> bs.Tensor:
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(self.x), self.y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def run(self, steps: int, budget: int | None = None) -> Training:
        for _ in range(steps):
            bs.memory.reset_peak("gpu")
            with bs.memory.budget(budget, device="gpu") if budget else contextlib.nullcontext():
                loss = self.step()
            self.peaks.append(int(bs.memory.stats("gpu")["peak"]))
            plan = bs.memory.current_plan() if budget else None
            self.foretold.append(plan and plan.peak)
            self.results.append([loss.cpu().numpy().tobytes(), *(p.grad.cpu().numpy().tobytes() for p in self.model.parameters())])
            del loss
        return self

    def state(self) -> dict[str, bytes]:
        return {name: value.cpu().numpy().tobytes() for name, value in self.model.state_dict().items()}


def taken_down(kind: str) -> bs.memory.Tape:
    """The tape of a step like the second."""
    training = Training(kind).run(1)
    gc.collect()
    with bs.memory.capture("gpu") as steps:
        training.step()
    return steps.tape


if THERE:

    @pytest.mark.parametrize("kind", KINDS)
    def test_budgets_on_a_gpu_are_kept_and_change_no_bit(kind: str) -> None:
        base = Training(kind).run(4)
        want, state = base.results, base.state()
        del base
        gc.collect()
        tape = taken_down(kind)
        least, span = tape.least().peak, tape.peak - tape.base
        assert tape.base < least < tape.base + span * 3 // 4
        for budget in (tape.base + span * 3 // 4, max(tape.base + span // 2, least), least):
            gc.collect()
            counts = bs.memory.stats("gpu")
            training = Training(kind).run(4, budget)
            assert all(peak <= budget for peak in training.peaks), (budget, training.peaks)
            assert training.results == want and training.state() == state
            # The first steps teach it; then a plan is followed, and the peak is the one foretold.
            assert training.foretold[2:] == training.peaks[2:], (budget, training.foretold, training.peaks)
            after = bs.memory.stats("gpu")
            assert after["evicted"] > counts["evicted"] or after["replayed"] > counts["replayed"]
            assert after["budget"] is None
            del training

    def test_random_programs_on_a_gpu_keep_budgets_and_change_no_bit() -> None:
        counts: Counter[str] = Counter()
        for seed in range(FIRST, FIRST + PROGRAMS // 20):
            check(seed, counts, "gpu")
        assert counts["planned"] > 2 * counts["online in steps"]

    def test_an_impossible_budget_names_the_least_feasible_one_of_the_gpu() -> None:
        training = Training("perceptron").run(2)
        training.optimizer.zero_grad()
        gc.collect()
        with bs.memory.capture("gpu") as steps:
            training.step()
        training.optimizer.zero_grad()
        gc.collect()
        before, tape = live(), steps.tape
        budget = tape.bound() - tape.base + before - 256
        with pytest.raises(bs.OutOfMemoryError) as caught, bs.memory.budget(budget, device="gpu"):
            training.step()
        lines = str(caught.value).splitlines()
        assert lines[0].startswith(f"memory.budget: no plan keeps {budget} bytes (")
        least = re.fullmatch(r"help: the least budget found for such a step is (\d+) bytes", lines[1])
        assert least is not None
        del caught
        gc.collect()
        assert live() == before and bs.memory.stats("gpu")["budget"] is None
        bs.memory.reset_peak("gpu")
        with bs.memory.budget(int(least[1]), device="gpu"):
            training.step()
        assert bs.memory.stats("gpu")["peak"] <= int(least[1])

    def test_a_budget_below_what_is_alive_on_the_gpu_is_refused() -> None:
        training = Training("perceptron").run(1)
        gc.collect()
        size = live()
        with pytest.raises(bs.OutOfMemoryError, match=r"memory.budget: .* are live on gpu already, .* with nothing left"):
            with bs.memory.budget(10_000, device="gpu"):
                raise AssertionError("the block was entered")
        assert live() == size and bs.memory.stats("gpu")["budget"] is None
        training.run(1)

    def test_one_device_at_a_time_has_a_budget() -> None:
        one_at_a_time = "steps are planned for the memory of one device at a time; end that one before this one on"
        with bs.memory.budget("1 GiB"), pytest.raises(bs.GraphError, match=f"memory.budget: a budget on cpu.*{one_at_a_time} gpu"):
            with bs.memory.budget("1 GiB", device="gpu"):
                raise AssertionError("the block was entered")
        with bs.memory.budget("1 GiB", device="gpu"):
            with pytest.raises(bs.GraphError, match=f"memory.budget: a budget on gpu.*{one_at_a_time} cpu"):
                bs.memory.budget("1 GiB").__enter__()
            with pytest.raises(bs.GraphError, match=r"memory\.capture: a budget on gpu"):
                with bs.memory.capture():
                    pass
            # A limit may stand beside it, and a tighter budget inside.
            with bs.memory.limit("1 GiB"), bs.memory.budget("512 MiB", device="gpu"):
                assert bs.memory.stats("gpu")["budget"] == 512 << 20 and bs.memory.stats()["budget"] is None
            assert bs.memory.stats("gpu")["budget"] == 1 << 30
        assert bs.memory.stats("gpu")["budget"] is None
        with pytest.raises(bs.errors.DeviceError, match=r"memory\.budget: there is no device 'tpu'"):
            bs.memory.budget(100, device="tpu").__enter__()
        with pytest.raises(ValueError, match="memory: 0 bytes; a whole number above zero is needed"):
            bs.memory.budget(0, device="gpu")

    def test_a_budget_on_the_cpu_leaves_the_gpu_alone() -> None:
        base = Training("perceptron").run(2)
        want = base.results
        del base
        gc.collect()
        before = bs.memory.stats("gpu")["evicted"]
        training = Training("perceptron")
        with bs.memory.budget(bs.memory.stats()["live"] + 200_000):
            training.run(2)
        assert training.results == want
        assert bs.memory.stats("gpu")["evicted"] == before

    def test_a_read_back_under_a_budget_is_on_the_bill_and_within_it() -> None:
        x = bs.ones(1 << 16, device="gpu")
        budget = live() + 100_000
        with bs.memory.budget(budget, device="gpu"):
            # The buffer that it is read into is the GPU's as well.
            with pytest.raises(bs.OutOfMemoryError, match="would exceed the budget"):
                x.tolist()
            assert x.sum().item() == 1 << 16
        assert bs.memory.stats("gpu")["live"] <= budget and sum(x.tolist()) == 1 << 16

    def test_regions_drop_what_they_made_and_gradients_keep_their_bits() -> None:
        found = []
        for wrap in (lambda block: block, nn.Checkpoint):
            bs.manual_seed(5)
            blocks = [Block(16).to("gpu") for _ in range(3)]
            model = nn.Sequential(*(wrap(block) for block in blocks))
            x = bs.randn(4, 8, 16, device="gpu").requires_grad_()
            before = bs.memory.stats("gpu")
            bs.memory.reset_peak("gpu")
            y = model(x).square().mean()
            kept = bs.memory.stats("gpu")["activation"] - before["activation"]
            y.backward()
            after = bs.memory.stats("gpu")
            parameters = [x, *(p for block in blocks for p in block.parameters())]
            found.append(([p.grad.cpu().numpy().tobytes() for p in parameters], kept, after["replayed"] - before["replayed"]))
        (want, all_of_it, none), (got, few, replayed) = found
        assert got == want and few < all_of_it / 4 and none == 0 and replayed >= 24

    def test_hints_decide_what_goes_first() -> None:
        x = bs.randn(64, 64, device="gpu").requires_grad_()

        def step(hint: Callable[[bs.Tensor], bs.Tensor]) -> tuple[bytes, int]:
            x.grad = None
            before = live()
            first = hint(x.sin())
            y = first
            for _ in range(6):
                y = y.cos()
            kept = sum(b["bytes"] for b in bs.memory.snapshot("gpu") if b["op"] == "sin")
            del first
            y.sum().backward()
            del y
            assert x.grad is not None and live() >= before
            return x.grad.cpu().numpy().tobytes(), kept

        want, size = step(lambda t: t)
        x.grad = None
        gc.collect()
        budget = live() + 6 * size
        for hint in (bs.memory.must_keep, bs.memory.must_drop, lambda t: t):
            bs.memory.reset_peak("gpu")
            with bs.memory.budget(budget, device="gpu"):
                assert step(hint)[0] == want
            assert bs.memory.stats("gpu")["peak"] <= budget

    def test_a_value_that_must_be_kept_is_never_made_again() -> None:
        runs = []
        with bs.memory.capture("gpu") as steps:
            x = bs.randn(64, 64, device="gpu").requires_grad_()
            y = x.sin()
            for _ in range(5):
                y = y.cos()
            y.sum().backward()
            del y
        x.grad = None
        gc.collect()
        budget = live() + (steps.tape.peak - steps.tape.base) * 3 // 4
        for keep in (False, True):
            gc.collect()
            x.grad = None
            with bs.memory.budget(budget, device="gpu"), bs.profiler.profile() as prof:
                y = x.sin()
                if keep:
                    bs.memory.must_keep(y)
                for _ in range(5):
                    y = y.cos()
                y.sum().backward()
                del y
            runs.append({row["op"] for row in prof.replays()})
        assert "sin" not in runs[1] and runs[0] | runs[1]

    def test_what_costs_next_to_nothing_is_not_kept_without_a_budget() -> None:
        # A norm before a wide product, both of them large enough to count.
        norm, wide = nn.LayerNorm(512).to("gpu"), nn.Linear(512, 512).to("gpu")
        x = bs.randn(64, 512, device="gpu").requires_grad_()

        def step() -> tuple[list[bytes], int, int]:
            for t in (x, *norm.parameters(), *wide.parameters()):
                t.grad = None
            gc.collect()
            before = bs.memory.stats("gpu")
            y = wide(norm(x))
            kept = bs.memory.stats("gpu")["activation"] - before["activation"]
            y.sum().backward()
            grads = [t.grad.cpu().numpy().tobytes() for t in (x, *norm.parameters(), *wide.parameters())]
            return grads, kept, bs.memory.stats("gpu")["replayed"] - before["replayed"]

        # At these sizes the launch is what costs, so the share is set for the test.
        share = bs._core.set_lean_share(0.0)
        try:
            want, whole, none = step()
            bs._core.set_lean_share(10.0)
            got, lean, replayed = step()
        finally:
            bs._core.set_lean_share(share)
        assert got == want and lean <= whole - 64 * 512 * 4 and none == 0 and replayed > 0

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_forecast_is_the_measured_peak_of_the_gpu_to_the_byte(kind: str) -> None:
        training = Training(kind)
        for moment in ("first", "second", "third"):
            near = bs.memory.stats()["peak"]
            told = bs.memory.forecast(training.step)
            assert told.device == "gpu" and told.peaks["gpu"] == told.peak and bs.memory.stats()["peak"] == near
            bs.memory.reset_peak("gpu")
            training.step()
            assert told.peak == bs.memory.stats("gpu")["peak"], moment
            assert sum(told.by_category.values()) == told.peak
        plans = bs.memory.forecast(training.step).budgets(3)
        assert plans[0].peak < plans[-1].peak

    def rules(parameters: list[nn.Parameter]) -> dict[str, optim.Optimizer]:
        return {
            "sgd": optim.SGD(parameters, lr=0.1),
            "adamw": optim.AdamW(parameters, lr=1e-3),
            "amsgrad": optim.Adam(parameters, lr=1e-3, amsgrad=True),
            "rmsprop": optim.RMSprop(parameters, lr=1e-3, momentum=0.9, centered=True),
            "lion": optim.Lion(parameters, lr=1e-4),
        }

    @pytest.mark.parametrize("rule", ["sgd", "adamw", "amsgrad", "rmsprop", "lion"])
    def test_every_optimizer_on_a_gpu_is_forecast_to_the_byte(rule: str) -> None:
        net = nn.Sequential(nn.Linear(70, 90), nn.GELU(), nn.Linear(90, 70)).to("gpu")
        optimizer = rules(list(net.parameters()))[rule]
        x = bs.rand(33, 70, device="gpu")

        def step() -> None:
            optimizer.zero_grad()
            net(x).square().mean().backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()

        for _ in range(3):
            told = bs.memory.forecast(step)
            bs.memory.reset_peak("gpu")
            step()
            assert told.peak == bs.memory.stats("gpu")["peak"]

    def test_a_forecast_on_a_gpu_changes_nothing_and_sends_nothing() -> None:
        training = Training("transformer").run(1)
        before, state = bs._core.gpu_counts("gpu"), training.state()
        stats, rng = bs.memory.stats("gpu"), bs.get_rng_state().tolist()
        counts = bs._core.gpu_counts("gpu")
        told = bs.memory.forecast(training.step)
        assert bs._core.gpu_counts("gpu") == counts and counts["dispatches"] == before["dispatches"]
        after = bs.memory.stats("gpu")
        assert {k: after[k] for k in ("live", "peak", "blocks", "nodes")} == {k: stats[k] for k in ("live", "peak", "blocks", "nodes")}
        assert bs.get_rng_state().tolist() == rng and training.state() == state
        assert "on gpu" in repr(told) and told.largest[0]["bytes"] > 0
        with pytest.raises(bs.GraphError, match="item: a forecast has shapes and no numbers"):
            bs.memory.forecast(lambda: training.step().item())
        with bs.memory.budget("1 GiB", device="gpu"), pytest.raises(bs.GraphError, match="a budget is in force"):
            bs.memory.forecast(training.step)

    def test_a_model_that_the_gpu_could_not_hold_is_forecast() -> None:
        before = bs.memory.stats("gpu")["reserved"]
        x = bs.ones(4, 8, device="gpu")

        def step() -> None:
            y = x.reshape(4, 8, 1, 1).expand(4, 8, 1000, 1000) * 2.0
            for _ in range(100):
                y = y * 2.0 + y

        assert bs.memory.forecast(step).peak > 3 * 4 * 32_000_000
        assert bs.memory.stats("gpu")["reserved"] == before

    def test_a_capture_has_the_bytes_of_each_device_apart() -> None:
        training = Training("transformer").run(1)
        gc.collect()
        bs.memory.reset_peak("gpu")
        bs.memory.reset_peak()
        with bs.profiler.profile() as prof:
            for _ in range(2):
                training.step()
        there, near = bs.memory.stats("gpu")["peak"], bs.memory.stats()["peak"]
        summary = prof.summary()
        assert summary["device"] == "gpu" and summary["peak_bytes"] == there and summary["unknown_bytes"] == 0
        assert summary["device_peaks"] == {"gpu": there, "cpu": near} and summary["steps"] == 2
        assert sum(summary["peak_by_category"].values()) == there
        rows = prof.peak()
        assert sum(row["bytes"] for row in rows) == there
        assert any(row["category"] == "activation" and row["needed_by"] for row in rows)
        saved = prof.saved("op")
        assert sum(row["bytes"] for row in saved) > 0 and {"linear", "gelu"} <= {row["op"] for row in saved}
        layers = {row["module"]: row for row in prof.layers()}
        assert layers["blocks.0.wide"]["parameter_bytes"] > 0 and layers["blocks.0.wide"]["saved_bytes"] > 0
        assert all(row["peak_bytes"] <= there for row in prof.steps())
        timeline = prof.timeline(50)
        assert max(row["live"] for row in timeline) == there
        assert all(row["live"] == sum(row[c] for c in bs.memory.CATEGORIES) for row in timeline)
        other = prof.on("cpu")
        assert other.summary()["device"] == "cpu" and other.summary()["peak_bytes"] == near
        with pytest.raises(ValueError, match="profile: nothing was on 'gpu:3' in this run; its devices are gpu, cpu"):
            prof.on("gpu:3")
        assert "on gpu" in str(prof)

    def test_times_are_those_of_the_gpus_clock_or_said_to_be_none() -> None:
        training = Training("convolutions").run(1)
        with bs.profiler.profile() as prof:
            training.step()
        summary, text = prof.summary(), str(prof)
        assert summary["forward_seconds"] > 0 and summary["backward_seconds"] > 0
        if summary["times_of"] == "gpu":
            assert "by the clock of gpu; copies are not timed" in text and prof.tables.timed
            # Kernels of one GPU run one after the other, within the time that the capture took.
            assert 0 < sum(summary[f"{name}_seconds"] for name in ("forward", "backward", "optimizer")) < summary["seconds"]
            assert not prof.on("cpu").tables.timed
        else:
            assert summary["times_of"] == "cpu" and "by the CPU's clock, of recording: gpu told no times" in text

    def test_a_refusal_on_a_gpu_is_explained() -> None:
        model = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(4))).to("gpu")
        x = bs.randn(256, 64, device="gpu")
        with bs.profiler.profile() as prof, bs.memory.limit(live() + 200_000, "gpu"):
            with pytest.raises(bs.OutOfMemoryError):
                model(x).sum().backward()
            alive = bs.profiler.explain(device="gpu")
        refused = prof.explain()
        assert refused is not None and refused["asked_bytes"] == 65536 and refused["limit_bytes"] is not None
        assert refused["live_bytes"] == sum(row["bytes"] for row in refused["rows"])
        assert sum(row["bytes"] for row in alive) > 0 and prof.on("cpu").explain() is None

    def test_trials_of_the_profiler_measure_budgets_on_the_gpu() -> None:
        training = Training("perceptron")
        with bs.profiler.profile(pareto=True) as prof:
            for _ in range(24):
                training.step()
        rows = prof.pareto()
        tried: list[dict[str, Any]] = [row for row in rows if row["measured_peak_bytes"] is not None]
        assert tried and all(row["measured_peak_bytes"] <= row["budget_bytes"] for row in tried)
        assert prof.summary()["trial_steps"] > 0 and bs.memory.stats("gpu")["budget"] is None
