"""Modules: registration, state, hooks, containers, and every layer against a NumPy reference in float64."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import backsweep as bs
from backsweep import nn
from backsweep.errors import BacksweepError, ShapeError
from backsweep.nn import module as module_layer

Array = np.ndarray[Any, Any]


def array(tensor: bs.Tensor) -> Array:
    return np.array(tensor.detach().numpy(), dtype=np.float64)


def tensor(values: Any) -> bs.Tensor:
    return bs.from_numpy(np.array(values, dtype=np.float64))


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def weights(module: nn.Module) -> dict[str, Array]:
    return {name: array(value) for name, value in module.state_dict().items()}


def randomised(module: nn.Module, seed: int = 1) -> nn.Module:
    """Convert to float64, with parameters that are not at their special initial values."""
    module.double()
    with bs.no_grad():
        for place, parameter in enumerate(module.parameters()):
            parameter.copy_(tensor(draw(*parameter.shape, seed=seed + place) * 0.5))
    return module


def close(given: bs.Tensor | Array, wanted: Array, tolerance: float = 1e-11) -> None:
    given = array(given) if isinstance(given, bs.Tensor) else given
    assert given.shape == wanted.shape
    np.testing.assert_allclose(given, wanted, rtol=tolerance, atol=tolerance)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)
        self.scale = nn.Parameter(bs.ones(3))
        self.register_buffer("count", bs.zeros(1))

    def forward(self, x: bs.Tensor) -> bs.Tensor:
        return self.fc(x) * self.scale


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(3, 2)

    def forward(self, x: bs.Tensor) -> bs.Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


# Registration and walking


def test_parameters_come_in_order_of_registration_own_ones_first():
    assert [name for name, _ in Net().named_parameters()] == [
        "blocks.0.scale",
        "blocks.0.fc.weight",
        "blocks.0.fc.bias",
        "blocks.1.scale",
        "blocks.1.fc.weight",
        "blocks.1.fc.bias",
        "head.weight",
        "head.bias",
    ]


def test_modules_children_and_buffers_are_found_with_their_paths():
    net = Net()
    paths = ["", "blocks", "blocks.0", "blocks.0.fc", "blocks.1", "blocks.1.fc", "head"]
    assert [name for name, _ in net.named_modules()] == paths
    assert [name for name, _ in net.named_children()] == ["blocks", "head"]
    assert [name for name, _ in net.named_buffers()] == ["blocks.0.count", "blocks.1.count"]
    assert net.get_submodule("blocks.1.fc") is net.blocks[1].fc
    assert net.get_parameter("blocks.1.fc.bias") is net.blocks[1].fc.bias
    with pytest.raises(AttributeError, match=r"blocks\.2"):
        net.get_submodule("blocks.2")


def test_a_tied_parameter_is_met_once_but_keeps_both_keys():
    net = Net()
    net.blocks[1].fc.weight = net.blocks[0].fc.weight
    names = [name for name, _ in net.named_parameters()]
    assert "blocks.0.fc.weight" in names
    assert "blocks.1.fc.weight" not in names
    assert "blocks.1.fc.weight" in net.state_dict()
    assert len(list(net.named_parameters(remove_duplicate=False))) == len(names) + 1


def test_a_shared_module_is_met_once():
    layer = nn.Linear(2, 2)
    net = nn.Sequential(layer, nn.ReLU(), layer)
    assert len(list(net.modules())) == 3
    assert len(list(net.parameters())) == 2
    assert list(net.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]


def test_a_subclass_that_forgets_super_init_works():
    class Forgetful(nn.Module):
        def __init__(self) -> None:
            self.fc = nn.Linear(2, 1)

        def forward(self, x: bs.Tensor) -> bs.Tensor:
            return self.fc(x)

    net = Forgetful()
    assert len(list(net.parameters())) == 2
    assert tuple(net(bs.ones(4, 2)).shape) == (4, 1)


def test_a_registered_none_keeps_its_place_and_a_plain_none_does_not():
    net = nn.Module()
    net.late = None
    net.register_parameter("first", None)
    net.second = nn.Parameter(bs.zeros(1))
    net.late = nn.Parameter(bs.zeros(2))
    net.first = nn.Parameter(bs.zeros(3))
    assert [name for name, _ in net.named_parameters()] == ["first", "second", "late"]
    net.second = None
    assert list(net.state_dict()) == ["first", "late"]
    net.second = nn.Parameter(bs.zeros(1))
    assert list(net.state_dict()) == ["first", "second", "late"]


def test_a_deleted_attribute_is_forgotten():
    block = Block()
    del block.fc, block.count, block.scale
    assert not block.state_dict()
    assert not hasattr(block, "fc")


def test_what_is_registered_is_not_replaced_by_something_else_in_silence():
    block = Block()
    for name, value in (("scale", bs.zeros(3)), ("fc", bs.zeros(3)), ("count", "text")):
        with pytest.raises(TypeError, match=f"Block: {name} is a (parameter|module|buffer)"):
            setattr(block, name, value)
    block.count = bs.ones(1)
    assert array(block.state_dict()["count"]) == 1


def test_names_that_cannot_be_attributes_are_refused():
    net = nn.Module()
    for name in ("", "a.b", "forward"):
        with pytest.raises(BacksweepError):
            net.register_buffer(name, bs.zeros(1))
        with pytest.raises(BacksweepError):
            net.add_module(name, nn.Linear(1, 1))
    with pytest.raises(TypeError, match="wrap it as"):
        net.register_parameter("x", bs.zeros(1))


def test_a_buffer_that_is_not_persistent_moves_but_is_not_saved():
    net = nn.Module()
    net.register_buffer("table", bs.zeros(2), persistent=False)
    assert not net.state_dict()
    assert net.double().table.dtype == bs.float64


def test_a_missing_forward_says_so():
    with pytest.raises(NotImplementedError, match="forward is missing"):
        nn.Module()(1)


# State




def test_a_state_dict_shares_memory_and_loading_copies():
    one, other = nn.Linear(2, 2), nn.Linear(2, 2)
    state = one.state_dict()
    result = other.load_state_dict(state)
    assert (result.missing_keys, result.unexpected_keys) == ([], [])
    close(other.weight, array(one.weight), 0)
    nn.init.zeros_(one.weight)
    assert not array(state["weight"]).any()
    assert array(other.weight).any()
    assert not state["weight"].requires_grad


def test_loading_lists_every_fault_and_then_changes_nothing():
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = weights(net)
    state = {"0.weight": bs.zeros(3, 2), "0.bias": bs.zeros(4), "1.weight": [1.0], "2.weight": bs.zeros(1)}
    with pytest.raises(ValueError) as caught:
        net.load_state_dict(state)
    assert str(caught.value) == (
        "load_state_dict: the state does not fit Sequential: missing 1.bias; unexpected 2.weight; "
        "0.bias has shape [4] where [3] is needed; 1.weight is a list, not a tensor; "
        "the names and shapes of its own state_dict() are needed "
        "(help: strict=False loads only the keys that match)"
    )
    assert isinstance(caught.value, BacksweepError)
    for name, value in weights(net).items():
        close(value, before[name], 0)


def test_loose_loading_returns_the_keys_and_still_refuses_shapes():
    net = nn.Linear(2, 3)
    result = net.load_state_dict({"bias": bs.ones(3), "other": bs.ones(1)}, strict=False)
    assert (result.missing_keys, result.unexpected_keys) == (["weight"], ["other"])
    close(net.bias, np.ones(3), 0)
    with pytest.raises(ValueError, match=r"bias has shape \[4\] where \[3\] is needed"):
        net.load_state_dict({"bias": bs.ones(4)}, strict=False)


def test_a_deep_copy_and_a_pickle_are_equal_and_apart():
    net = Net()
    net(bs.ones(1, 3)).sum().backward()
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert list(twin.state_dict()) == list(net.state_dict())
        for mine, theirs in zip(net.parameters(), twin.parameters(), strict=True):
            assert isinstance(theirs, nn.Parameter)
            assert theirs.requires_grad
            assert theirs.grad is None
            close(theirs, array(mine), 0)
        nn.init.zeros_(twin.head.weight)
        assert array(net.head.weight).any()




def test_a_deep_copy_keeps_ties():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    net[1].weight = net[0].weight
    twin = copy.deepcopy(net)
    assert twin[0].weight is twin[1].weight
    assert twin[0].weight is not net[0].weight


def test_a_parameter_shares_memory_and_can_be_frozen():
    data = bs.zeros(3)
    parameter = nn.Parameter(data)
    data.fill_(2.0)
    close(parameter, np.full(3, 2.0), 0)
    assert parameter.is_leaf
    assert isinstance(parameter, bs.Tensor)
    assert not nn.Parameter(data, requires_grad=False).requires_grad
    assert not isinstance(parameter * 1, nn.Parameter)


def test_train_and_eval_reach_all_modules_through_overridden_methods():
    class Frozen(nn.BatchNorm1d):
        def train(self, mode: bool = True) -> Frozen:
            return super().train(False)

    net = nn.Sequential(nn.Dropout(), nn.Sequential(Frozen(2), nn.Dropout()))
    net.train()
    assert [module.training for module in net.modules()] == [True, True, True, False, True]
    assert not any(module.training for module in net.eval().modules())


# Changing all at once




def test_apply_goes_children_first():
    seen = []
    net = Net()
    assert net.apply(lambda module: seen.append(type(module).__name__)) is net
    assert seen == ["Linear", "Block", "Linear", "Block", "ModuleList", "Linear", "Net"]


def test_to_keeps_the_parameters_themselves_and_leaves_integers_alone():
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    net(bs.ones(3, 2)).sum().backward()
    before = list(net.parameters())
    net.to(bs.float64)
    after = list(net.parameters())
    assert all(old is new for old, new in zip(before, after, strict=True))
    assert all(parameter.dtype == bs.float64 for parameter in after)
    assert all(parameter.grad.dtype == bs.float64 for parameter in after)
    assert net[1].running_mean.dtype == bs.float64
    assert net[1].num_batches_tracked.dtype == bs.int64
    assert net.to("cpu", bs.float32)[0].weight.dtype == bs.float32
    assert net.double().float()[0].bias.dtype == bs.float32
    assert net.to(bs.zeros(1, dtype=bs.float64))[0].bias.dtype == bs.float64




def test_a_module_trains_on_after_a_conversion():
    net = nn.Linear(2, 1)
    net(bs.ones(1, 2)).sum().backward()
    net.double().zero_grad()
    net(bs.ones(1, 2, dtype=bs.float64)).sum().backward()
    close(net.weight.grad, np.ones((1, 2)), 0)
    assert net.weight.grad.dtype == bs.float64


def test_requires_grad_freezes_and_zero_grad_clears():
    net = Net()
    net(bs.ones(1, 3)).sum().backward()
    net.zero_grad(set_to_none=False)
    assert all(not array(parameter.grad).any() for parameter in net.parameters())
    net.zero_grad()
    assert all(parameter.grad is None for parameter in net.parameters())
    net.requires_grad_(False)
    assert not net(bs.ones(1, 3)).requires_grad


# Hooks, paths and errors


def test_hooks_change_input_and_output_until_they_are_removed():
    layer = nn.Identity()
    first = layer.register_forward_pre_hook(lambda module, args: args[0] + 1)
    second = layer.register_forward_hook(lambda module, args, output: output * args[0])
    assert layer(bs.tensor(2.0)).item() == 9.0
    first.remove()
    assert layer(bs.tensor(2.0)).item() == 4.0
    second.remove()
    second.remove()
    assert layer(bs.tensor(2.0)).item() == 2.0
    with layer.register_forward_hook(lambda module, args, output: output * 0):
        assert layer(bs.tensor(2.0)).item() == 0.0
    assert layer(bs.tensor(2.0)).item() == 2.0


def test_hooks_run_in_order_prepended_ones_first_and_see_keywords():
    class Scale(nn.Module):
        def forward(self, x: float, by: float = 1.0) -> float:
            return x * by

    layer, seen = Scale(), []
    layer.register_forward_hook(lambda *_: seen.append("second"))
    layer.register_forward_hook(lambda *_: seen.append("third"))
    layer.register_forward_hook(lambda *_: seen.append("first"), prepend=True)
    layer.register_forward_pre_hook(
        lambda m, args, kwargs: (args, {"by": kwargs["by"] + 1}), with_kwargs=True
    )
    layer.register_forward_hook(lambda m, args, kwargs, output: output + kwargs["by"], with_kwargs=True)
    assert layer(2.0, by=4.0) == 15.0
    assert seen == ["first", "second", "third"]


@pytest.fixture
def paths(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths pushed, and "." for each pop."""
    seen: list[str] = []
    push, pop = module_layer._push_module, module_layer._pop_module
    monkeypatch.setattr(module_layer, "_push_module", lambda path: (seen.append(path), push(path)))
    monkeypatch.setattr(module_layer, "_pop_module", lambda: (seen.append("."), pop()))
    return seen


