"""Learning-rate schedules against closed forms and tables: alone, chained, in sequence, and resumed."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import backsweep as bs
from backsweep import nn, optim
from backsweep.errors import BacksweepError
from backsweep.optim import lr_scheduler as schedules

Make = Callable[[optim.Optimizer], Any]


def make_optimizer(kind: Callable[..., optim.Optimizer] = optim.SGD, lr: float = 0.1) -> optim.Optimizer:
    one, other = (nn.Parameter(bs.zeros(1)) for _ in range(2))
    optimizer = kind([{"params": [one]}, {"params": [other], "lr": lr / 4}], lr=lr)
    optimizer.report_unused = False
    return optimizer


def rates(optimizer: optim.Optimizer, make: Make, steps: int) -> np.ndarray[Any, Any]:
    """The rates of both groups before each step: [steps, 2]."""
    scheduler = make(optimizer)
    rows = []
    for _ in range(steps):
        rows.append([group["lr"] for group in optimizer.param_groups])
        assert scheduler.get_last_lr() == rows[-1]
        optimizer.step()
        scheduler.step()
    return np.array(rows)


sequence = schedules.SequentialLR


def half_cosine(part: float) -> float:
    return (1 + math.cos(math.pi * part)) / 2


CLOSED: dict[str, tuple[Make, Callable[[int], float]]] = {
    "lambda": (lambda o: schedules.LambdaLR(o, lambda k: 1 / (k + 1)), lambda k: 1 / (k + 1)),
    "step": (lambda o: schedules.StepLR(o, 5, 0.3), lambda k: 0.3 ** (k // 5)),
    "milestones": (
        lambda o: schedules.MultiStepLR(o, [12, 3, 7, 7], 0.5),
        lambda k: 0.5 ** ((k >= 3) + 2 * (k >= 7) + (k >= 12)),
    ),
    "exponential": (lambda o: schedules.ExponentialLR(o, 0.9), lambda k: 0.9**k),
    "linear": (lambda o: schedules.LinearLR(o), lambda k: 1 / 3 + (2 / 3) * min(k, 5) / 5),
    "linear down": (lambda o: schedules.LinearLR(o, 1.0, 0.0, 8), lambda k: 1 - min(k, 8) / 8),
    "cosine": (lambda o: schedules.CosineAnnealingLR(o, 20), lambda k: half_cosine(k / 20)),
    "cosine up again": (lambda o: schedules.CosineAnnealingLR(o, 6), lambda k: half_cosine(k / 6)),
    "warm-up, then cosine": (
        lambda o: sequence(
            o, [schedules.LinearLR(o, 0.1, 1.0, 4), schedules.CosineAnnealingLR(o, 16)], [4]
        ),
        lambda k: 0.1 + 0.9 * k / 4 if k < 4 else half_cosine((k - 4) / 16),
    ),
    "three phases": (
        lambda o: sequence(
            o,
            [schedules.ExponentialLR(o, 0.5), schedules.StepLR(o, 2, 0.1), schedules.LambdaLR(o, float)],
            [3, 8],
        ),
        lambda k: 0.5**k if k < 3 else 0.1 ** ((k - 3) // 2) if k < 8 else k - 8,
    ),
    "a sequence in a sequence": (
        lambda o: sequence(
            o,
            [
                sequence(o, [schedules.LinearLR(o, 0.5, 1.0, 2), schedules.StepLR(o, 2, 0.1)], [4]),
                sequence(o, [schedules.ExponentialLR(o, 0.5), schedules.StepLR(o, 1, 0.1)], [3]),
            ],
            [9],
        ),
        lambda k: (
            0.5 + 0.25 * min(k, 2) if k < 4
            else 0.1 ** ((k - 4) // 2) if k < 9
            else 0.5 ** (k - 9) if k < 12
            else 0.1 ** (k - 12)
        ),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CLOSED))
def test_a_schedule_follows_its_closed_form(name: str):
    make, factor = CLOSED[name]
    wanted = np.array([[0.1 * factor(k), 0.025 * factor(k)] for k in range(20)])
    np.testing.assert_allclose(rates(make_optimizer(), make, 20), wanted, rtol=1e-12, atol=1e-15)


def test_cosine_annealing_ends_at_its_minimum():
    given = rates(make_optimizer(), lambda o: schedules.CosineAnnealingLR(o, 10, eta_min=0.01), 11)[:, 0]
    np.testing.assert_allclose(given, [0.01 + 0.09 * half_cosine(k / 10) for k in range(11)], rtol=1e-12)
    np.testing.assert_allclose(given[-1], 0.01, rtol=1e-12)


def test_schedules_multiply_when_they_are_chained():
    optimizer = make_optimizer()
    chain = [schedules.LinearLR(optimizer, 0.2, 1.0, 4), schedules.StepLR(optimizer, 3, 0.5)]
    given = []
    for _ in range(10):
        given.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in chain:
            scheduler.step()
    wanted = [0.1 * (0.2 + 0.8 * min(k, 4) / 4) * 0.5 ** (k // 3) for k in range(10)]
    np.testing.assert_allclose(given, wanted, rtol=1e-12)


def test_one_function_can_be_given_for_each_group():
    given = rates(make_optimizer(), lambda o: schedules.LambdaLR(o, [lambda k: k, lambda k: 2.0**k]), 4)
    np.testing.assert_allclose(given[:, 0], [0, 0.1, 0.2, 0.3])
    np.testing.assert_allclose(given[:, 1], [0.025, 0.05, 0.1, 0.2])
    with pytest.raises(ValueError, match="LambdaLR: 1 values of lr_lambda; 2 are needed"):
        schedules.LambdaLR(make_optimizer(), [lambda k: k])


@pytest.mark.parametrize("kind", [optim.SGD, optim.AdamW])
@pytest.mark.parametrize("three_phase", [False, True])
@pytest.mark.parametrize("strategy", ["cos", "linear"])
def test_one_cycle_goes_up_and_far_down_with_momentum_the_other_way(
    kind: Callable[..., optim.Optimizer], three_phase: bool, strategy: str
):
    optimizer = make_optimizer(kind)
    scheduler = schedules.OneCycleLR(
        optimizer,
        [1.0, 0.5],
        total_steps=21,
        pct_start=0.3,
        anneal_strategy=strategy,
        three_phase=three_phase,
    )
    # Where the phases meet, from the definition: pct_start·n - 1, 2·pct_start·n - 2, n - 1.
    ends = [0.0, 5.3, 10.6, 20.0] if three_phase else [0.0, 5.3, 20.0]
    levels = [1 / 25, 1.0, 1 / 25, 1 / 25 / 1e4] if three_phase else [1 / 25, 1.0, 1 / 25 / 1e4]
    momenta = [0.95, 0.85, 0.95, 0.95] if three_phase else [0.95, 0.85, 0.95]

    def between(values: list[float], step: int) -> float:
        place = max(place for place in range(len(ends) - 1) if place == 0 or step > ends[place])
        part = (step - ends[place]) / (ends[place + 1] - ends[place])
        start, end = values[place], values[place + 1]
        return end + (start - end) * (half_cosine(part) if strategy == "cos" else 1 - part)

    for step in range(21):
        for group, top in zip(optimizer.param_groups, (1.0, 0.5), strict=True):
            np.testing.assert_allclose(group["lr"], top * between(levels, step), rtol=1e-12, atol=1e-15)
            momentum = group["betas"][0] if kind is optim.AdamW else group["momentum"]
            np.testing.assert_allclose(momentum, between(momenta, step), rtol=1e-12)
        if step < 20:
            optimizer.step()
            scheduler.step()
    optimizer.step()
    scheduler.step()
    with pytest.raises(ValueError, match="OneCycleLR: step 22 is behind the end; the cycle has 21 steps"):
        scheduler.step()


def test_one_cycle_needs_a_length_and_a_momentum():
    optimizer = make_optimizer()
    schedule = schedules.OneCycleLR(optimizer, 1.0, epochs=3, steps_per_epoch=4, cycle_momentum=False)
    assert schedule.total_steps == 12
    assert optimizer.param_groups[0]["momentum"] == 0.0
    for settings, text in (
        ({}, "no length is given"),
        ({"total_steps": 0}, "a length of 0 steps"),
        ({"total_steps": 5, "pct_start": 2.0}, "pct_start=2.0"),
        ({"total_steps": 5, "anneal_strategy": "square"}, "'square' is unknown"),
    ):
        with pytest.raises(ValueError, match=text):
            schedules.OneCycleLR(optimizer, 1.0, **settings)
    with pytest.raises(ValueError, match="Adagrad has neither momentum nor betas"):
        schedules.OneCycleLR(make_optimizer(optim.Adagrad), 1.0, total_steps=5)


PLATEAUS: list[tuple[dict[str, Any], list[float], list[float]]] = [
    # settings, metrics, the first group's rate after each; worked out by hand
    ({"patience": 1}, [1.0, 1.0, 1.0, 1.0, 1.0], [0.1, 0.1, 0.01, 0.01, 0.001]),
    ({"patience": 0, "factor": 0.5}, [3, 2, 1, 1, 0.9, 0.9], [0.1, 0.1, 0.1, 0.05, 0.05, 0.025]),
    ({"patience": 0, "factor": 0.5, "mode": "max"}, [1, 2, 2, 1, 3], [0.1, 0.1, 0.05, 0.025, 0.025]),
    ({"patience": 0, "threshold": 0.1}, [1.0, 0.95, 0.85], [0.1, 0.01, 0.01]),
    ({"patience": 0, "threshold": 0.1, "threshold_mode": "abs"}, [1.0, 0.95, 0.85], [0.1, 0.01, 0.01]),
    ({"patience": 0, "cooldown": 2}, [1.0] * 6, [0.1, 0.01, 0.01, 0.01, 0.001, 0.001]),
    ({"patience": 0, "min_lr": 0.05}, [1.0] * 4, [0.1, 0.05, 0.05, 0.05]),
    ({"patience": 0, "min_lr": [0.02, 0.0]}, [1.0] * 4, [0.1, 0.02, 0.02, 0.02]),
    ({"patience": 0, "eps": 0.2}, [1.0] * 3, [0.1, 0.1, 0.1]),
    ({"patience": 0}, [1.0, math.nan, 0.5], [0.1, 0.01, 0.01]),
]


@pytest.mark.parametrize(("settings", "metrics", "wanted"), PLATEAUS)
def test_a_plateau_reduces_the_rate(settings: dict[str, Any], metrics: list[float], wanted: list[float]):
    optimizer = make_optimizer()
    scheduler = schedules.ReduceLROnPlateau(optimizer, **settings)
    given = []
    for metric in metrics:
        scheduler.step(metric)
        given.append(optimizer.param_groups[0]["lr"])
    np.testing.assert_allclose(given, wanted, rtol=1e-12)
    assert scheduler.get_last_lr()[0] == given[-1]


def test_a_plateau_takes_a_tensor_as_its_metric():
    optimizer = make_optimizer()
    scheduler = schedules.ReduceLROnPlateau(optimizer, patience=0)
    for _ in range(2):
        scheduler.step(bs.tensor(1.0))
    np.testing.assert_allclose(optimizer.param_groups[0]["lr"], 0.01)


RESUMED: dict[str, Make] = {
    **{name: make for name, (make, _) in CLOSED.items()},
    "one cycle": lambda o: schedules.OneCycleLR(o, 1.0, total_steps=21),
}


@pytest.mark.parametrize("name", list(RESUMED))
def test_stop_and_resume_gives_the_rates_of_a_straight_run(name: str):
    make = RESUMED[name]
    straight = rates(make_optimizer(), make, 20)
    optimizer = make_optimizer()
    scheduler = make(optimizer)
    for step in range(20):
        if step == 9:
            states = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
            optimizer = make_optimizer(lr=7.0)
            scheduler = make(optimizer)
            optimizer.load_state_dict(states[0])
            scheduler.load_state_dict(states[1])
        assert [group["lr"] for group in optimizer.param_groups] == list(straight[step])
        optimizer.step()
        scheduler.step()


def test_the_state_of_a_plateau_is_resumed():
    optimizer = make_optimizer()
    scheduler = schedules.ReduceLROnPlateau(optimizer, patience=1)
    for _ in range(2):
        scheduler.step(1.0)
    resumed = schedules.ReduceLROnPlateau(optimizer, patience=5)
    resumed.load_state_dict(scheduler.state_dict())
    resumed.step(1.0)
    np.testing.assert_allclose(optimizer.param_groups[0]["lr"], 0.01)


def test_the_state_of_a_callable_object_is_resumed_and_a_function_is_kept():
    class Decay:
        def __init__(self, by: float) -> None:
            self.by = by

        def __call__(self, step: int) -> float:
            return self.by**step

    optimizer = make_optimizer()
    scheduler = schedules.LambdaLR(optimizer, [Decay(0.5), lambda k: 1.0])
    state = scheduler.state_dict()
    assert state["lr_lambdas"] == [{"by": 0.5}, None]
    other = schedules.LambdaLR(make_optimizer(), [Decay(0.9), lambda k: 2.0])
    other.load_state_dict(state)
    assert other.lr_lambdas[0](1) == 0.5
    assert other.lr_lambdas[1](1) == 2.0
    assert state["lr_lambdas"] == [{"by": 0.5}, None]


def test_last_epoch_resumes_a_schedule_behind_a_step():
    optimizer = make_optimizer()
    with pytest.raises(ValueError, match="last_epoch=4 resumes, and group 0 has no 'initial_lr'"):
        schedules.StepLR(optimizer, 3, last_epoch=4)
    for group in optimizer.param_groups:
        group["initial_lr"] = 0.1
    optimizer.param_groups[0]["lr"] = 0.1 * 0.9**4
    scheduler = schedules.ExponentialLR(optimizer, 0.9, last_epoch=4)
    optimizer.step()
    scheduler.step()
    np.testing.assert_allclose(optimizer.param_groups[0]["lr"], 0.1 * 0.9**5, rtol=1e-12)


def test_a_schedule_that_steps_before_the_optimizer_warns_once():
    optimizer = make_optimizer()
    scheduler = schedules.StepLR(optimizer, 3)
    with pytest.warns(UserWarning, match=r"StepLR.step: called before optimizer.step\(\)") as caught:
        scheduler.step()
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scheduler.step()
        other = make_optimizer()
        scheduler = schedules.StepLR(other, 3)
        other.step()
        scheduler.step()


def test_schedules_refuse_what_does_not_fit():
    optimizer, other = make_optimizer(), make_optimizer()
    one, two = schedules.StepLR(optimizer, 3), schedules.StepLR(other, 3)
    with pytest.raises(TypeError, match="StepLR: int is no optimizer"):
        schedules.StepLR(3, 3)
    for call, text in (
        (lambda: schedules.LinearLR(optimizer, 0.0), "start_factor=0.0"),
        (lambda: schedules.LinearLR(optimizer, 0.5, 2.0), "end_factor=2.0"),
        (lambda: schedules.SequentialLR(optimizer, [one], [3]), "1 schedulers and 1 milestones"),
        (lambda: schedules.SequentialLR(optimizer, [one, two], [3]), "was made for another optimizer"),
        (
            lambda: schedules.SequentialLR(optimizer, [one, schedules.ReduceLROnPlateau(optimizer)], [3]),
            "ReduceLROnPlateau needs a metric",
        ),
        (lambda: schedules.ReduceLROnPlateau(optimizer, factor=1.0), "factor=1.0"),
        (lambda: schedules.ReduceLROnPlateau(optimizer, mode="low"), "mode 'low' is unknown"),
        (lambda: schedules.ReduceLROnPlateau(optimizer, threshold_mode="x"), "threshold_mode 'x' is unknown"),
        (lambda: schedules.ReduceLROnPlateau(optimizer, min_lr=[0.1]), "1 values of min_lr; 2 are needed"),
    ):
        with pytest.raises(ValueError, match=text) as caught:
            call()
        assert isinstance(caught.value, BacksweepError)
