"""memory.forecast: the peak of a step from shapes alone, to the byte, and nothing changed by the asking."""

from __future__ import annotations

import importlib.util
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backsweep as bs
from backsweep import nn, optim
from backsweep.nn import functional as F


def _load(name: str) -> Any:
    path = Path(__file__).parents[2] / "benches" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


WORKLOADS = _load("workloads").WORKLOADS
SMALLER = {
    "resnet18": {"batch": 2},
    "resnet20": {"batch": 8},
    "lstm": {"steps": 16},
    "gpt-baby": {"layers": 2, "batch": 2},
    "gpt-long": {"block": 512},
}


def _measured(step: Any, *args: Any) -> int:
    bs.memory.reset_peak()
    step(*args)
    return int(bs.memory.stats()["peak"])


def _training(name: str) -> tuple[Any, Any, Any]:
    workload = WORKLOADS[name]
    workload = replace(workload, model=replace(workload.model, **SMALLER.get(name, {})))
    model = workload.build(bs, nn, F)
    optimizer = getattr(optim, workload.optimizer)(model.parameters(), **workload.settings)
    loss = workload.loss_function(F)
    x, y = (bs.from_numpy(part) for part in workload.batches(1)[0])

    def step() -> None:
        optimizer.zero_grad()
        loss(model, x, y).backward()
        optimizer.step()

    return model, optimizer, step


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_forecast_is_the_measured_peak_to_the_byte(name: str) -> None:
    _, _, step = _training(name)
    for moment in ("first", "second", "third"):
        told = bs.memory.forecast(step)
        assert told.peak == _measured(step), f"{name}, {moment} step"
        assert sum(told.by_category.values()) == told.peak


OPTIMIZERS = [
    (name, settings)
    for name in ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Lion")
    for settings in ({"lr": 0.01}, {"lr": 0.01, "weight_decay": 0.1})
]


@pytest.mark.parametrize(("name", "settings"), OPTIMIZERS)
@pytest.mark.parametrize("keep", [True, False])
def test_every_optimizer_is_forecast_to_the_byte(name: str, settings: dict[str, float], keep: bool) -> None:
    net = nn.Sequential(nn.Linear(70, 90), nn.GELU(), nn.Linear(90, 70))
    optimizer = getattr(optim, name)(net.parameters(), **settings)
    x = bs.rand(33, 70)

    def step() -> None:
        optimizer.zero_grad(set_to_none=not keep)
        net(x).square().mean().backward()
        optimizer.step()

    for _ in range(3):
        assert bs.memory.forecast(step).peak == _measured(step)


def test_a_forecast_changes_nothing() -> None:
    head = [nn.Dropout(0.5), nn.Flatten(), nn.Linear(288, 5)]
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), *head)
    optimizer = optim.Adam(net.parameters())
    schedule = optim.lr_scheduler.StepLR(optimizer, 1)
    x, y = bs.rand(4, 3, 8, 8), bs.tensor([0, 1, 2, 3])

    def step() -> None:
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()

    def all_of_it() -> Any:
        stats = bs.memory.stats()
        grads = [None if p.grad is None else p.grad.numpy().tobytes() for p in net.parameters()]
        state = [
            {k: v.numpy().tobytes() if isinstance(v, bs.Tensor) else v for k, v in s.items()}
            for s in optimizer.state.values()
        ]
        return (
            [(k, v.numpy().tobytes(), v._version) for k, v in net.state_dict().items()],
            grads,
            [None if g is None else len(g) for g in grads],
            state,
            [g["lr"] for g in optimizer.param_groups],
            {k: v for k, v in vars(schedule).items() if k != "optimizer"},
            bs.get_rng_state().tolist(),
            {k: stats[k] for k in ("live", "peak", "blocks", "nodes", *bs.memory.CATEGORIES)},
        )

    for _ in range(3):
        before = all_of_it()
        bs.memory.forecast(step)
        assert all_of_it() == before
        step()


def test_a_gradient_that_is_summed_twice_is_put_back() -> None:
    w = bs.ones(2000, requires_grad=True)
    (w * 3).sum().backward()

    def step() -> None:
        for _ in range(2):
            (w * 2).sum().backward()

    told = bs.memory.forecast(step)
    assert w.grad is not None and w.grad.tolist() == [3.0] * 2000
    assert told.peak == _measured(step)
    assert w.grad.tolist() == [7.0] * 2000


@pytest.mark.parametrize(
    "read", [lambda t: t.item(), float, lambda t: t.detach().numpy(), lambda t: t.tolist(), bool, int]
)
def test_reading_a_number_is_refused_and_everything_put_back(read: Any) -> None:
    net = nn.Linear(3, 3)
    live = bs.memory.stats()["live"]

    def step() -> None:
        loss = net(bs.ones(2, 3)).sum()
        loss.backward()
        read(loss)

    with pytest.raises(bs.GraphError, match="a forecast has shapes and no numbers; leave out"):
        bs.memory.forecast(step)
    assert net.weight.grad is None and bs.memory.stats()["live"] == live
    step()


def test_a_tensor_that_a_step_leaves_behind_is_refused() -> None:
    left: list[bs.Tensor] = []
    bs.memory.forecast(lambda: left.append(bs.ones(3)))
    with pytest.raises(bs.GraphError, match="made in a forecast"):
        left[0] + 1
    with pytest.raises(bs.GraphError, match="no numbers"):
        left[0].tolist()


def test_what_cannot_be_forecast_is_refused() -> None:
    with bs.memory.budget("1 GiB"), pytest.raises(bs.GraphError, match=r"outside of the memory\.budget"):
        bs.memory.forecast(lambda: None)
    with bs.memory.record(), pytest.raises(bs.GraphError, match="end it first"):
        bs.memory.forecast(lambda: None)
    with pytest.raises(bs.GraphError, match="take the inner one out"):
        bs.memory.forecast(lambda: bs.memory.forecast(lambda: None))
    loss = bs.ones(3, requires_grad=True).exp().sum()
    with pytest.raises(bs.GraphError, match="recorded before the forecast"):
        bs.memory.forecast(loss.backward)
    loss.backward()


def test_checkpoints_batches_made_inside_and_a_limit() -> None:
    net = nn.Sequential(*(nn.Linear(64, 64) for _ in range(8)))
    optimizer = optim.AdamW(net.parameters())

    def step() -> None:
        optimizer.zero_grad()
        x = bs.from_numpy(np.ones((64, 64), np.float32)) + bs.randn(64, 64)
        for layer in net:
            x = bs.checkpoint(lambda x, layer=layer: F.gelu(layer(x)), x)
        x.square().mean().backward()
        optimizer.step()

    for _ in range(2):
        with bs.memory.limit(bs.memory.stats()["live"] + 64):
            told = bs.memory.forecast(step)
        assert told.peak == _measured(step)


def test_a_step_of_200_gib_is_forecast_in_seconds() -> None:
    began = time.perf_counter()

    def step() -> None:
        net = nn.Sequential(*(nn.Linear(16384, 16384, bias=False) for _ in range(50)))
        optimizer = optim.Adam(net.parameters())
        x = bs.empty(8192, 16384)
        for layer in net:
            x = F.gelu(layer(x))
        x.square().mean().backward()
        optimizer.step()

    told = bs.memory.forecast(step)
    print(told, f"{time.perf_counter() - began:.2f} s")
    assert told.peak > 200 * 2**30 and not told.fits("200 GiB") and told.fits("1 TiB")
    assert time.perf_counter() - began < 20