def test_each_call_runs_under_the_path_from_the_root(paths: list[str]):
    net = Net()
    net(bs.ones(1, 3))
    assert paths == [
        "Net", "blocks.0", "blocks.0.fc", ".", ".", "blocks.1", "blocks.1.fc", ".", ".", "head", ".", ".",
    ]  # fmt: skip


def test_paths_follow_the_root_that_was_called_and_modules_added_later(paths: list[str]):
    net = Net()
    net.blocks[1](bs.ones(1, 3))
    net(bs.ones(1, 3))
    net.blocks.append(nn.Sequential(nn.Identity()))
    net.head = nn.Linear(3, 1)
    net(bs.ones(1, 3))
    net.blocks[1](bs.ones(1, 3))
    copy.deepcopy(net.blocks[1])(bs.ones(1, 3))
    once = ["Net", "blocks.0", "blocks.0.fc", "blocks.1", "blocks.1.fc"]
    assert [path for path in paths if path != "."] == [
        *("Block", "fc"),
        *(*once, "head"),
        *(*once, "blocks.2", "blocks.2.0", "head"),
        *("blocks.1", "blocks.1.fc"),
        *("Block", "fc"),
    ]


def test_an_error_leaves_no_path_behind_and_says_where_it_was(paths: list[str]):
    net = nn.Sequential(nn.Identity(), nn.Sequential(nn.BatchNorm1d(3)))
    with pytest.raises(ShapeError) as caught:
        net(bs.zeros(2, 4))
    assert caught.value.__notes__ == ["in module 1.0 (BatchNorm1d)"]
    assert paths.count(".") == len(paths) / 2






