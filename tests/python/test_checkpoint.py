"""Checkpointed regions and byte budgets: fewer bytes, the same bits."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import backsweep as bs
import backsweep.nn.functional as F
from backsweep import nn, optim


class Block(nn.Module):
    """A residual block with everything that makes replay hard: noise, running statistics, a view, an in-place write."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.up = nn.Linear(width, 3 * width)
        self.drop = nn.Dropout(0.2)
        self.down = nn.Linear(3 * width, width)

    def forward(self, x: bs.Tensor) -> bs.Tensor:
        h = F.gelu(self.up(self.norm(x)))
        h = self.drop(h).reshape(x.shape[0], 3, -1).transpose(1, 2).reshape(x.shape[0], -1)
        h = self.down(h)
        h += 0.5
        return x + F.relu(h)


class Deep(nn.Module):
    def __init__(self, depth: int, wrap: Callable[..., Any]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(16) for _ in range(depth)])
        self.wrap = wrap

    def forward(self, x: bs.Tensor) -> bs.Tensor:
        for block in self.blocks:
            x = self.wrap(block, x)
        return x.square().mean()


def plain(function: Callable[..., Any], *args: Any) -> Any:
    return function(*args)


def train(wrap: Callable[..., Any] = plain, budget: int | None = None, steps: int = 3, depth: int = 6) -> dict[str, Any]:
    """What training leaves: losses, gradients, statistics, weights; its peak and what it kept for the sweep."""
    bs.manual_seed(0)
    model = Deep(depth, wrap)
    x = bs.randn(256, 16)
    optimizer = optim.Adam(model.parameters(), lr=0.01)
    values, kept, peak = [], 0, 0
    bs.memory.reset_peak()
    for _ in range(steps):
        with bs.memory.budget(budget) if budget else contextlib.nullcontext():
            optimizer.zero_grad()
            loss = model(x)
            kept = bs.memory.stats()["activation"]
            loss.backward()
            values += [loss.detach().numpy().copy()] + [p.grad.numpy().copy() for p in model.parameters()]
            optimizer.step()
            del loss
    peak = bs.memory.stats()["peak"]
    values += [v.numpy().copy() for v in model.state_dict().values()]
    return {"values": values, "kept": kept, "peak": peak}


def same_bits(a: dict[str, Any], b: dict[str, Any]) -> bool:
    pairs = list(zip(a["values"], b["values"], strict=True))
    return all(u.tobytes() == v.tobytes() for u, v in pairs)


def test_a_checkpointed_model_keeps_less_and_learns_the_same_bits():
    base, less = train(), train(bs.checkpoint)
    assert same_bits(base, less)
    assert less["kept"] < 0.4 * base["kept"]
    assert less["peak"] < base["peak"]


def test_regions_nest():
    def nested(block: nn.Module, x: bs.Tensor) -> bs.Tensor:
        return bs.checkpoint(lambda y: bs.checkpoint(block, bs.checkpoint(F.silu, y)), x)

    def flat(block: nn.Module, x: bs.Tensor) -> bs.Tensor:
        return block(F.silu(x))

    assert same_bits(train(flat), train(nested))


def test_each_op_of_a_region_is_replayed_once():
    x = bs.randn(64, 64).requires_grad_()

    def chain(y: bs.Tensor) -> bs.Tensor:
        for _ in range(5):
            y = y.sin()
        return y

    loss = bs.checkpoint(chain, x).sum()
    before = bs.memory.stats()["replayed"]
    loss.backward()
    # The last sine's output is not needed: four values were saved inside the region.
    assert bs.memory.stats()["replayed"] - before == 4


def test_the_checkpoint_module_calls_what_it_holds():
    bs.manual_seed(1)
    inner = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    model = nn.Checkpoint(inner)
    x = bs.randn(3, 4)
    model(x).sum().backward()
    first = inner[0].weight.grad.numpy().copy()
    inner.zero_grad()
    inner(x).sum().backward()
    assert np.array_equal(first, inner[0].weight.grad.numpy())


def test_a_checkpointed_region_can_be_swept_twice_and_differentiated_twice():
    x = bs.tensor([0.3, -0.7]).requires_grad_()
    y = bs.checkpoint(lambda v: (v.sin() * v.exp()).tanh(), x).sum()
    y.backward(retain_graph=True)
    once = x.grad.numpy().copy()
    y.backward()
    assert np.array_equal(x.grad.numpy(), 2 * once)

    def second(wrap: Callable[..., Any]) -> list[float]:
        y = wrap(lambda v: (v.sin() * v.exp()).tanh(), x).sum()
        (dx,) = bs.autograd.grad(y, [x], create_graph=True)
        return bs.autograd.grad(dx.square().sum(), [x])[0].tolist()

    assert second(bs.checkpoint) == second(plain)


def test_an_error_inside_a_region_leaves_nothing_behind():
    x = bs.randn(8, 8).requires_grad_()

    def broken(y: bs.Tensor) -> bs.Tensor:
        y = y.sin()
        raise RuntimeError("no")

    nodes = bs.memory.stats()["nodes"]
    with pytest.raises(RuntimeError, match="no"):
        bs.checkpoint(broken, x)
    assert bs.memory.stats()["nodes"] == nodes
    before = bs.memory.stats()["replayed"]
    x.sin().sin().sum().backward()
    assert bs.memory.stats()["replayed"] == before


