"""Budgets on random programs: never passed by a byte, never a bit changed, and the peak that the plan foretold.

BACKSWEEP_PROGRAMS says how many programs there are, and BACKSWEEP_FIRST the seed of the first.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from programs import Program, numbers

import backsweep as bs
import backsweep.nn.functional as F
from backsweep import nn, optim

PROGRAMS = int(os.environ.get("BACKSWEEP_PROGRAMS", "120"))
FIRST = int(os.environ.get("BACKSWEEP_FIRST", "0"))
CHUNKS = 12


def same(a: list[np.ndarray], b: list[np.ndarray]) -> bool:
    return len(a) == len(b) and all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


class Run:
    """Steps of a program from its beginning, under a budget or none."""

    def __init__(self, program: Program, steps: int, budget: int | None = None) -> None:
        program.reset()
        self.results: list[list[np.ndarray]] = []
        self.peaks: list[int] = []
        self.foretold: list[int | None] = []
        self.refused = False
        for number in range(steps):
            bs.memory.reset_peak(program.device)
            try:
                with bs.memory.budget(budget, program.device) if budget else contextlib.nullcontext():
                    self.results.append(program.step(number))
            except bs.OutOfMemoryError:
                self.refused = True
                return
            self.peaks.append(bs.memory.stats(program.device)["peak"])
            plan = bs.memory.current_plan() if budget else None
            self.foretold.append(plan and plan.peak)
        self.results.append(program.left())


def check(seed: int, counts: Counter[str], device: str = "cpu") -> None:
    program = Program(seed, device)
    # Plans come from a quick search first, and in the second step from a full one, which takes its time.
    steps = 3 if seed % 8 == 0 else 1
    base = Run(program, steps)
    program.reset()
    with bs.memory.capture(device) as capture:
        program.step(0)
    tape = capture.tape
    # Where one step has two sweeps with forwards in between, or changes from time to time, this tape is but a part of it; and
    # hints are not on it.
    hinted = program.hint is not None and program.hint[1] is bs.memory.must_keep
    whole = program.way != "second" and program.left_out < 0 and not hinted
    least = tape.least().peak
    span = tape.peak - tape.base
    for share in (1.0, 0.75, 0.5, 0.25, 0.0):
        budget = max(least, tape.base + int(span * share)) if share else least
        run = Run(program, steps, budget)
        if run.refused and not whole:
            counts["refused"] += 1
            continue
        assert not run.refused, f"seed {seed}: no way to keep {budget} bytes, and there is a plan for {least}"
        for number, (peak, foretold) in enumerate(zip(run.peaks, run.foretold, strict=True)):
            at = f"seed {seed}, budget {budget}, step {number}"
            assert peak <= budget, f"{at}: the peak is {peak}"
            assert foretold is None or not whole or foretold == peak, (
                f"{at}: a peak of {foretold} was foretold, {peak} measured"
            )
            counts["online in steps" if foretold is None else "planned"] += 1
        assert len(run.results) == len(base.results)
        for number, (mine, other) in enumerate(zip(run.results, base.results, strict=True)):
            assert same(mine, other), f"seed {seed}, budget {budget}, step {number}: other numbers"
    # After a step of another kind nothing is known of what comes: the online policy alone. It may find no way; then nothing
    # has changed.
    for share in (0.6, 0.2):
        stranger(device)
        budget = least + int((tape.peak - least) * share)
        run = Run(program, 1, budget)
        gc.collect()
        if run.refused:
            counts["online refused"] += whole
            pairs = zip(program.parameters, program.begin, strict=False)
            assert all(numbers(p).tobytes() == value.tobytes() for p, value in pairs)
            assert program.way != "once" or all(p.grad is None for p in program.parameters)
        else:
            counts["online"] += whole
            assert same(run.results[0], base.results[0]), f"seed {seed}, online in {budget}: other numbers"
            assert run.peaks[0] <= budget, f"seed {seed}: {run.peaks[0]} over {budget}"


def stranger(device: str) -> None:
    """A step that is like no other."""
    x = bs.ones(7, device=device).requires_grad_()
    with bs.memory.capture(device):
        x.cos().tan().sum().backward()


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_random_programs_keep_budgets_and_change_no_bit(chunk: int) -> None:
    counts: Counter[str] = Counter()
    for seed in range(FIRST + chunk, FIRST + PROGRAMS, CHUNKS):
        check(seed, counts)
    print(dict(counts))
    # Programs whose steps differ from each other follow no plan; in a chunk of few programs they weigh much.
    assert counts["planned"] > 2 * counts["online in steps"] and counts["online"] > 2 * counts["online refused"]


def perceptron() -> tuple[nn.Module, optim.Optimizer, bs.Tensor]:
    bs.manual_seed(3)
    net = nn.Sequential(*(nn.Sequential(nn.Linear(32, 32), nn.Tanh()) for _ in range(8)))
    return net, optim.SGD(net.parameters(), lr=0.1), bs.randn(256, 32)


def known_step() -> tuple[nn.Module, Callable[[], bs.Tensor], bs.memory.Tape]:
    """A net, what makes its loss with gradients cleared, and the tape of such a step."""
    net, optimizer, x = perceptron()

    def forward() -> bs.Tensor:
        optimizer.zero_grad()
        return net(x).square().mean()

    with bs.memory.capture() as steps:
        forward().backward()
    optimizer.zero_grad()
    gc.collect()
    return net, forward, steps.tape


SIZES = {
    0: "memory: 0 bytes; a whole number above zero is needed",
    -5: "memory: -5 bytes; a whole number above zero is needed",
    1.5: "memory: 1.5 bytes; a whole number above zero is needed",
    "0 MiB": "memory: 0 bytes; a whole number above zero is needed",
    "many": "memory: 'many' is no size; an int or a text such as '512 MiB' is needed",
    "-3 MiB": "memory: '-3 MiB' is no size; an int or a text such as '512 MiB' is needed",
    "12 parsecs": "memory: '12 parsecs' is no size; an int or a text such as '512 MiB' is needed",
    "": "memory: '' is no size; an int or a text such as '512 MiB' is needed",
}


@pytest.mark.parametrize(("amount", "text"), SIZES.items())
def test_what_is_no_size_is_refused_by_name(amount: Any, text: str) -> None:
    for take in (bs.memory.budget, bs.memory.limit):
        with pytest.raises(ValueError) as caught:
            take(amount)
        assert str(caught.value) == text
    assert bs.memory.stats()["budget"] is None and bs.memory.stats()["limit"] is None


def test_a_budget_below_the_parameters_says_what_is_alive() -> None:
    net, *_ = perceptron()
    live = bs.memory.stats()["live"]
    with pytest.raises(bs.OutOfMemoryError) as caught, bs.memory.budget(10_000):
        raise AssertionError("the block was entered")
    size = bs.memory.format_bytes
    # Errors leave out a fraction that is zero.
    text = str(caught.value).replace(".0 ", " ")
    alive, over = size(live).replace(".0 ", " "), size(live - 10_000).replace(".0 ", " ")
    assert text.startswith(
        f"memory.budget: {alive} are live already, {over} more than the budget of 9.8 KiB, with nothing left that could be "
        f"dropped; the largest holders:\n"
    )
    assert re.search(r"parameter of empty (in \S+ )?at test_budget.py:\d+", text)
    assert (
        f"help: raise the budget to at least {alive}; or free {over} of the holders above; or use a smaller batch"
        in text
    )
    assert bs.memory.stats()["budget"] is None and bs.memory.stats()["live"] == live
    del net


def test_an_impossible_budget_for_a_known_step_is_refused_before_its_work() -> None:
    net, optimizer, x = perceptron()

    def step() -> None:
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()

    with bs.memory.capture() as steps:
        step()
    optimizer.zero_grad()
    gc.collect()
    live, weights = bs.memory.stats()["live"], [p.detach().numpy().copy() for p in net.parameters()]
    state = optimizer.state_dict()
    # What one step needs at least is known; ten thousand bytes less is not enough.
    tape = steps.tape
    budget = tape.least().peak - tape.base + live - 10_000
    calls = []
    net[0].register_forward_hook(lambda *_: calls.append(1))
    for _ in range(2):
        with pytest.raises(bs.OutOfMemoryError) as caught, bs.memory.budget(budget):
            step()
        lines = str(caught.value).splitlines()
        size = bs.memory.format_bytes(budget).replace(".0 ", " ")
        assert lines[0] == f"memory.budget: no plan keeps {budget} bytes ({size}) in this step"
        least = int(re.fullmatch(r"help: the least budget found for such a step is (\d+) bytes", lines[1])[1])
        rungs = [re.fullmatch(r"  (\d+) bytes \(.*\): (\d+\.\d) % more computing", line) for line in lines[2:]]
        assert len(rungs) == 4 and all(rungs)
        budgets, costs = [int(r[1]) for r in rungs], [float(r[2]) for r in rungs]
        assert budgets[0] == least and budgets == sorted(set(budgets)) and costs == sorted(costs, reverse=True)
        assert calls == [] and bs.memory.stats()["budget"] is None
        assert all(p.grad is None for p in net.parameters())
        assert all(np.array_equal(a, p.detach().numpy()) for a, p in zip(weights, net.parameters(), strict=True))
        assert optimizer.state_dict() == state
        del caught
        gc.collect()
        assert bs.memory.stats()["live"] == live
    # What the error offers is kept.
    for budget in budgets:
        bs.memory.reset_peak()
        with bs.memory.budget(budget):
            step()
        assert bs.memory.stats()["peak"] <= budget
        optimizer.zero_grad()


def test_a_parameter_changed_between_forward_and_backward_is_refused_under_a_plan() -> None:
    net, forward, tape = known_step()
    plan = tape.least()
    assert plan.drops > 0
    with bs.memory.budget(plan.peak - tape.base + bs.memory.stats()["live"]):
        loss = forward()
        assert bs.memory.current_plan() is not None
        with bs.no_grad():
            net[2][0].weight.mul_(0.5)
        with pytest.raises(bs.GraphError) as caught:
            loss.backward()
    text = str(caught.value)
    assert re.fullmatch(
        r"backward: a value of shape \[32, 32\] that linear at test_budget.py:\d+ saved for its gradient was changed in place "
        r"at test_budget.py:\d+; use an out-of-place op there, or clone the value before it",
        text,
    ), text
    assert all(p.grad is None for p in net.parameters())
    # The next step is as if nothing had been.
    forward().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_a_sweep_that_failed_is_no_step_to_plan_by() -> None:
    net, forward, tape = known_step()
    plan = tape.least()
    budget = plan.peak - tape.base + bs.memory.stats()["live"]

    def fail(_: bs.Tensor) -> None:
        raise KeyError("no such layer")

    weight = net[4][0].weight
    handle = weight.register_hook(fail)
    with bs.memory.budget(budget):
        loss = forward()
        with pytest.raises(KeyError):
            loss.backward()
        del loss
    handle.remove()
    gc.collect()
    with bs.memory.budget(budget):
        forward().backward()
        followed = bs.memory.current_plan()
    assert followed is not None and followed.peak == budget


@pytest.mark.parametrize(("depth", "copies"), [(1, 1), (2, 1), (1, 2), (0, 4)])
def test_what_was_made_from_a_value_before_a_write_is_planned_to_the_byte(depth: int, copies: int) -> None:
    bs.manual_seed(1)
    x, weight = ((bs.randn(64, 64) * 0.3).detach().requires_grad_() for _ in range(2))
    shift = bs.randn(64, 64)

    def step() -> tuple[bytes, bytes]:
        x.grad = weight.grad = None
        y = F.relu(x.sin())
        for _ in range(depth):
            y = F.relu(y.sin())
        before = bs.cat([y] * copies)
        # To make again what is saved of the line above takes what `y` was, which has to be made again as well.
        with bs.no_grad():
            y += shift
        h = before.sin().sum(0, keepdim=True) * x
        del before
        for _ in range(2):
            h = bs.cat([h]).sin().sum(0, keepdim=True) * weight
        (h.square().mean() + (y * x).mean()).backward()
        return x.grad.numpy().tobytes(), weight.grad.numpy().tobytes()

    base = step()
    with bs.memory.capture() as steps:
        step()
    tape = steps.tape
    least = tape.least().peak
    assert least < tape.peak
    for share in (0.8, 0.6, 0.4, 0.0):
        budget = max(least, tape.base + int((tape.peak - tape.base) * share))
        for _ in range(3):
            bs.memory.reset_peak()
            with bs.memory.budget(budget):
                assert step() == base
            plan = bs.memory.current_plan()
            assert plan is not None and plan.peak == bs.memory.stats()["peak"] <= budget


def test_a_plan_that_a_few_more_bytes_would_take_over_the_budget_gives_way_to_another() -> None:
    _, forward, tape = known_step()
    least, span = tape.least().peak - tape.base, tape.peak - tape.base
    assert least < 0.8 * span
    budget = bs.memory.stats()["live"] + int(0.9 * span)
    while True:
        with bs.memory.budget(budget):
            for _ in range(3):
                forward().backward()
        plan = bs.memory.current_plan()
        assert plan is not None
        if plan.peak == budget:
            break
        budget = plan.peak
    # The whole budget is planned for, and then there are 64 bytes more.
    more = bs.ones(16)
    bs.memory.reset_peak()
    with bs.memory.budget(budget):
        forward().backward()
    plan = bs.memory.current_plan()
    assert plan is not None and plan.peak == bs.memory.stats()["peak"] <= budget
    del more


def test_what_is_older_than_a_planned_step_and_gone_is_made_again_as_well() -> None:
    def run(budget: int | None, more: int) -> list[bytes]:
        bs.manual_seed(1)
        x, weight = ((bs.randn(64, 64) * 0.3).detach().requires_grad_() for _ in range(2))
        gradients = []
        with bs.memory.budget(budget) if budget else contextlib.nullcontext():
            for number in range(4):
                x.grad = weight.grad = None
                u = x.sin()
                first = u.cos().sum()
                first.backward(retain_graph=True)
                # From here on it is another step, whose plan takes `u` for granted.
                h = (bs.cat([u] * 2) + 0.5).sin().sum(0, keepdim=True) * weight
                del u
                for _ in range(3):
                    h = bs.cat([h] * 2).sin().sum(0, keepdim=True) * weight
                # Bytes that no plan knew of push it out.
                extra = bs.ones(more) if number == 3 else None
                (h.square().mean() + first).backward()
                del first, h, extra
                gradients += [x.grad.numpy().tobytes(), weight.grad.numpy().tobytes()]
        return gradients

    live = bs.memory.stats()["live"]
    bs.memory.reset_peak()
    base = run(None, 1)
    peak, kept = bs.memory.stats()["peak"], 0
    for share in (0.8, 0.75, 0.7):
        for more in (1, 4096, 8192):
            try:
                assert run(live + int((peak - live) * share), more) == base
                kept += 1
            except bs.OutOfMemoryError:
                # So many bytes more may be too many.
                assert more > 1
    assert kept > 4


def test_what_a_write_without_recording_made_of_a_value_is_what_is_replayed() -> None:
    def run(budget: int | None) -> tuple[bytes, int]:
        x = bs.linspace(-1, 1, 4096).requires_grad_()
        bs.memory.reset_peak()
        with bs.memory.budget(budget) if budget else contextlib.nullcontext():
            y = x.sin()
            with bs.no_grad():
                y.mul_(3.0)
            z = y.exp()
            del y
            for _ in range(6):
                z = z.cos()
            z.sum().backward()
        return x.grad.numpy().tobytes(), bs.memory.stats()["peak"]

    base, peak = run(None)
    for share in (0.9, 0.8, 0.7, 0.6):
        with contextlib.suppress(bs.OutOfMemoryError):
            assert run(int(peak * share))[0] == base


def test_an_error_inside_a_region_under_a_budget_leaves_nothing_behind() -> None:
    net, optimizer, x = perceptron()

    def broken(y: bs.Tensor) -> bs.Tensor:
        bs.checkpoint(net[0], y)
        raise KeyError("no such layer")

    def step(work: Callable[[bs.Tensor], bs.Tensor]) -> list[bytes]:
        optimizer.zero_grad()
        bs.checkpoint(net, bs.checkpoint(work, x)).square().mean().backward()
        return [p.grad.numpy().tobytes() for p in net.parameters()]

    base = step(net[0])
    optimizer.zero_grad()
    gc.collect()
    nodes, live = bs.memory.stats()["nodes"], bs.memory.stats()["live"]
    with bs.memory.budget(live + 400_000):
        for _ in range(3):
            with pytest.raises(KeyError) as caught:
                step(broken)
            assert caught.value.args == ("no such layer",)
            del caught
            gc.collect()
            assert bs.memory.stats()["nodes"] == nodes and bs.memory.stats()["live"] == live
            assert step(net[0]) == base
            optimizer.zero_grad()
    assert bs.is_grad_enabled()


def test_impure_functions_run_once_under_every_budget() -> None:
    calls: list[int] = []

    class Impure(bs.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: bs.Tensor) -> bs.Tensor:
            calls.append(1)
            return x * float(len(calls))

        @staticmethod
        def backward(ctx: Any, dy: bs.Tensor) -> bs.Tensor:
            return dy

    def step(x: bs.Tensor) -> bytes:
        calls.clear()
        y = x
        for _ in range(4):
            y = Impure.apply(y.sin()).cos().sin()
        x.grad = None
        y.sum().backward()
        return x.grad.numpy().tobytes()

    x = bs.randn(4096).requires_grad_()
    base = step(x)
    x.grad = None
    with bs.memory.capture() as steps:
        step(x)
    x.grad = None
    tape = steps.tape
    for plan in tape.ladder([tape.least().peak, (tape.least().peak + tape.peak) // 2]):
        x.grad = None
        with bs.memory.budget(plan.peak - tape.base + bs.memory.stats()["live"]):
            assert step(x) == base
        assert plan.drops > 0 and len(calls) == 4


def test_plans_and_tapes_come_back_from_json() -> None:
    net, optimizer, x = perceptron()
    with bs.memory.capture() as steps:
        net(x).square().mean().backward()
    optimizer.zero_grad()
    tape = steps.tape
    again = bs.memory.Tape.from_json(tape.json())
    assert again.json() == tape.json() and (again.peak, again.base, len(again)) == (tape.peak, tape.base, len(tape))
    plan = again.plan((tape.least().peak + tape.peak) // 2)
    read = bs.memory.Plan.from_json(plan.json())
    assert read.json() == plan.json() and (read.peak, read.drops) == (plan.peak, plan.drops)
    for text, says in [
        ("{}", 'json: "kind" is missing'),
        (plan.json(), "json: a plan; a tape would be right"),
        (tape.json().replace('"version":1', '"version":9'), "json: version 9 of a tape; this program reads version 1"),
    ]:
        with pytest.raises(ValueError) as caught:
            bs.memory.Tape.from_json(text)
        assert str(caught.value) == says


def test_a_step_that_frees_the_gradients_of_the_one_before_is_not_refused_for_them() -> None:
    def make() -> Callable[[], float]:
        bs.manual_seed(0)
        net = nn.Sequential(nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 10))
        optimizer, x = optim.SGD(net.parameters(), lr=0.1), bs.randn(16, 64)

        def step() -> float:
            loss = net(x).square().mean()
            # After the forward: the first step has nothing to free here, and later ones begin with more.
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return loss.item()

        return step

    step = make()
    base = [step() for _ in range(4)]
    gc.collect()
    with bs.memory.capture() as steps:
        step()
    del step
    gc.collect()
    step, budget = make(), steps.tape.least().peak
    bs.memory.reset_peak()
    with bs.memory.budget(budget):
        assert [step() for _ in range(4)] == base
    assert bs.memory.stats()["peak"] <= budget