# Containers


def test_a_sequential_is_indexed_sliced_and_changed_like_a_list():
    layers = [nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 3), nn.Tanh()]
    net = nn.Sequential(*layers)
    assert len(net) == 4
    assert net[-1] is layers[3]
    assert list(net[1:3]) == layers[1:3]
    assert isinstance(net[1:3], nn.Sequential)
    net[3] = nn.Identity()
    net.append(nn.Sigmoid()).insert(0, nn.Flatten())
    assert [type(layer).__name__ for layer in net] == [
        "Flatten", "Linear", "ReLU", "Linear", "Identity", "Sigmoid",
    ]  # fmt: skip
    del net[0]
    assert net.pop(0) is layers[0]
    assert list(net.state_dict()) == ["1.weight", "1.bias"]
    with pytest.raises(IndexError, match=r"index 9 is out of range for 4 modules; valid indices are -4 to 3"):
        net[9]


def test_a_sequential_of_a_mapping_keeps_its_names():
    net = nn.Sequential({"first": nn.Linear(2, 3), "act": nn.ReLU(), "last": nn.Linear(3, 1)})
    assert list(net.state_dict()) == ["first.weight", "first.bias", "last.weight", "last.bias"]
    assert [name for name, _ in net[1:].named_children()] == ["act", "last"]
    assert net.act is net[1]
    del net[0]
    assert [name for name, _ in net.named_children()] == ["act", "last"]