def test_a_parameter_changed_between_forward_and_replay_is_refused():
    layer = nn.Linear(4, 4)
    loss = bs.checkpoint(lambda y: layer(layer(y).tanh()).tanh(), bs.randn(2, 4)).sum()
    with bs.no_grad():
        layer.bias += 1.0
    with pytest.raises(bs.GraphError, match="changed in place"):
        loss.backward()


def test_functions_of_the_user_are_kept_and_never_replayed():
    calls = []

    class Twice(bs.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            calls.append(1)
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx, dy):
            return dy * 2

    x = bs.randn(32, 32).requires_grad_()
    bs.checkpoint(lambda y: Twice.apply(y.sin()).sin().sin(), x).sum().backward()
    assert len(calls) == 1
    expected = 2 * np.cos(x.detach().numpy()) * np.cos(2 * np.sin(x.detach().numpy()))
    expected *= np.cos(np.sin(2 * np.sin(x.detach().numpy())))
    assert np.allclose(x.grad.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("share", [0.95, 0.85, 0.7, 0.55])
def test_a_budget_is_kept_and_changes_no_bit(share: float):
    base = train()
    budget = int(base["peak"] * share)
    under = train(budget=budget)
    assert same_bits(base, under)
    assert under["peak"] <= budget


def test_a_budget_and_regions_go_together():
    base = train()
    budget = int(base["peak"] * 0.6)
    under = train(bs.checkpoint, budget)
    assert same_bits(base, under) and under["peak"] <= budget


def test_an_impossible_budget_says_so_and_leaves_everything_as_it_was():
    layer = nn.Linear(256, 256)
    weight = layer.weight.detach().numpy().copy()
    live = bs.memory.stats()["live"]
    with pytest.raises(bs.OutOfMemoryError, match="budget"), bs.memory.budget(live + 100_000):
        layer(bs.randn(64, 256)).square().sum().backward()
    assert np.array_equal(weight, layer.weight.detach().numpy()) and layer.weight.grad is None
    assert bs.memory.stats()["live"] == live and bs.memory.stats()["budget"] is None
    with pytest.raises(bs.OutOfMemoryError, match="memory.budget"), bs.memory.budget(1000):
        pass
    assert bs.memory.stats()["budget"] is None


@pytest.mark.parametrize("amount", [0, -5, "many", "-3 MiB", 1.5, True])
def test_budgets_that_are_no_sizes(amount: Any):
    with pytest.raises(ValueError, match="memory"):
        bs.memory.budget(amount)


def test_hints_are_followed():
    def kept(hint: Callable[[bs.Tensor], bs.Tensor]) -> bool:
        x = bs.randn(1024, 64).requires_grad_()
        live = bs.memory.stats()["live"]
        with bs.memory.budget(live + 6 * x.numel() * 4):
            marked = hint(x.sin())
            marker = marked.numel()
            y = marked.sin()
            del marked
            for _ in range(4):
                y = y.sin()
            alive = [b for b in bs.memory.snapshot() if b["op"] == "sin" and b["bytes"] == marker * 4]
            replayed = bs.memory.stats()["replayed"]
            y.sum().backward()
            assert bs.memory.stats()["replayed"] >= replayed
        return len(alive) > 0

    assert kept(bs.memory.must_keep)
    assert kept(bs.memory.must_drop)


@given(seed=st.integers(0, 2**32 - 1), share=st.floats(0.3, 0.95))
@settings(max_examples=150, deadline=None)
def test_random_graphs_under_random_budgets_give_the_same_bits(seed: int, share: float):
    def run(budget: int | None) -> tuple[list[np.ndarray], int]:
        draw = np.random.default_rng(seed)
        bs.manual_seed(seed % 1000)
        leaves = [bs.tensor(draw.standard_normal((32, 32)).astype(np.float32)).requires_grad_() for _ in range(2)]
        bs.memory.reset_peak()
        with bs.memory.budget(budget) if budget else contextlib.nullcontext():
            values = list(leaves)
            for _ in range(int(draw.integers(3, 25))):
                a, b = (values[int(i)] for i in draw.integers(max(0, len(values) - 6), len(values), 2))
                kind = int(draw.integers(0, 8))
                values.append(
                    [
                        lambda: (a @ b) * 0.1,
                        lambda: a.tanh() * b,
                        lambda: F.layer_norm(a, [32]) + b,
                        lambda: F.dropout(a, 0.3),
                        lambda: F.gelu(a.t()) + b,
                        lambda: bs.cat([a[:16], b[16:]]),
                        lambda: F.softmax(a, -1) * b,
                        lambda: a.sin(),
                    ][kind]()
                )
                del a, b
            loss = sum((v.square().mean() for v in values[-3:]), start=bs.zeros(()))
            del values
            loss.backward()
            gradients = [leaf.grad.numpy().copy() for leaf in leaves if leaf.grad is not None]
        return gradients, bs.memory.stats()["peak"]

    live = bs.memory.stats()["live"]
    base, peak = run(None)
    budget = live + int((peak - live) * share)
    try:
        under, bounded = run(budget)
    except bs.OutOfMemoryError:
        return
    assert bounded <= budget
    assert len(base) == len(under) and all(np.array_equal(u, v) for u, v in zip(base, under, strict=True))
