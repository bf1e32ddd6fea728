"""Trials: budgets measured on a training that does not notice."""

from __future__ import annotations

import numpy as np
import pytest

import backsweep as bs
from backsweep import nn, optim
from backsweep.profiler import profile
from backsweep.profiler.trials import REPEATS, SHARES

# Budgets take turns with steps that have none.
ON_TRIAL = REPEATS * (len(SHARES) + 1)
STEPS = 3 + ON_TRIAL + 2


def train(steps: int, batch: int = 256, *, wide_from: int | None = None) -> list[np.ndarray]:
    """A training with dropout; from a step on with a batch that is eight times as wide."""
    bs.manual_seed(0)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Dropout(0.1)) for _ in range(8)))
    optimizer = optim.AdamW(model.parameters())
    losses = []
    for step in range(steps):
        wide = wide_from is not None and step >= wide_from
        loss = model(bs.randn(8 * batch if wide else batch, 32)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach().numpy().copy())
    return [*losses, *(p.detach().numpy().copy() for p in model.parameters())]


@pytest.fixture(scope="module")
def prof() -> profile:
    with profile(pareto=True) as prof:
        train(STEPS)
    return prof


def test_a_training_on_trial_has_the_same_bits() -> None:
    wanted = train(STEPS)
    with profile(pareto=True):
        found = train(STEPS)
    assert [a.tobytes() for a in wanted] == [b.tobytes() for b in found]
    assert bs.memory.stats()["budget"] is None


def test_steps_on_trial_are_left_out_of_the_peak_and_the_times(prof: profile) -> None:
    with profile() as plain:
        train(STEPS)
    own, other = prof.summary(), plain.summary()
    assert own["peak_bytes"] - prof.tables.present_bytes == other["peak_bytes"] - plain.tables.present_bytes
    assert (own["steps"], own["trial_steps"]) == (STEPS - len(prof.tables.trial_steps), ON_TRIAL + 2)
    assert {row["step"] for row in prof.steps() if row["trial"]} == set(range(3, 5 + ON_TRIAL))
    assert own["replay_flops"] == other["replay_flops"]


def test_a_planned_peak_is_the_measured_one_to_the_byte(prof: profile) -> None:
    rows = [row for row in prof.pareto() if row["measured_peak_bytes"] is not None]
    assert len(rows) == len(SHARES)
    for row in rows:
        assert row["planned_peak_bytes"] == row["measured_peak_bytes"] <= row["budget_bytes"]
        assert row["measured_overhead"] > -0.9 and row["measured_seconds"] > 0


def test_more_bytes_never_cost_more_and_others_are_not_better(prof: profile) -> None:
    rows, table = prof.pareto(), prof.tables.trade_off
    assert table is not None
    assert [r["budget_bytes"] for r in rows] == sorted((r["budget_bytes"] for r in rows), reverse=True)
    costs = [r["overhead"] for r in rows]
    assert costs == sorted(costs) and costs[0] == 0 and rows[0]["keep_all"] == 0
    for row in rows:
        assert row["peak_bytes"] <= row["budget_bytes"] and row["budget_bytes"] >= table.to_dict()["bound_bytes"]
        for other in ("every_sqrt", "dtr", "keep_all"):
            assert row[other] is None or row["overhead"] <= row[other] * (1 + 1e-9)
    dropped = [sum(d["bytes"] for d in drops) for drops in table.dropped]
    assert dropped[0] == 0 and dropped[-1] > 0
    assert "time" in str(prof) and prof.summary()["budgets"][-1]["overhead"] == costs[-1]


def test_a_step_that_turns_out_larger_lifts_the_budget_and_goes_on() -> None:
    wanted = train(12, wide_from=5)
    with profile(pareto=True) as prof:
        found = train(12, wide_from=5)
    assert [a.tobytes() for a in wanted] == [b.tobytes() for b in found]
    assert "error" not in prof.summary()["facts"] and prof.explain() is None
    assert bs.memory.stats()["budget"] is None


def test_a_run_with_a_budget_of_its_own_is_not_put_on_trial() -> None:
    with profile(pareto=True) as prof, bs.memory.budget("64 MiB"):
        train(6)
    assert not prof.tables.trial_steps
    # Its steps were taken down anyhow.
    assert prof.pareto() and all(row["measured_peak_bytes"] is None for row in prof.pareto())


def test_a_short_run_says_what_is_missing() -> None:
    with profile(pareto=True) as prof:
        train(2)
    assert prof.pareto() == [] and bs.memory.stats()["budget"] is None
    with profile(pareto=True) as prof:
        train(3)
    assert prof.pareto() and prof.summary()["steps"] == 2