def test_a_module_list_registers_what_it_holds():
    rows = nn.ModuleList([nn.Linear(1, 1)])
    rows += [nn.Linear(2, 2), nn.Linear(3, 3)]
    rows.insert(1, nn.ReLU())
    assert list(rows.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias", "3.weight", "3.bias"]
    del rows[1:3]
    assert [tuple(p.shape) for p in rows.parameters()] == [(1, 1), (1,), (3, 3), (3,)]
    assert len(rows + [nn.ReLU()]) == 3
    assert [type(row).__name__ for row in rows[:1]] == ["Linear"]
    with pytest.raises(NotImplementedError):
        rows(1)


def test_a_module_dict_registers_what_it_holds():
    table = nn.ModuleDict({"a": nn.Linear(1, 1), "b": nn.ReLU()})
    table["c"] = nn.Linear(2, 2)
    table["a"] = nn.Linear(3, 3)
    assert list(table) == ["a", "b", "c"]
    assert "b" in table
    assert len(table) == 3
    assert table.pop("b").__class__ is nn.ReLU
    assert [name for name, _ in table.items()] == list(table.keys()) == ["a", "c"]
    assert table["a"].in_features == 3
    assert list(table.state_dict()) == ["a.weight", "a.bias", "c.weight", "c.bias"]
    with pytest.raises(KeyError):
        table["b"]
    with pytest.raises(BacksweepError, match="exists already"):
        table["keys"] = nn.ReLU()


def test_lists_and_dicts_of_parameters_register_what_they_hold():
    rows = nn.ParameterList([bs.zeros(1), nn.Parameter(bs.zeros(2))])
    rows.append(bs.zeros(3))
    rows[0] = bs.zeros(4)
    assert [tuple(p.shape) for p in rows.parameters()] == [(4,), (2,), (3,)]
    assert list(rows.state_dict()) == ["0", "1", "2"]
    assert len(rows[1:]) == 2
    table = nn.ParameterDict({"a": bs.zeros(1)})
    table["b"] = bs.zeros(2)
    assert list(table.state_dict()) == ["a", "b"]
    assert all(isinstance(value, nn.Parameter) for value in [*rows, *table.values()])


# Linear, convolution, embedding, dropout


def test_linear_is_x_times_the_transposed_weight_plus_bias():
    for bias in (True, False):
        layer = randomised(nn.Linear(4, 3, bias=bias))
        w = weights(layer)
        x = draw(2, 5, 4)
        close(layer(tensor(x)), x @ w["weight"].T + w.get("bias", 0.0))












def test_an_embedding_gives_rows_and_its_padding_row_stays_zero():
    layer = nn.Embedding(5, 3, padding_idx=-2).double()
    table = weights(layer)["weight"]
    assert layer.padding_idx == 3
    assert not table[3].any()
    assert table[[0, 1, 2, 4]].all()
    indices = [[0, 3], [4, 0]]
    y = layer(bs.tensor(indices))
    close(y, table[indices])
    y.sum().backward()
    close(layer.weight.grad, np.array([2.0, 0, 0, 0, 1])[:, None] * np.ones(3))


def test_an_embedding_takes_a_table_that_is_given():
    table = tensor(draw(4, 2))
    layer = nn.Embedding.from_pretrained(table, padding_idx=-1)
    close(layer(bs.tensor([3, 1])), array(table)[[3, 1]], 0)
    assert not layer.weight.requires_grad
    assert (layer.num_embeddings, layer.padding_idx) == (4, 3)
    assert nn.Embedding.from_pretrained(table, freeze=False).weight.requires_grad
    with pytest.raises(ValueError, match="padding_idx 9 is out of range for 4 rows"):
        nn.Embedding(4, 2, padding_idx=9)


def test_dropout_zeroes_a_part_scales_the_rest_and_rests_in_evaluation():
    bs.manual_seed(0)
    layer = nn.Dropout(0.25)
    y = array(layer(bs.ones(100_000)))
    np.testing.assert_allclose(np.unique(y), [0.0, 4 / 3], rtol=1e-6)
    # Five standard deviations of a binomial share.
    assert abs((y == 0).mean() - 0.25) < 5 * math.sqrt(0.25 * 0.75 / 100_000)
    assert (array(layer.eval()(bs.ones(100))) == 1).all()
    assert not array(nn.Dropout(1.0)(bs.ones(100))).any()
    with pytest.raises(ValueError, match=r"Dropout: p=1.5 is no probability"):
        nn.Dropout(1.5)






# Normalisation


def standardise(x: Array, axes: tuple[int, ...], eps: float) -> Array:
    mean = x.mean(axis=axes, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(axis=axes, keepdims=True) + eps)








def test_layer_norm_normalises_the_last_axes():
    x = draw(5, 3, 4)
    norm = randomised(nn.LayerNorm((3, 4), eps=1e-3))
    w = weights(norm)
    close(norm(tensor(x)), standardise(x, (1, 2), 1e-3) * w["weight"] + w["bias"])
    norm = randomised(nn.LayerNorm(4, bias=False))
    close(norm(tensor(x)), standardise(x, (2,), 1e-5) * weights(norm)["weight"])
    close(nn.LayerNorm(4, elementwise_affine=False)(tensor(x)), standardise(x, (2,), 1e-5))


def test_rms_norm_divides_by_the_root_mean_square():
    x = draw(5, 4)
    for eps in (0.1, None):
        norm = randomised(nn.RMSNorm(4, eps))
        given = np.finfo(np.float64).eps if eps is None else eps
        wanted = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + given) * weights(norm)["weight"]
        close(norm(tensor(x)), wanted)




# Activations and pooling


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def erf(x: Array) -> Array:
    return np.vectorize(math.erf)(x)


ACTIVATIONS: list[tuple[nn.Module, Callable[[Array], Array]]] = [
    (nn.ReLU(), lambda x: np.maximum(x, 0)),
    (nn.ReLU6(), lambda x: np.clip(x, 0, 6)),
    (nn.LeakyReLU(0.2), lambda x: np.where(x > 0, x, 0.2 * x)),
    (nn.ELU(0.5), lambda x: np.where(x > 0, x, 0.5 * np.expm1(x))),
    (nn.CELU(0.5), lambda x: np.where(x > 0, x, 0.5 * np.expm1(x / 0.5))),
    (
        nn.SELU(),
        lambda x: 1.0507009873554804935 * np.where(x > 0, x, 1.6732632423543772848 * np.expm1(x)),
    ),
    (nn.GELU(), lambda x: x * 0.5 * (1 + erf(x / math.sqrt(2)))),
    (
        nn.GELU("tanh"),
        lambda x: x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ),
    (nn.SiLU(), lambda x: x * sigmoid(x)),
    (nn.Mish(), lambda x: x * np.tanh(np.log1p(np.exp(x)))),
    (nn.Sigmoid(), sigmoid),
    (nn.Tanh(), np.tanh),
    (nn.LogSigmoid(), lambda x: -np.log1p(np.exp(-x))),
    (nn.Softplus(2.0), lambda x: np.log1p(np.exp(2 * x)) / 2),
    (nn.Softsign(), lambda x: x / (1 + abs(x))),
    (nn.Tanhshrink(), lambda x: x - np.tanh(x)),
    (nn.Hardshrink(0.7), lambda x: np.where(abs(x) > 0.7, x, 0)),
    (nn.Softshrink(0.7), lambda x: np.sign(x) * np.maximum(abs(x) - 0.7, 0)),
    (nn.Hardtanh(-0.5, 1.5), lambda x: np.clip(x, -0.5, 1.5)),
    (nn.Hardsigmoid(), lambda x: np.clip(x + 3, 0, 6) / 6),
    (nn.Hardswish(), lambda x: x * np.clip(x + 3, 0, 6) / 6),
    (nn.Threshold(0.3, 9.0), lambda x: np.where(x > 0.3, x, 9.0)),
    (nn.PReLU().double(), lambda x: np.where(x > 0, x, 0.25 * x)),
    (nn.PReLU(5, init=0.1).double(), lambda x: np.where(x > 0, x, 0.1 * x)),
    (nn.GLU(0), lambda x: x[:4] * sigmoid(x[4:])),
    (nn.Softmax(1), lambda x: np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)),
    (nn.Softmin(0), lambda x: np.exp(-x) / np.exp(-x).sum(axis=0, keepdims=True)),
    (nn.LogSoftmax(1), lambda x: x - np.log(np.exp(x).sum(axis=1, keepdims=True))),
]


