"""Optimizers: every update rule against NumPy in float64, state dicts, and the report of what is unused."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import backsweep as bs
from backsweep import nn, optim
from backsweep.errors import BacksweepError

Array = np.ndarray[Any, Any]
SHAPES = [(3, 4), (5,), ()]


def array(tensor: bs.Tensor) -> Array:
    return np.array(tensor.detach().numpy(), dtype=np.float64)


def tensor(values: Any) -> bs.Tensor:
    return bs.from_numpy(np.array(values, dtype=np.float64))


def draw(*shape: int, seed: int = 0) -> Array:
    return np.array(np.random.default_rng([seed, *shape]).standard_normal(shape))


def parameters(dtype: Any = None) -> list[nn.Parameter]:
    return [nn.Parameter(tensor(draw(*shape)).to(dtype=dtype or bs.float64)) for shape in SHAPES]


def set_gradients(params: list[nn.Parameter], step: int) -> list[Array]:
    grads = [draw(*shape, seed=100 + step) for shape in SHAPES]
    for param, grad in zip(params, grads, strict=True):
        param.grad = tensor(grad).to(dtype=param.dtype)
    return grads


# The update rules, written for one parameter as generators: send a gradient, get the change of the parameter.
Rule = Callable[..., Iterator[Any]]


def sgd(lr=1e-3, momentum=0.0, dampening=0.0, weight_decay=0.0, nesterov=False, sign=1.0):
    p, g = yield
    v = None
    while True:
        g = sign * g + weight_decay * p
        if momentum:
            v = g if v is None else momentum * v + (1 - dampening) * g
            g = g + momentum * v if nesterov else v
        p, g = yield -lr * g


def adam(lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, amsgrad=False, decoupled=False, sign=1.0):
    p, g = yield
    m = v = top = 0.0
    t = 0
    while True:
        t += 1
        g = sign * g
        decay = -lr * weight_decay * p if decoupled else 0.0
        g = g if decoupled else g + weight_decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        top = np.maximum(top, v)
        root = np.sqrt((top if amsgrad else v) / (1 - betas[1] ** t)) + eps
        p, g = yield decay - lr * (m / (1 - betas[0] ** t)) / root


def rmsprop(lr=1e-2, alpha=0.99, eps=1e-8, weight_decay=0.0, momentum=0.0, centered=False, sign=1.0):
    p, g = yield
    square = mean = v = 0.0
    while True:
        g = sign * g + weight_decay * p
        square = alpha * square + (1 - alpha) * g**2
        mean = alpha * mean + (1 - alpha) * g
        scaled = g / (np.sqrt(square - mean**2 if centered else square) + eps)
        v = momentum * v + scaled
        p, g = yield -lr * v


def adagrad(lr=1e-2, lr_decay=0.0, weight_decay=0.0, initial_accumulator_value=0.0, eps=1e-10, sign=1.0):
    p, g = yield
    total, t = initial_accumulator_value, 0
    while True:
        g = sign * g + weight_decay * p
        total = total + g**2
        step = lr / (1 + t * lr_decay)
        t += 1
        p, g = yield -step * g / (np.sqrt(total) + eps)


def adadelta(lr=1.0, rho=0.9, eps=1e-6, weight_decay=0.0, sign=1.0):
    p, g = yield
    square = moved = 0.0
    while True:
        g = sign * g + weight_decay * p
        square = rho * square + (1 - rho) * g**2
        delta = np.sqrt(moved + eps) / np.sqrt(square + eps) * g
        moved = rho * moved + (1 - rho) * delta**2
        p, g = yield -lr * delta


def lion(lr=1e-4, betas=(0.9, 0.99), weight_decay=0.0, sign=1.0):
    p, g = yield
    m = 0.0
    while True:
        g = sign * g
        change = np.sign(betas[0] * m + (1 - betas[0]) * g) + weight_decay * p
        m = betas[1] * m + (1 - betas[1]) * g
        p, g = yield -lr * change


CASES: list[tuple[Callable[..., optim.Optimizer], Rule, dict[str, Any]]] = [
    (optim.SGD, sgd, {}),
    (optim.SGD, sgd, {"lr": 0.1, "weight_decay": 0.1}),
    (optim.SGD, sgd, {"lr": 0.1, "momentum": 0.9}),
    (optim.SGD, sgd, {"lr": 0.1, "momentum": 0.9, "dampening": 0.3, "weight_decay": 0.1}),
    (optim.SGD, sgd, {"lr": 0.1, "momentum": 0.9, "nesterov": True}),
    (optim.Adam, adam, {}),
    (optim.Adam, adam, {"lr": 0.1, "betas": (0.5, 0.9), "eps": 1e-3, "weight_decay": 0.1}),
    (optim.Adam, adam, {"lr": 0.1, "amsgrad": True, "weight_decay": 0.1}),
    (optim.AdamW, lambda **kw: adam(decoupled=True, **{"weight_decay": 0.01, **kw}), {"lr": 0.1}),
    (optim.AdamW, lambda **kw: adam(decoupled=True, **kw), {"lr": 0.1, "weight_decay": 0.3, "amsgrad": True}),
    (optim.RMSprop, rmsprop, {}),
    (optim.RMSprop, rmsprop, {"lr": 0.1, "alpha": 0.9, "momentum": 0.9, "weight_decay": 0.1}),
    (optim.RMSprop, rmsprop, {"lr": 0.1, "centered": True, "momentum": 0.5}),
    (optim.Adagrad, adagrad, {}),
    (
        optim.Adagrad,
        adagrad,
        {"lr": 0.1, "lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.5},
    ),
    (optim.Adadelta, adadelta, {}),
    (optim.Adadelta, adadelta, {"lr": 0.5, "rho": 0.7, "weight_decay": 0.1}),
    (optim.Lion, lion, {}),
    (optim.Lion, lion, {"lr": 0.1, "betas": (0.5, 0.8), "weight_decay": 0.1}),
]
IDS = [f"{case[0].__name__}-{case[2]}" for case in CASES]


@pytest.mark.parametrize(("make", "rule", "settings"), CASES, ids=IDS)
@pytest.mark.parametrize("maximize", [False, True])
def test_an_optimizer_follows_its_rule(
    make: Callable[..., optim.Optimizer], rule: Rule, settings: dict[str, Any], maximize: bool
):
    params = parameters()
    optimizer = make(params, **settings, maximize=maximize)
    values = [array(param) for param in params]
    rules = [rule(**settings, sign=-1.0 if maximize else 1.0) for _ in params]
    for one in rules:
        next(one)
    for step in range(12):
        grads = set_gradients(params, step)
        optimizer.step()
        for place, one in enumerate(rules):
            values[place] = values[place] + one.send((values[place], grads[place]))
            np.testing.assert_allclose(array(params[place]), values[place], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("make", "rule", "settings"), CASES, ids=IDS)
def test_float32_stays_near_the_float64_rule(
    make: Callable[..., optim.Optimizer], rule: Rule, settings: dict[str, Any]
):
    exact, given = parameters(), parameters(bs.float32)
    optimizers = [make(params, **settings) for params in (exact, given)]
    for step in range(12):
        for params, optimizer in zip((exact, given), optimizers, strict=True):
            set_gradients(params, step)
            optimizer.step()
    for one, other in zip(exact, given, strict=True):
        assert other.dtype == bs.float32
        np.testing.assert_allclose(array(other), array(one), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("make", "rule", "settings"), CASES, ids=IDS)
def test_a_parameter_that_missed_a_step_goes_on_with_its_own_count(
    make: Callable[..., optim.Optimizer], rule: Rule, settings: dict[str, Any]
):
    params = parameters()
    optimizer = make(params, **settings)
    optimizer.report_unused = False
    values = [array(param) for param in params]
    rules = [rule(**settings) for _ in params]
    for one in rules:
        next(one)
    for step in range(9):
        grads = set_gradients(params, step)
        missing = step % 4
        for place in range(len(params)):
            if place == missing:
                params[place].grad = None
        optimizer.step()
        for place, one in enumerate(rules):
            if place != missing:
                values[place] = values[place] + one.send((values[place], grads[place]))
            np.testing.assert_allclose(array(params[place]), values[place], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("make", "rule", "settings"), CASES, ids=IDS)
def test_stop_and_resume_is_bit_equal_to_a_straight_run(
    make: Callable[..., optim.Optimizer], rule: Rule, settings: dict[str, Any]
):
    straight, resumed = parameters(bs.float32), parameters(bs.float32)
    one, other = make(straight, **settings), make(resumed, **settings)
    for step in range(10):
        if step == 5:
            state = copy.deepcopy(other.state_dict())
            resumed = [nn.Parameter(param.detach().clone()) for param in resumed]
            other = make(resumed, lr=9.0)
            other.load_state_dict(state)
        for params, optimizer in ((straight, one), (resumed, other)):
            set_gradients(params, step)
            optimizer.step()
    for mine, theirs in zip(straight, resumed, strict=True):
        assert np.array_equal(array(mine), array(theirs))


def test_a_loaded_state_is_a_copy_in_the_dtype_of_its_parameter():
    source, target = parameters(), parameters(bs.float32)
    one, other = (optim.Adam(params) for params in (source, target))
    set_gradients(source, 0)
    one.step()
    state = one.state_dict()
    other.load_state_dict(state)
    mean = other.state[target[0]]["exp_avg"]
    assert mean.dtype == bs.float32
    kept = array(mean)
    state["state"][0]["exp_avg"].zero_()
    assert np.array_equal(array(mean), kept)
    assert not array(one.state[source[0]]["exp_avg"]).any()


def test_state_is_booked_under_the_optimizer():
    for make in (lambda p: optim.SGD(p, momentum=0.9), optim.Adam, optim.RMSprop, optim.Adagrad, optim.Lion):
        params = parameters()
        optimizer = make(params)
        set_gradients(params, 0)
        optimizer.step()
        resumed = make(params)
        resumed.load_state_dict(optimizer.state_dict())
        for one in (optimizer, resumed):
            tensors = [
                value
                for state in one.state.values()
                for value in state.values()
                if isinstance(value, bs.Tensor)
            ]
            assert {value._category for value in tensors} == {"optimizer"}


def test_a_state_dict_has_pytorchs_form_and_loads_one_from_pytorch():
    params = parameters()
    optimizer = optim.Adam([{"params": params[:1]}, {"params": params[1:], "lr": 0.5}], weight_decay=0.1)
    set_gradients(params, 0)
    optimizer.step()
    state = optimizer.state_dict()
    assert [group["params"] for group in state["param_groups"]] == [[0], [1, 2]]
    assert [group["lr"] for group in state["param_groups"]] == [1e-3, 0.5]
    assert list(state["state"]) == [0, 1, 2]
    assert list(state["state"][2]) == ["step", "exp_avg", "exp_avg_sq"]
    assert state["state"][2]["step"] == 1
    for entries in state["state"].values():
        entries["step"] = bs.tensor(7.0)
    state["state"] = {str(key): entries for key, entries in state["state"].items()}
    state["param_groups"][0]["betas"] = [0.8, 0.9]
    optimizer.load_state_dict(state)
    assert optimizer.state[params[0]]["step"] == 7
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.9)
    assert optimizer.param_groups[1]["params"] == params[1:]


def test_a_state_that_does_not_fit_is_refused_and_changes_nothing():
    params = parameters()
    optimizer = optim.Adam(params)
    set_gradients(params, 0)
    optimizer.step()
    other = optim.Adam(params[:2])
    with pytest.raises(
        ValueError, match=r"Adam.load_state_dict: the groups have \[2\] parameters; \[3\] are needed"
    ):
        optimizer.load_state_dict(other.state_dict())
    state = copy.deepcopy(optimizer.state_dict())
    state["param_groups"][0]["lr"] = 5.0
    state["state"][1]["exp_avg"] = bs.zeros(2)
    with pytest.raises(ValueError, match=r"exp_avg of parameter 1 has shape \[2\]; \[5\] is needed"):
        optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 1e-3
    assert optimizer.state[params[1]]["step"] == 1


def test_adams_first_step_has_the_size_of_the_rate():
    params = parameters()
    before = [array(param) for param in params]
    grads = set_gradients(params, 0)
    optim.Adam(params, lr=0.1, eps=0.0).step()
    for param, old, grad in zip(params, before, grads, strict=True):
        np.testing.assert_allclose(array(param), old - 0.1 * np.sign(grad), rtol=1e-9)


@pytest.mark.parametrize(
    "make",
    [
        lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
        lambda p: optim.Adam(p, lr=0.1),
        lambda p: optim.AdamW(p, lr=0.1),
        lambda p: optim.RMSprop(p, lr=0.02),
        lambda p: optim.Adagrad(p, lr=1.0),
        lambda p: optim.Adadelta(p, lr=4.0),
        lambda p: optim.Lion(p, lr=0.02, betas=(0.5, 0.5)),
    ],
    ids=["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Adadelta", "Lion"],
)
def test_an_optimizer_fits_a_line(make: Callable[..., optim.Optimizer]):
    bs.manual_seed(0)
    x = tensor(draw(64, 3))
    wanted = np.array([[1.0], [-2.0], [0.5]])
    y = x.matmul(tensor(wanted)) + 0.25
    net = nn.Linear(3, 1).double()
    optimizer = make(net.parameters())
    for _ in range(300):
        optimizer.zero_grad()
        nn.MSELoss()(net(x), y).backward()
        optimizer.step()
    np.testing.assert_allclose(array(net.weight), wanted.T, atol=0.1)
    np.testing.assert_allclose(array(net.bias), 0.25, atol=0.1)


def test_groups_have_settings_of_their_own():
    params = parameters()
    optimizer = optim.SGD([{"params": params[0], "lr": 0.5}, {"params": params[1:]}], lr=0.1)
    optimizer.param_groups[1]["lr"] = 0.0
    before = [array(param) for param in params]
    grads = set_gradients(params, 0)
    optimizer.step()
    np.testing.assert_allclose(array(params[0]), before[0] - 0.5 * grads[0], rtol=1e-12)
    assert np.array_equal(array(params[1]), before[1])
    extra = nn.Parameter(bs.zeros(2))
    optimizer.add_param_group({"params": [extra], "momentum": 0.5})
    assert optimizer.param_groups[2]["lr"] == 0.1
    assert [group["momentum"] for group in optimizer.param_groups] == [0.0, 0.0, 0.5]


def test_what_cannot_be_optimized_is_refused():
    leaf = nn.Parameter(bs.zeros(2))
    for params, text in (
        ([], "SGD: params is empty"),
        ([leaf * 2], r"params\[0\] of group 0 is the result of an operation"),
        ([leaf, leaf], r"params\[1\] of group 0 is there already"),
        ([{"params": [leaf]}, {"params": [leaf]}], r"params\[0\] of group 1 is there already"),
    ):
        with pytest.raises(ValueError, match=text) as caught:
            optim.SGD(params)
        assert isinstance(caught.value, BacksweepError)
    for params, text in (
        (leaf, "params is a Parameter; parameters in a list are needed"),
        ([{"parameters": [leaf]}], "group 0 is no dict with the key 'params'"),
        ([{"params": {leaf}}], "group 0 is a set"),
        ([1.0], r"params\[0\] of group 0 is a float"),
    ):
        with pytest.raises(TypeError, match=text):
            optim.SGD(params)


@pytest.mark.parametrize(
    ("make", "settings", "text"),
    [
        (optim.SGD, {"lr": -1.0}, "SGD: lr=-1.0; 0 or more is needed"),
        (optim.SGD, {"lr": math.nan}, "SGD: lr=nan"),
        (optim.SGD, {"nesterov": True}, "SGD: nesterov with momentum=0.0, dampening=0.0"),
        (optim.Adam, {"betas": (1.0, 0.9)}, r"Adam: betas\[0\]=1.0; a value in \[0, 1\) is needed"),
        (optim.AdamW, {"weight_decay": -0.1}, "AdamW: weight_decay=-0.1"),
        (optim.RMSprop, {"alpha": -0.1}, "RMSprop: alpha=-0.1"),
        (optim.Adagrad, {"lr_decay": -0.1}, "Adagrad: lr_decay=-0.1"),
        (optim.Adadelta, {"rho": 1.5}, r"Adadelta: rho=1.5; a value in \[0, 1\) is needed"),
        (optim.Lion, {"betas": (0.9, 2.0)}, r"Lion: betas\[1\]=2.0"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[..., Any], settings: dict[str, Any], text: str):
    with pytest.raises(ValueError, match=text):
        make(parameters(), **settings)


def test_an_unused_parameter_is_reported_once_by_group_and_place():
    params = parameters()
    optimizer = optim.SGD([{"params": params[:1]}, {"params": params[1:]}])
    set_gradients(params, 0)
    params[2].grad = None
    with pytest.warns(UserWarning, match="no gradient for") as caught:
        optimizer.step()
    assert str(caught[0].message).startswith(
        "SGD.step: no gradient for params[1] of group 1 []; call loss.backward() first"
    )
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()


def test_an_unused_parameter_is_reported_by_name_where_names_are_given():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    optimizer = optim.Adam(net.named_parameters())
    net[0](bs.ones(1, 2)).sum().backward()
    with pytest.warns(UserWarning, match=r"no gradient for 1.weight \[1, 2\], 1.bias \[1\];"):
        optimizer.step()
    assert optimizer.state_dict()["param_groups"][0]["param_names"] == [
        "0.weight",
        "0.bias",
        "1.weight",
        "1.bias",
    ]


def test_the_report_is_silent_for_frozen_parameters_and_where_it_is_turned_off():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    net[1].requires_grad_(False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer = optim.SGD(net.parameters())
        net[0](bs.ones(1, 2)).sum().backward()
        optimizer.step()
        net.requires_grad_(True)
        optimizer.report_unused = False
        optimizer.step()


def test_zero_grad_drops_or_clears():
    params = parameters()
    optimizer = optim.SGD(params)
    set_gradients(params, 0)
    grad = params[0].grad
    optimizer.zero_grad(set_to_none=False)
    assert not array(grad).any()
    optimizer.zero_grad()
    assert all(param.grad is None for param in params)


def test_a_closure_is_run_with_gradients_on_and_its_loss_is_returned():
    param = nn.Parameter(bs.ones(2))
    optimizer = optim.SGD([param], lr=0.5)

    def closure() -> bs.Tensor:
        optimizer.zero_grad()
        loss = (param * param).sum()
        loss.backward()
        return loss

    with bs.no_grad():
        assert optimizer.step(closure).item() == 2.0
    np.testing.assert_array_equal(array(param), [0.0, 0.0])


def test_a_step_leaves_parameters_as_leaves_that_train_on():
    for make in (optim.SGD, optim.Adam, optim.RMSprop, optim.Adagrad, optim.Adadelta, optim.Lion):
        params = parameters()
        optimizer = make(params)
        set_gradients(params, 0)
        optimizer.step()
        assert all(param.is_leaf and param.requires_grad for param in params)


def test_an_optimizer_of_your_own_needs_only_an_update():
    class Halve(optim.Optimizer):
        def _update(self, group, params, grads):
            for param in params:
                param.mul_(group["by"])

    param = nn.Parameter(bs.ones(2))
    optimizer = Halve([param], {"by": 0.5})
    param.grad = bs.ones(2)
    optimizer.step()
    np.testing.assert_array_equal(array(param), [0.5, 0.5])
    assert repr(optimizer) == "Halve (\nParameter Group 0\n    by: 0.5\n)"


@pytest.mark.parametrize("mode", [True, False])
def test_an_update_is_not_recorded_and_the_mode_comes_back_even_after_an_error(mode: bool):
    class Fails(optim.Optimizer):
        def _update(self, group, params, grads):
            assert not bs.is_grad_enabled()
            raise RuntimeError("no")

    param = nn.Parameter(bs.ones(2))
    param.grad = bs.ones(2)
    with bs.autograd.set_grad_enabled(mode):
        with pytest.raises(RuntimeError, match="no"):
            Fails([param], {}).step()
        assert bs.is_grad_enabled() is mode


def test_parameters_that_are_frozen_replaced_or_thawed_between_steps_are_seen():
    """Nothing of a step is kept for the next."""
    a, b = nn.Parameter(bs.ones(2)), nn.Parameter(bs.ones(2))
    optimizer = optim.SGD([a, b], lr=1.0)

    def step(expected_a: float, expected_b: float) -> None:
        optimizer.zero_grad()
        assert a.grad is None and b.grad is None
        sum((p * 1.0).sum() for p in (a, b) if p.requires_grad).backward()
        optimizer.step()
        np.testing.assert_array_equal([array(a)[0], array(b)[0]], [expected_a, expected_b])

    step(0.0, 0.0)
    b.requires_grad_(False)
    step(-1.0, 0.0)
    b.requires_grad_(True)
    step(-2.0, -1.0)
    optimizer.param_groups[0]["params"].remove(a)
    a.grad = bs.ones(2)
    optimizer.zero_grad()
    assert a.grad is not None
    a.grad = None
    b = nn.Parameter(bs.ones(2))
    optimizer.param_groups[0]["params"][0] = b
    optimizer.param_groups[0]["lr"] = 0.5
    step(-2.0, 0.5)


def test_a_model_and_its_optimizer_are_copied_together():
    net = nn.Linear(2, 1)
    optimizer = optim.Adam(net.parameters())
    net(bs.ones(1, 2)).sum().backward()
    optimizer.step()
    twin, twin_optimizer = copy.deepcopy((net, optimizer))
    assert twin_optimizer.param_groups[0]["params"][0] is twin.weight
    assert np.array_equal(
        array(twin_optimizer.state[twin.weight]["exp_avg"]), array(optimizer.state[net.weight]["exp_avg"])
    )
    assert twin_optimizer.state[twin.weight]["exp_avg"] is not optimizer.state[net.weight]["exp_avg"]
