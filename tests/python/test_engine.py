"""The engine seen from Python: gradients, errors, memory, files, and the demo."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import backsweep as bs
import backsweep.nn.functional as F
from backsweep import errors, nn, optim


def test_a_known_expression_has_its_published_gradient():
    # micrograd's README: g = 24.7041, dg/da = 138.8338, dg/db = 645.5773
    a = bs.tensor(-4.0, dtype=bs.float64, requires_grad=True)
    b = bs.tensor(2.0, dtype=bs.float64, requires_grad=True)
    c = a + b
    d = a * b + b**3
    c = c + c + 1
    c = c + 1 + c + (-a)
    d = d + d * 2 + F.relu(b + a)
    d = d + 3 * d + F.relu(b - a)
    e = c - d
    f = e**2
    g = f / 2.0 + 10.0 / f
    g.backward()
    assert np.allclose([g.item(), a.grad.item(), b.grad.item()], [24.7041, 138.8338, 645.5773], atol=1e-4)


def test_gradients_of_any_order_come_from_create_graph():
    x = bs.tensor(0.7, dtype=bs.float64, requires_grad=True)
    y = bs.sin(x)
    for want in (np.cos(0.7), -np.sin(0.7), -np.cos(0.7), np.sin(0.7)):
        (y,) = bs.autograd.grad(y, x, create_graph=True)
        assert abs(y.item() - want) < 1e-12


@settings(deadline=None, max_examples=60, derandomize=True)
@given(st.data())
def test_broadcast_gradients_have_the_shape_of_their_inputs(data):
    shape = data.draw(st.lists(st.integers(1, 4), min_size=0, max_size=3))
    drop = data.draw(st.integers(0, len(shape)))
    other = [1 if data.draw(st.booleans()) else s for s in shape[drop:]]
    x, y = bs.randn(*shape, dtype=bs.float64), bs.randn(*other, dtype=bs.float64)
    x.requires_grad_(), y.requires_grad_()
    (x * y).sum().backward()
    want = np.broadcast_to(y.detach().numpy(), shape)
    assert np.allclose(x.grad.numpy(), want)
    full = np.broadcast_to(x.detach().numpy(), shape)
    extra = tuple(range(len(shape) - len(other)))
    kept = full.sum(axis=extra) if extra else full
    axes = tuple(i for i, s in enumerate(other) if s == 1)
    assert y.grad.shape == tuple(other) and np.allclose(y.grad.numpy(), kept.sum(axis=axes, keepdims=True))


def test_a_value_changed_in_place_after_it_was_saved_is_noticed():
    x = bs.tensor([1.0, 2.0], requires_grad=True)
    h = x * 2.0
    y = bs.exp(h)
    y.detach().mul_(3.0)
    with pytest.raises(errors.GraphError, match="changed in place"):
        y.sum().backward()


def test_a_second_backward_names_retain_graph():
    x = bs.tensor([1.0], requires_grad=True)
    y = bs.exp(x).sum()
    y.backward()
    with pytest.raises(errors.GraphError, match="retain_graph"):
        y.backward()


def test_an_array_on_saved_memory_is_read_only():
    x = bs.tensor([1.0], requires_grad=True)
    y = bs.exp(x)
    with pytest.raises(ValueError, match="read-only"):
        y.detach().numpy()[:] = 7.0
    y.sum().backward()
    assert np.allclose(x.grad.numpy(), np.e)


def test_categories_sum_to_live_bytes_and_steps_leave_nothing_behind():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    optimizer = optim.AdamW(model.parameters(), lr=1e-3)

    def step() -> dict[str, int]:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(bs.randn(10, 8)), bs.randint(4, (10,)))
        loss.backward()
        optimizer.step()
        del loss
        stats = bs.memory.stats()
        assert sum(stats[c] for c in bs.memory.CATEGORIES) == stats["live"]
        return {name: stats[name] for name in ("live", "nodes", "blocks")}

    step()
    first = step()
    for _ in range(20):
        assert step() == first


def test_relu_keeps_one_bit_an_element():
    x = bs.randn(64, 1024).requires_grad_()
    before = bs.memory.stats()["activation"]
    y = F.relu(x)
    assert bs.memory.stats()["activation"] - before == 64 * 1024 // 8
    del y


def test_over_the_limit_nothing_has_changed_and_training_goes_on():
    x = bs.randn(256, 256).requires_grad_()
    live = bs.memory.stats()["live"]
    with bs.memory.limit(live + 100_000), pytest.raises(errors.OutOfMemoryError, match="largest holders"):
        bs.exp(x)
    assert bs.memory.stats()["live"] == live
    bs.exp(x).sum().backward()
    assert x.grad is not None


def test_weights_survive_a_file_and_a_broken_file_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    state = {"a": bs.randn(3, 4), "b": bs.randn(5).bfloat16(), "c": bs.arange(6), "d": bs.ones(0, 3)}
    bs.save(state, path)
    loaded = bs.load(path)
    assert list(loaded) == list(state)
    for name, value in state.items():
        assert loaded[name].dtype is value.dtype and loaded[name].shape == value.shape
        assert loaded[name].tolist() == value.tolist()
    whole = path.read_bytes()
    for cut in (0, 7, 20, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(errors.ValueError, match="load"):
            bs.load(path)


def test_dropout_keeps_no_mask_and_draws_the_same_on_the_way_back():
    bs.manual_seed(3)
    x = bs.ones(1000).requires_grad_()
    y = F.dropout(x, 0.4)
    assert bs.memory.stats()["activation"] == 0
    y.sum().backward()
    assert x.grad.tolist() == y.tolist()


def test_replayed_values_give_the_same_bits():
    def gradients(drop: bool) -> list[float]:
        bs.manual_seed(0)
        before = bs._core.set_replayable(True)
        model = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Dropout(0.3), nn.LayerNorm(8), nn.Linear(8, 3))
        loss = F.cross_entropy(model(bs.randn(5, 6)), bs.tensor([0, 1, 2, 1, 0]))
        bs._core.set_replayable(before)
        if drop:
            assert bs._core.drop_saved(loss) > 0
        loss.backward()
        return [v for p in model.parameters() for v in p.grad.reshape(-1).tolist()]

    assert gradients(True) == gradients(False)


def test_the_demo_learns_and_reports(tmp_path):
    command = [sys.executable, "-m", "backsweep", "demo", "--steps", "20", "--json", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    report = json.loads(done.stdout)
    for name in ("val_loss", "train_loss", "seconds", "tokens_per_second", "peak_bytes", "activation_bytes", "version"):
        assert name in report
    assert report["steps"] == 20 and report["device"] == "cpu" and report["val_loss"] < 4.2
    assert report["bill"]["total"] == sum(report["bill"]["by_category"].values())
    assert set(bs.load(report["weights"])) >= {"token.weight", "norm.weight"}


class Loud:
    """Runs ops when it is collected, as garbage: anywhere that Python allocates."""

    runs = 0

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        assert (bs.ones(3) * 2).sum().item() == 6.0
        Loud.runs += 1


def test_a_finalizer_may_run_ops_in_the_middle_of_an_op():
    before = gc.get_threshold()
    gc.set_threshold(1, 1, 1)
    try:
        x = bs.ones(3).requires_grad_()
        layer = nn.Linear(3, 3)
        for _ in range(200):
            Loud()
            layer(x * x.shape[0]).sum().backward()
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert Loud.runs == 200


def test_hooks_on_leaves_come_and_go_between_sweeps():
    x = bs.ones(3, requires_grad=True)

    def sweep() -> list[float]:
        x.grad = None
        (x * 2.0 + x).sum().backward()
        return x.grad.tolist()

    assert sweep() == [3.0] * 3
    seen: list[float] = []
    handle = x.register_hook(lambda dy: seen.append(dy[0].item()))
    double = x.register_hook(lambda dy: dy * 2.0)
    assert sweep() == [6.0] * 3 and seen == [3.0]
    double.remove()
    assert sweep() == [3.0] * 3 and seen == [3.0, 3.0]
    handle.remove()
    assert sweep() == [3.0] * 3 and len(seen) == 2
    (dx,) = bs.autograd.grad((x * 4.0).sum(), x)
    assert dx.tolist() == [4.0] * 3 and x.grad.tolist() == [3.0] * 3


def test_the_gradient_that_a_sweep_starts_with_is_on_the_bill():
    x = bs.ones(3, requires_grad=True)
    rows: list[dict[str, object]] = []
    loss = x.sum()
    loss.register_hook(lambda dy: rows.extend(bs.memory.snapshot()))
    loss.backward()  # this line
    line = next(i for i, text in enumerate(Path(__file__).read_text().splitlines(), 1) if "# this line" in text)
    assert [row["op"] for row in rows if row["line"] == f"test_engine.py:{line}"] == ["full"]
    assert x.grad.tolist() == [1.0] * 3