@pytest.mark.parametrize(("layer", "wanted"), ACTIVATIONS, ids=lambda value: type(value).__name__)
def test_an_activation_follows_its_formula(layer: nn.Module, wanted: Callable[[Array], Array]):
    x = draw(8, 5) * 2
    # PReLU's slope starts as a float32 number.
    close(layer(tensor(x)), wanted(x), 1e-7 if isinstance(layer, nn.PReLU) else 1e-11)








def test_flatten_and_unflatten_undo_each_other():
    x = draw(2, 3, 4, 5)
    flat = nn.Flatten()(tensor(x))
    close(flat, x.reshape(2, 60), 0)
    close(nn.Unflatten(1, (3, 4, 5))(flat), x, 0)


# Recurrence


def scan(kind: str, x: Array, state: list[Array], w: list[Array]) -> tuple[Array, list[Array]]:
    """One layer in one direction, by the definition: x [t, b, i], state [b, h]."""
    w_ih, w_hh, b_ih, b_hh = w
    ys = []
    for x_t in x:
        from_x, from_h = x_t @ w_ih.T + b_ih, state[0] @ w_hh.T + b_hh
        if kind == "RNN":
            state = [np.tanh(from_x + from_h)]
        elif kind == "LSTM":
            i, f, g, o = np.split(from_x + from_h, 4, axis=1)
            c = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(g)
            state = [sigmoid(o) * np.tanh(c), c]
        else:
            (r_x, z_x, n_x), (r_h, z_h, n_h) = np.split(from_x, 3, axis=1), np.split(from_h, 3, axis=1)
            z = sigmoid(z_x + z_h)
            state = [(1 - z) * np.tanh(n_x + sigmoid(r_x + r_h) * n_h) + z * state[0]]
        ys.append(state[0])
    return np.stack(ys), state


def recurrent(kind: str, layer: nn.Module, x: Array, states: list[Array]) -> tuple[Array, list[Array]]:
    """All layers and directions: x [t, b, i], states [layers·directions, b, h]."""
    w, last, row = weights(layer), [], 0
    for level in range(layer.num_layers):
        outputs = []
        for way in ("", "_reverse")[: 1 + layer.bidirectional]:
            names = [f"{part}_l{level}{way}" for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
            zero = np.zeros(len(w[names[0]]))
            y, state = scan(
                kind,
                x[::-1] if way else x,
                [part[row] for part in states],
                [w.get(name, zero) for name in names],
            )
            outputs.append(y[::-1] if way else y)
            last.append(state)
            row += 1
        x = np.concatenate(outputs, axis=2)
    return x, [np.stack(part) for part in zip(*last, strict=True)]


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize(
    "settings",
    [{}, {"bias": False}, {"num_layers": 2, "bidirectional": True}, {"num_layers": 3, "batch_first": True}],
    ids=str,
)
def test_a_recurrent_layer_follows_its_formula(kind: str, settings: dict[str, Any]):
    layer = randomised(getattr(nn, kind)(4, 5, **settings))
    rows, parts = layer.num_layers * (1 + layer.bidirectional), 1 + (kind == "LSTM")
    x = draw(6, 3, 4)
    for states in ([np.zeros((rows, 3, 5))] * parts, [draw(rows, 3, 5, seed=part) for part in range(parts)]):
        wanted, wanted_states = recurrent(kind, layer, x, states)
        given = [tensor(state) for state in states]
        hx = None if not states[0].any() else tuple(given) if parts == 2 else given[0]
        y, last = layer(tensor(x.swapaxes(0, 1) if layer.batch_first else x), hx)
        close(y, wanted.swapaxes(0, 1) if layer.batch_first else wanted)
        for state, wanted_state in zip(last if parts == 2 else [last], wanted_states, strict=True):
            close(state, wanted_state)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
def test_a_sequence_without_a_batch_is_a_batch_of_one(kind: str):
    layer = randomised(getattr(nn, kind)(4, 5, num_layers=2))
    x = draw(6, 4)
    y, last = layer(tensor(x))
    batched, batched_last = layer(tensor(x[:, None]))
    close(y, array(batched)[:, 0], 0)
    for one, other in zip(last, batched_last, strict=True) if kind == "LSTM" else [(last, batched_last)]:
        close(one, array(other)[:, 0], 0)


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("bias", [True, False])
def test_a_cell_is_one_step_of_the_layer(kind: str, bias: bool):
    cell = randomised(getattr(nn, kind + "Cell")(4, 5, bias=bias))
    layer = getattr(nn, kind)(4, 5, bias=bias).double()
    layer.load_state_dict({f"{name}_l0": value for name, value in cell.state_dict().items()})
    x, states = draw(3, 4), [tensor(draw(3, 5, seed=part)) for part in range(1 + (kind == "LSTM"))]
    after = cell(tensor(x), tuple(states) if kind == "LSTM" else states[0])
    hx = [state.unsqueeze(0) for state in states]
    _, last = layer(tensor(x[None]), tuple(hx) if kind == "LSTM" else hx[0])
    for one, other in zip(after, last, strict=True) if kind == "LSTM" else [(after, last)]:
        close(one, array(other)[0])
    alone = cell(tensor(x[0]))
    together = cell(tensor(x))
    close(alone[0] if kind == "LSTM" else alone, array(together[0] if kind == "LSTM" else together)[0])


def test_a_relu_rnn_cuts_below_zero():
    layer = randomised(nn.RNN(2, 3, nonlinearity="relu"))
    w = weights(layer)
    x = draw(1, 1, 2)
    wanted = np.maximum(x[0] @ w["weight_ih_l0"].T + w["bias_ih_l0"] + w["bias_hh_l0"], 0)
    close(layer(tensor(x))[0], wanted[None])


def test_recurrent_layers_refuse_what_does_not_fit():
    layer = nn.LSTM(4, 5)
    with pytest.raises(ShapeError, match=r"LSTM: input has shape \[6, 3, 5\]; \[t, b, input\] or \[t, input\]"):
        layer(bs.zeros(6, 3, 5))
    with pytest.raises(ShapeError, match=r"LSTM: a state has shape \[1, 2, 5\]; \[1, 3, 5\] is needed"):
        layer(bs.zeros(6, 3, 4), (bs.zeros(1, 2, 5), bs.zeros(1, 2, 5)))
    with pytest.warns(UserWarning, match="dropout=0.5 acts between layers"):
        nn.GRU(4, 5, dropout=0.5)
    with pytest.raises(ValueError, match="nonlinearity 'cube' is unknown"):
        nn.RNN(4, 5, nonlinearity="cube")


def test_dropout_between_layers_acts_in_training_only():
    bs.manual_seed(0)
    layer = nn.GRU(4, 5, num_layers=2, dropout=0.9)
    x = bs.randn(6, 3, 4)
    assert not np.array_equal(array(layer(x)[0]), array(layer(x)[0]))
    layer.eval()
    assert np.array_equal(array(layer(x)[0]), array(layer(x)[0]))


def test_recurrent_and_attention_layers_have_the_keys_of_pytorch():
    rows = {
        "lstm": (
            nn.LSTM(2, 3, num_layers=2, bidirectional=True),
            [
                f"{kind}_l{layer}{way}"
                for layer in (0, 1)
                for way in ("", "_reverse")
                for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
            ],
        ),
        "gru": (nn.GRU(2, 3, bias=False), ["weight_ih_l0", "weight_hh_l0"]),
        "attention": (
            nn.MultiheadAttention(4, 2),
            ["in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias"],
        ),
        "attention of other widths": (
            nn.MultiheadAttention(4, 2, kdim=3, vdim=5, add_bias_kv=True),
            [
                *("q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias", "bias_k", "bias_v"),
                *("out_proj.weight", "out_proj.bias"),
            ],
        ),
        "encoder": (
            nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8), 1, nn.LayerNorm(4)),
            [
                *(f"layers.0.self_attn.in_proj_{kind}" for kind in ("weight", "bias")),
                *(f"layers.0.self_attn.out_proj.{kind}" for kind in ("weight", "bias")),
                *(
                    f"layers.0.{part}.{kind}"
                    for part in ("linear1", "linear2", "norm1", "norm2")
                    for kind in ("weight", "bias")
                ),
                *("norm.weight", "norm.bias"),
            ],
        ),
    }
    for name, (module, keys) in rows.items():
        assert list(module.state_dict()) == keys, name


