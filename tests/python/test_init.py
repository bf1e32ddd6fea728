"""Initialisers: distributions by moments and bounds, deterministic fills exactly, and layers' defaults."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import backsweep as bs
from backsweep import nn
from backsweep.errors import BacksweepError, ShapeError
from backsweep.nn import init

Array = np.ndarray[Any, Any]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    bs.manual_seed(0)


def array(tensor: bs.Tensor) -> Array:
    return np.array(tensor.detach().numpy(), dtype=np.float64)


def is_uniform(values: Array, low: float, high: float) -> None:
    """Bounds hold, and mean and variance lie within five standard deviations of those of U(low, high)."""
    n, width = values.size, high - low
    assert values.min() >= low * (1 + 1e-6) - 1e-12
    assert values.max() <= high * (1 + 1e-6) + 1e-12
    assert abs(values.mean() - (low + high) / 2) < 5 * width / math.sqrt(12 * n)
    # The fourth central moment of U is width⁴/80: one sample gives its variance with variance width⁴/180.
    assert abs(values.var() - width**2 / 12) < 5 * width**2 / math.sqrt(180 * n)


def is_normal(values: Array, mean: float, std: float) -> None:
    n = values.size
    assert abs(values.mean() - mean) < 5 * std / math.sqrt(n)
    assert abs(values.var() - std**2) < 5 * std**2 * math.sqrt(2 / n)
    inside = (abs(values - mean) < std).mean()
    assert abs(inside - 0.6826895) < 5 * math.sqrt(0.68 * 0.32 / n)


SHAPE = (60, 40, 3, 3)
FAN_IN, FAN_OUT = 40 * 9, 60 * 9


@pytest.mark.parametrize(
    ("fill", "bound"),
    [
        (lambda t: init.uniform_(t, -0.5, 0.5), 0.5),
        (init.xavier_uniform_, math.sqrt(6 / (FAN_IN + FAN_OUT))),
        (lambda t: init.xavier_uniform_(t, gain=2.0), 2 * math.sqrt(6 / (FAN_IN + FAN_OUT))),
        (init.kaiming_uniform_, math.sqrt(6 / FAN_IN)),
        (lambda t: init.kaiming_uniform_(t, a=math.sqrt(5)), 1 / math.sqrt(FAN_IN)),
        (lambda t: init.kaiming_uniform_(t, mode="fan_out", nonlinearity="relu"), math.sqrt(6 / FAN_OUT)),
        (lambda t: init.kaiming_uniform_(t, nonlinearity="linear"), math.sqrt(3 / FAN_IN)),
    ],
)
def test_uniform_initialisers_have_their_bounds(fill: Callable[[bs.Tensor], bs.Tensor], bound: float):
    tensor = bs.empty(*SHAPE)
    assert fill(tensor) is tensor
    is_uniform(array(tensor), -bound, bound)


@pytest.mark.parametrize(
    ("fill", "mean", "std"),
    [
        (init.normal_, 0.0, 1.0),
        (lambda t: init.normal_(t, 2.0, 0.1), 2.0, 0.1),
        (init.xavier_normal_, 0.0, math.sqrt(2 / (FAN_IN + FAN_OUT))),
        (init.kaiming_normal_, 0.0, math.sqrt(2 / FAN_IN)),
        (lambda t: init.kaiming_normal_(t, 0.2, "fan_out"), 0.0, math.sqrt(2 / 1.04 / FAN_OUT)),
        (lambda t: init.kaiming_normal_(t, nonlinearity="tanh"), 0.0, 5 / 3 / math.sqrt(FAN_IN)),
    ],
)
def test_normal_initialisers_have_their_deviation(
    fill: Callable[[bs.Tensor], bs.Tensor], mean: float, std: float
):
    tensor = bs.empty(*SHAPE)
    assert fill(tensor) is tensor
    is_normal(array(tensor), mean, std)


@pytest.mark.parametrize(
    ("mean", "std", "a", "b"),
    [
        (0.0, 1.0, -2.0, 2.0),
        (0.0, 0.02, -2.0, 2.0),
        (1.0, 2.0, -5.0, 1.0),
        (0.0, 1.0, 3.0, 3.5),
        (5.0, 1.0, -2.0, 2.0),
    ],
)
def test_a_truncated_normal_has_the_moments_of_the_condition(mean: float, std: float, a: float, b: float):
    tensor = bs.empty(200, 500)
    assert init.trunc_normal_(tensor, mean, std, a, b) is tensor
    values = array(tensor)
    assert values.min() >= np.float32(a)
    assert values.max() <= np.float32(b)
    grid = np.linspace(max(a, mean - 12 * std), min(b, mean + 12 * std), 200_001)
    # Taken relative to its maximum, so that it does not underflow far out in a tail.
    exponent = -0.5 * ((grid - mean) / std) ** 2
    density = np.exp(exponent - exponent.max())
    density /= density.sum()
    wanted = (grid * density).sum()
    spread = math.sqrt(((grid - wanted) ** 2 * density).sum())
    assert abs(values.mean() - wanted) < 5 * spread / math.sqrt(values.size)
    assert abs(values.std() / spread - 1) < 0.02


def test_a_truncated_normal_needs_an_interval():
    for settings in ({"a": 1.0, "b": 1.0}, {"std": 0.0}, {"a": math.nan}):
        with pytest.raises(ValueError, match="a < b and std > 0 are needed"):
            init.trunc_normal_(bs.empty(3), **settings)


def test_constant_fills_are_exact():
    tensor = bs.empty(2, 3)
    for fill, value in ((init.ones_, 1.0), (init.zeros_, 0.0), (lambda t: init.constant_(t, 2.5), 2.5)):
        assert fill(tensor) is tensor
        assert (array(tensor) == value).all()
    assert np.array_equal(array(init.eye_(tensor)), np.eye(2, 3))


@pytest.mark.parametrize(("shape", "groups"), [((4, 4, 3), 1), ((4, 3, 5, 3), 1), ((6, 2, 3, 3), 3), ((3, 3, 3, 3, 3), 1)])
def test_a_dirac_weight_passes_channels_on(shape: tuple[int, ...], groups: int):
    weight = init.dirac_(bs.empty(*shape), groups)
    axes = len(shape) - 2
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1](
        shape[1] * groups, shape[0], shape[2:], padding=tuple(k // 2 for k in shape[2:]), groups=groups, bias=False
    )
    conv.load_state_dict({"weight": weight})
    x = bs.randn(2, shape[1] * groups, *(6,) * axes)
    y = array(conv(x))
    each, kept = shape[0] // groups, min(shape[0] // groups, shape[1])
    for group in range(groups):
        given = y[:, group * each : group * each + kept]
        assert np.array_equal(given, array(x)[:, group * shape[1] : group * shape[1] + kept])
        assert not y[:, group * each + kept : (group + 1) * each].any()




@pytest.mark.parametrize("shape", [(5, 5), (3, 8), (8, 3), (4, 3, 2)])
def test_an_orthogonal_weight_has_orthonormal_rows_or_columns(shape: tuple[int, ...]):
    values = array(init.orthogonal_(bs.empty(*shape, dtype=bs.float64), gain=3.0)).reshape(shape[0], -1)
    gram = values @ values.T if values.shape[0] <= values.shape[1] else values.T @ values
    np.testing.assert_allclose(gram, 9.0 * np.eye(len(gram)), atol=1e-12)


def test_orthogonal_weights_are_uniform_over_signs():
    corner = [array(init.orthogonal_(bs.empty(3, 3)))[0, 0] for _ in range(400)]
    # The corner of a uniformly distributed orthogonal matrix has mean 0 and variance 1/3.
    assert abs(np.mean(corner)) < 5 * math.sqrt(1 / 3 / 400)
    assert abs(np.var(corner) - 1 / 3) < 0.1


def test_a_sparse_weight_has_its_share_of_zeros_in_each_column():
    values = array(init.sparse_(bs.empty(50, 200), 0.3, std=0.5))
    assert ((values == 0).sum(axis=0) == 15).all()
    is_normal(values[values != 0], 0.0, 0.5)
    assert len({tuple(np.flatnonzero(column == 0)) for column in values.T}) > 150


def test_gains_are_those_of_the_table():
    gains = {
        **dict.fromkeys(("linear", "conv1d", "conv2d", "conv3d", "conv_transpose2d", "sigmoid"), 1.0),
        "tanh": 5 / 3,
        "relu": math.sqrt(2),
        "leaky_relu": math.sqrt(2 / (1 + 1e-4)),
        "selu": 0.75,
    }
    for name, gain in gains.items():
        assert init.calculate_gain(name) == pytest.approx(gain, rel=1e-15)
    assert init.calculate_gain("leaky_relu", math.sqrt(5)) == pytest.approx(math.sqrt(1 / 3), rel=1e-15)
    with pytest.raises(ValueError, match="no gain is known for 'cube'"):
        init.calculate_gain("cube")


def test_draws_follow_the_seed_and_stay_outside_the_graph():
    parameter = nn.Parameter(bs.zeros(4, 4))
    draws = []
    for _ in range(2):
        bs.manual_seed(7)
        for fill in (init.normal_, init.trunc_normal_, init.orthogonal_, lambda t: init.sparse_(t, 0.5)):
            fill(parameter)
            draws.append(array(parameter))
    assert all(np.array_equal(one, other) for one, other in zip(draws[:4], draws[4:], strict=True))
    assert parameter.is_leaf
    assert parameter.requires_grad


def test_shapes_without_a_fan_are_refused():
    for fill in (init.xavier_uniform_, init.kaiming_normal_, init.orthogonal_, init.dirac_, init.eye_):
        with pytest.raises(ShapeError, match=r"shape \[3\]"):
            fill(bs.empty(3))
    with pytest.raises(BacksweepError, match="mode 'fan' is unknown"):
        init.kaiming_normal_(bs.empty(3, 3), mode="fan")
    with pytest.raises(ValueError, match="5 output channels do not divide into 2 groups"):
        init.dirac_(bs.empty(5, 2, 3), groups=2)


def test_empty_tensors_are_left_alone():
    for fill in (init.kaiming_uniform_, init.kaiming_normal_, init.orthogonal_):
        assert tuple(fill(bs.empty(0, 3)).shape) == (0, 3)


@pytest.mark.parametrize(
    "layer",
    [
        lambda: nn.Linear(400, 300),
        lambda: nn.LSTM(30, 400),
        lambda: nn.GRU(30, 400),
        lambda: nn.RNN(30, 400),
        lambda: nn.LSTMCell(30, 400),
    ],
    ids=["linear", "lstm", "gru", "rnn", "lstm cell"],
)
def test_weights_and_biases_of_a_layer_start_uniform(layer: Callable[[], nn.Module]):
    bound = 1 / 20
    for name, parameter in layer().named_parameters():
        assert parameter.numel() >= 100, name
        is_uniform(array(parameter), -bound, bound)


def test_attention_starts_as_in_pytorch():
    attention = nn.MultiheadAttention(200, 4, add_bias_kv=True)
    is_uniform(array(attention.in_proj_weight), -math.sqrt(6 / 800), math.sqrt(6 / 800))
    is_uniform(array(attention.out_proj.weight), -1 / math.sqrt(200), 1 / math.sqrt(200))
    assert not array(attention.in_proj_bias).any()
    assert not array(attention.out_proj.bias).any()
    # bias_k has shape [1, 1, e]: its fan-in and fan-out are both e.
    is_normal(array(attention.bias_k), 0.0, math.sqrt(2 / 400))