# Attention


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def attend(module: nn.MultiheadAttention, q: Array, k: Array, v: Array, mask: Array) -> tuple[Array, Array]:
    """q [n, l, e], k and v [n, s, e], mask [n, heads, l, s] added to the scores, by the definition."""
    w = weights(module)
    e, heads = module.embed_dim, module.num_heads
    w_q, w_k, w_v = (
        np.split(w["in_proj_weight"], 3)
        if "in_proj_weight" in w
        else [w[f"{part}_proj_weight"] for part in "qkv"]
    )
    b_q, b_k, b_v = np.split(w.get("in_proj_bias", np.zeros(3 * e)), 3)

    def split(x: Array) -> Array:
        return x.reshape(*x.shape[:2], heads, e // heads).swapaxes(1, 2)

    q, k, v = split(q @ w_q.T + b_q), split(k @ w_k.T + b_k), split(v @ w_v.T + b_v)
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(e // heads) + mask
    dead = np.isneginf(scores).all(axis=-1, keepdims=True)
    p = np.where(dead, 0.0, softmax(np.where(dead, 0.0, scores)))
    y = (p @ v).swapaxes(1, 2).reshape(q.shape[0], -1, e)
    return y @ w["out_proj.weight"].T + w.get("out_proj.bias", 0.0), p


CAUSAL = np.triu(np.ones((5, 5), dtype=bool), 1)
PADDING = np.zeros((3, 5), dtype=bool)
PADDING[0, 3:] = True
PADDING[2, 1] = True
BIAS = draw(5, 5, seed=7)


def blocked(mask: Array) -> Array:
    return np.where(mask, -np.inf, 0.0)


@pytest.mark.parametrize("settings", [{}, {"bias": False}, {"batch_first": True}], ids=str)
@pytest.mark.parametrize(
    ("call", "mask"),
    [
        ({}, np.zeros((1, 1, 1, 1))),
        ({"attn_mask": CAUSAL}, blocked(CAUSAL)),
        ({"attn_mask": CAUSAL, "is_causal": True}, blocked(CAUSAL)),
        ({"is_causal": True}, blocked(CAUSAL)),
        ({"is_causal": True, "key_padding_mask": PADDING}, blocked(CAUSAL) + blocked(PADDING)[:, None, None]),
        ({"key_padding_mask": PADDING}, blocked(PADDING)[:, None, None]),
        ({"attn_mask": CAUSAL, "key_padding_mask": PADDING}, blocked(CAUSAL | PADDING[:, None])[:, None]),
        ({"attn_mask": BIAS}, BIAS),
        ({"attn_mask": BIAS, "key_padding_mask": PADDING}, BIAS + blocked(PADDING)[:, None, None]),
        ({"attn_mask": draw(6, 5, 5)}, draw(6, 5, 5).reshape(3, 2, 5, 5)),
    ],
    ids=["plain", "mask", "mask and flag", "flag", "flag and padding", "padding", "both", "bias", "mixed", "heads"],
)
def test_attention_follows_its_formula_with_and_without_weights(
    settings: dict[str, Any], call: dict[str, Any], mask: Array
):
    module = randomised(nn.MultiheadAttention(8, 2, **settings))
    x = draw(3, 5, 8)
    wanted, p = attend(module, x, x, x, mask)
    call = {name: bs.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in call.items()}
    given = tensor(x if module.batch_first else x.swapaxes(0, 1))
    y, averaged = module(given, given, given, **call)
    close(y, wanted if module.batch_first else wanted.swapaxes(0, 1))
    close(averaged, p.mean(axis=1))
    _, each = module(given, given, given, average_attn_weights=False, **call)
    close(each, p)
    y, none = module(given, given, given, need_weights=False, **call)
    close(y, wanted if module.batch_first else wanted.swapaxes(0, 1))
    assert none is None


def test_attention_takes_other_widths_lengths_and_no_batch():
    module = randomised(nn.MultiheadAttention(8, 4, kdim=6, vdim=7, batch_first=True))
    q, k, v = draw(2, 3, 8), draw(2, 4, 6), draw(2, 4, 7)
    wanted, p = attend(module, q, k, v, np.zeros((1, 1, 1, 1)))
    y, averaged = module(tensor(q), tensor(k), tensor(v))
    close(y, wanted)
    close(averaged, p.mean(axis=1))
    y, averaged = module(tensor(q[0]), tensor(k[0]), tensor(v[0]))
    close(y, wanted[0])
    close(averaged, p.mean(axis=1)[0])
    cross = randomised(nn.MultiheadAttention(8, 2, batch_first=True))
    k, v = draw(2, 4, 8), draw(2, 4, 8, seed=5)
    for value in (k, v):
        kt = tensor(k)
        close(
            cross(tensor(q), kt, kt if value is k else tensor(v))[0],
            attend(cross, q, k, value, np.zeros((1, 1, 1, 1)))[0],
        )


def test_a_place_that_may_attend_to_nothing_gives_the_output_bias_and_no_nan():
    module = randomised(nn.MultiheadAttention(4, 2, batch_first=True))
    x = tensor(draw(2, 3, 4)).requires_grad_()
    padding = bs.from_numpy(np.array([[True, True, True], [False, False, False]]))
    for need_weights in (True, False):
        y, p = module(x, x, x, key_padding_mask=padding, need_weights=need_weights)
        close(y[0], np.broadcast_to(weights(module)["out_proj.bias"], (3, 4)))
        if p is not None:
            assert not array(p)[0].any()
        x.grad = None
        y.sum().backward()
        assert np.isfinite(array(x.grad)).all()


def test_attention_to_added_keys_is_never_masked():
    module = randomised(nn.MultiheadAttention(4, 2, add_bias_kv=True, add_zero_attn=True, batch_first=True))
    x = tensor(draw(1, 3, 4))
    _, p = module(x, x, x, key_padding_mask=bs.from_numpy(np.array([[True, True, True]])))
    assert tuple(p.shape) == (1, 3, 5)
    assert not array(p)[:, :, :3].any()
    np.testing.assert_allclose(array(p)[:, :, 3:].sum(axis=-1), 1.0, rtol=1e-12)


def test_attention_refuses_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match="embed_dim 5 does not divide into 2 heads"):
        nn.MultiheadAttention(5, 2)
    module, x = nn.MultiheadAttention(4, 2), bs.zeros(3, 2, 4)
    with pytest.raises(ShapeError, match=r"\[3, 2, 4\], \[3, 2, 5\], \[3, 2, 4\]"):
        module(x, bs.zeros(3, 2, 5), x)
    with pytest.raises(ShapeError, match=r"\[3, 2, 4\], \[3, 3, 4\], \[3, 3, 4\]; key and value must have"):
        module(x, bs.zeros(3, 3, 4), bs.zeros(3, 3, 4))
    with pytest.raises(ShapeError, match=r"attn_mask has shape \[3, 4\]; \[3, 3\] or \[4, 3, 3\] is needed"):
        module(x, x, x, attn_mask=bs.zeros(3, 4))
    with pytest.raises(ShapeError, match=r"key_padding_mask has shape \[3, 2\]; \[2, 3\] is needed"):
        module(x, x, x, key_padding_mask=bs.zeros(3, 2))


@pytest.mark.parametrize("norm_first", [False, True])
def test_an_encoder_layer_is_attention_and_feed_forward_with_residuals(norm_first: bool):
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True, norm_first=norm_first)
    randomised(layer)
    w, x = weights(layer), draw(3, 5, 8)

    def norm(y: Array, name: str) -> Array:
        return standardise(y, (2,), 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def feed(y: Array) -> Array:
        hidden = np.maximum(y @ w["linear1.weight"].T + w["linear1.bias"], 0)
        return hidden @ w["linear2.weight"].T + w["linear2.bias"]

    def self_attend(y: Array) -> Array:
        return attend(layer.self_attn, y, y, y, blocked(CAUSAL))[0]

    if norm_first:
        y = x + self_attend(norm(x, "norm1"))
        y = y + feed(norm(y, "norm2"))
    else:
        y = norm(x + self_attend(x), "norm1")
        y = norm(y + feed(y), "norm2")
    close(layer(tensor(x), bs.from_numpy(CAUSAL)), y, 1e-10)
    close(layer(tensor(x), bs.from_numpy(CAUSAL), is_causal=True), y, 1e-10)


def test_an_encoder_stacks_copies_that_do_not_share():
    layer = nn.TransformerEncoderLayer(4, 2, 8, 0.0)
    encoder = nn.TransformerEncoder(layer, 3)
    x = bs.randn(5, 2, 4)
    y = x
    for copied in encoder.layers:
        y = copied(y)
    close(encoder(x), array(y), 0)
    assert len({id(parameter) for parameter in encoder.parameters()}) == 3 * len(list(layer.parameters()))


# Gradients of what is composed in Python


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.RNN(3, 4, num_layers=2, bidirectional=True), (5, 2, 3)),
        (lambda: nn.LSTM(3, 4, num_layers=2, bidirectional=True), (5, 2, 3)),
        (lambda: nn.GRU(3, 4, num_layers=2, bidirectional=True), (5, 2, 3)),
        (lambda: nn.MultiheadAttention(4, 2), (5, 2, 4)),
        (lambda: nn.TransformerEncoderLayer(4, 2, 8, 0.0, "gelu"), (5, 2, 4)),
    ],
    ids=["rnn", "lstm", "gru", "attention", "encoder layer"],
)
def test_gradients_of_layers_over_time_agree_with_differences(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
):
    module = randomised(make())
    arrays = [draw(*shape), *[array(parameter) for parameter in module.parameters()]]
    ways = [draw(*value.shape, seed=11 + place) for place, value in enumerate(arrays)]

    def loss(step: float) -> tuple[float, list[Array]]:
        x = leaf(arrays[0] + step * ways[0])
        with bs.no_grad():
            for parameter, value, way in zip(module.parameters(), arrays[1:], ways[1:], strict=True):
                parameter.copy_(tensor(value + step * way))
        module.zero_grad()
        y = module(x, x, x)[0] if isinstance(module, nn.MultiheadAttention) else module(x)
        y = y[0] if isinstance(y, tuple) else y
        total = (y * tensor(draw(*y.shape, seed=5))).sum()
        total.backward()
        return float(total.item()), [array(x.grad), *[array(parameter.grad) for parameter in module.parameters()]]

    slope = sum(float(np.vdot(grad, way)) for grad, way in zip(loss(0.0)[1], ways, strict=True))
    h = 1e-4
    # Fourth-order central difference.
    difference = (8 * (loss(h)[0] - loss(-h)[0]) - (loss(2 * h)[0] - loss(-2 * h)[0])) / (12 * h)
    np.testing.assert_allclose(slope, difference, rtol=1e-7)


def leaf(values: Array) -> bs.Tensor:
    return tensor(values).requires_grad_()




# Losses


def log_softmax(x: Array) -> Array:
    return x - np.log(np.exp(x).sum(axis=1, keepdims=True))


X, Y = draw(4, 5), draw(4, 5, seed=1)
P = softmax(Y)
SIGNS = np.sign(Y)
CLASSES = np.array([0, 3, 1, 4])
CLASS_WEIGHTS = np.array([0.5, 1.0, 2.0, 0.25, 3.0])


def distance(a: Array, b: Array, p: float = 2.0) -> Array:
    return (abs(a - b + 1e-6) ** p).sum(axis=-1) ** (1 / p)






def test_cross_entropy_takes_classes_weights_smoothing_and_probabilities():
    logp = log_softmax(X)
    picked = logp[np.arange(4), CLASSES]
    x, classes = tensor(X), bs.tensor(CLASSES.tolist())
    close(nn.CrossEntropyLoss()(x, classes), np.array(-picked.mean()))
    close(nn.CrossEntropyLoss(reduction="none")(x, classes), -picked)
    close(nn.NLLLoss()(tensor(logp), classes), np.array(-picked.mean()))
    w = CLASS_WEIGHTS[CLASSES]
    close(nn.CrossEntropyLoss(tensor(CLASS_WEIGHTS))(x, classes), np.array(-(w * picked).sum() / w.sum()))
    close(nn.CrossEntropyLoss(ignore_index=3)(x, classes), np.array(-picked[[0, 2, 3]].mean()))
    smooth = 0.9 * picked + 0.1 * logp.mean(axis=1)
    close(nn.CrossEntropyLoss(label_smoothing=0.1)(x, classes), np.array(-smooth.mean()))
    close(nn.CrossEntropyLoss()(x, tensor(P)), np.array(-(P * logp).sum(axis=1).mean()))
    places = np.stack([X, Y], axis=2)
    both = np.stack([CLASSES, CLASSES[::-1]], axis=1)
    wanted = -np.mean([log_softmax(places[:, :, j])[np.arange(4), both[:, j]].mean() for j in (0, 1)])
    close(nn.CrossEntropyLoss()(tensor(places), bs.tensor(both.tolist())), np.array(wanted))


def test_the_batch_mean_of_kl_is_the_divergence():
    wanted = (P * (np.log(P) - log_softmax(X))).sum(axis=1).mean()
    close(nn.KLDivLoss(reduction="batchmean")(tensor(log_softmax(X)), tensor(P)), np.array(wanted))






def test_an_unknown_reduction_is_refused():
    with pytest.raises(
        ValueError, match="MSELoss: reduction 'average' is unknown; mean, sum or none is needed"
    ):
        nn.MSELoss(reduction="average")


# Clipping and vectors


def with_gradients(*grads: Array) -> list[nn.Parameter]:
    parameters = []
    for grad in grads:
        parameter = nn.Parameter(tensor(np.zeros(grad.shape)))
        parameter.grad = tensor(grad)
        parameters.append(parameter)
    return [*parameters, nn.Parameter(bs.zeros(2))]


@pytest.mark.parametrize("order", [1.0, 2.0, 3.0, math.inf])
def test_clipping_by_norm_scales_all_gradients_together(order: float):
    grads = [draw(3, 4), draw(5), draw(1)]
    whole = np.concatenate([grad.ravel() for grad in grads])
    norm = np.linalg.norm(whole, order)
    for limit in (norm / 3, norm * 3):
        parameters = with_gradients(*grads)
        given = nn.utils.clip_grad_norm_(iter(parameters), limit, norm_type=order)
        np.testing.assert_allclose(given.item(), norm, rtol=1e-6)
        for parameter, grad in zip(parameters, grads, strict=False):
            close(parameter.grad, grad * min(1.0, limit / (norm + 1e-6)))
    np.testing.assert_allclose(
        nn.utils.get_total_norm([tensor(g) for g in grads], order).item(), norm, rtol=1e-6
    )


def test_clipping_shows_a_norm_that_is_not_finite():
    parameters = with_gradients(np.array([1.0, math.nan]))
    with pytest.raises(ValueError, match="the gradients have norm nan"):
        nn.utils.clip_grad_norm_(parameters, 1.0, error_if_nonfinite=True)
    assert array(parameters[0].grad)[0] == 1.0
    assert math.isnan(nn.utils.clip_grad_norm_(parameters, 1.0).item())
    assert np.isnan(array(parameters[0].grad)).all()
    assert nn.utils.clip_grad_norm_([], 1.0).item() == 0.0


def test_clipping_by_value_clips_each_element():
    parameters = with_gradients(np.array([-3.0, -0.5, 0.5, 3.0]))
    nn.utils.clip_grad_value_(parameters, 1.0)
    close(parameters[0].grad, np.array([-1.0, -0.5, 0.5, 1.0]), 0)


def test_parameters_go_into_one_vector_and_back():
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    vector = nn.utils.parameters_to_vector(net.parameters())
    assert tuple(vector.shape) == (13,)
    twin = copy.deepcopy(net)
    nn.utils.vector_to_parameters(vector.detach() * 2, twin.parameters())
    for one, other in zip(net.parameters(), twin.parameters(), strict=True):
        close(other, 2 * array(one), 0)
    with pytest.raises(ShapeError, match=r"\[12\]; \[13\] is needed"):
        nn.utils.vector_to_parameters(bs.zeros(12), net.parameters())
