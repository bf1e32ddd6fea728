"""Layers of images and sequences of channels: convolutions, pools, norms and the dropout of channels."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_nn import Array, array, close, draw, randomised, standardise, tensor, weights

import backsweep as bs
import backsweep.nn.functional as F
from backsweep import nn
from backsweep.errors import ShapeError


def convolution(
    x: Array, w: Array, b: Array | None, stride: Array, sides: Array, dilation: Array, groups: int, mode: str
) -> Array:
    """x [n, c, *size], w [o, c / groups, *k] → [n, o, *size'], by the definition."""
    axes = x.ndim - 2
    modes = {"zeros": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}
    x = np.pad(x, [(0, 0), (0, 0), *sides], mode=modes[mode])
    k = np.array(w.shape[2:])
    size = (np.array(x.shape[2:]) - dilation * (k - 1) - 1) // stride + 1
    y = np.zeros((x.shape[0], w.shape[0], *size))
    in_group, out_group = x.shape[1] // groups, w.shape[0] // groups
    for o in range(w.shape[0]):
        channels = x[:, o // out_group * in_group :][:, :in_group]
        for place in np.ndindex(*k):
            window = tuple(
                slice(place[a] * dilation[a], place[a] * dilation[a] + stride[a] * (size[a] - 1) + 1, stride[a])
                for a in range(axes)
            )
            y[:, o] += np.einsum(
                "nc...,c->n...", channels[(slice(None), slice(None), *window)], w[(o, slice(None), *place)]
            )
    return y if b is None else y + b.reshape(-1, *[1] * axes)


@pytest.mark.parametrize(
    ("axes", "settings"),
    [
        (1, {}),
        (1, {"stride": 2, "padding": 1, "groups": 2}),
        (1, {"padding": "same", "dilation": 2}),
        (2, {"bias": False}),
        (2, {"padding": (2, 1), "stride": (1, 2), "dilation": (2, 1)}),
        (2, {"padding": "same", "kernel_size": (4, 3)}),
        (2, {"padding": "valid"}),
        (2, {"padding": 2, "padding_mode": "reflect"}),
        (2, {"padding": (1, 2), "padding_mode": "replicate"}),
        (2, {"padding": "same", "padding_mode": "circular", "groups": 2}),
        (3, {"padding": 1, "stride": 2}),
    ],
)
def test_a_convolution_sums_window_times_weight(axes: int, settings: dict[str, Any]):
    settings = {"kernel_size": 3, **settings}
    layer = randomised((nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1](4, 6, **settings))
    w = weights(layer)
    x = draw(2, 4, *(8, 7, 6)[:axes])
    stride, dilation, k = (np.array(size) for size in (layer.stride, layer.dilation, layer.kernel_size))
    padding = settings.get("padding", 0)
    if padding == "same":
        total = dilation * (k - 1)
        sides = np.stack([total // 2, total - total // 2], axis=1)
    else:
        sides = np.broadcast_to(np.reshape(0 if padding == "valid" else padding, (-1, 1)), (axes, 2))
    mode = settings.get("padding_mode", "zeros")
    wanted = convolution(x, w["weight"], w.get("bias"), stride, sides, dilation, layer.groups, mode)
    close(layer(tensor(x)), wanted)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("settings", [{}, {"stride": 2, "padding": 1, "groups": 2}, {"dilation": 2, "stride": 2}])
def test_a_transposed_convolution_is_the_adjoint_of_the_convolution(axes: int, settings: dict[str, Any]):
    down = randomised((nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1](4, 6, 3, bias=False, **settings))
    up = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[axes - 1](6, 4, 3, bias=False, **settings)
    up.double().load_state_dict(down.state_dict())
    x = draw(2, 4, *(8, 9, 7)[:axes])
    y = array(down(tensor(x)))
    back = draw(*y.shape, seed=3)
    lifted = array(up(tensor(back), output_size=x.shape[2:]))
    assert lifted.shape == x.shape
    np.testing.assert_allclose(np.vdot(y, back), np.vdot(x, lifted), rtol=1e-11)


def test_output_padding_and_bias_of_a_transposed_convolution():
    up = randomised(nn.ConvTranspose1d(1, 1, 2, stride=3, output_padding=2))
    w, b = weights(up)["weight"][0, 0], weights(up)["bias"]
    wanted = np.zeros(10) + b
    for place, value in enumerate((1.0, 2.0, 3.0)):
        wanted[3 * place : 3 * place + 2] += value * w
    close(up(tensor([[[1.0, 2.0, 3.0]]])), wanted[None, None])
    with pytest.raises(ShapeError, match=r"output_size \[11\] cannot be reached; sizes from \[8\] to \[10\] can"):
        up(tensor([[[1.0, 2.0, 3.0]]]), output_size=(11,))


def test_convolutions_refuse_impossible_settings():
    for settings in (
        {"groups": 2},
        {"padding": "some"},
        {"padding": "same", "stride": 2},
        {"padding_mode": "mirror"},
        {"stride": (1, 2, 3)},
    ):
        with pytest.raises(ValueError, match="Conv2d: "):
            nn.Conv2d(3, 4, 3, **settings)


@pytest.mark.parametrize(("layer", "axes"), [(nn.Dropout1d, 1), (nn.Dropout2d, 2), (nn.Dropout3d, 3)])
def test_channel_dropout_zeroes_whole_channels(layer: Callable[[float], nn.Module], axes: int):
    bs.manual_seed(0)
    y = array(layer(0.5)(bs.ones(20, 30, *(2, 3, 4)[:axes]))).reshape(20, 30, -1)
    assert (y == y[..., :1]).all()
    assert set(np.unique(y)) == {0.0, 2.0}


def test_alpha_dropout_keeps_mean_and_variance():
    bs.manual_seed(0)
    y = array(nn.AlphaDropout(0.2)(bs.randn(200_000)))
    assert abs(y.mean()) < 0.02
    assert abs(y.std() - 1) < 0.02


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm1d, (6, 4)),
        (nn.BatchNorm1d, (6, 4, 3)),
        (nn.BatchNorm2d, (6, 4, 3, 2)),
        (nn.BatchNorm3d, (2, 4, 3, 2, 2)),
    ],
)
@pytest.mark.parametrize("momentum", [0.3, None])
def test_batch_norm_normalises_by_the_batch_and_keeps_running_statistics(
    layer: Callable[..., nn.Module], shape: tuple[int, ...], momentum: float | None
):
    norm = randomised(layer(4, eps=1e-3, momentum=momentum))
    w = weights(norm)
    each = (slice(None), *[None] * (len(shape) - 2))
    axes = (0, *range(2, len(shape)))
    mean, var = np.zeros(4), np.ones(4)
    for step in range(3):
        x = draw(*shape, seed=step) * 2 + 1
        wanted = standardise(x, axes, 1e-3) * w["weight"][each] + w["bias"][each]
        close(norm(tensor(x)), wanted)
        part = 1 / (step + 1) if momentum is None else momentum
        mean = (1 - part) * mean + part * x.mean(axis=axes)
        count = x.size / 4
        var = (1 - part) * var + part * x.var(axis=axes) * count / (count - 1)
    close(norm.running_mean, mean)
    close(norm.running_var, var)
    assert norm.num_batches_tracked.item() == 3
    norm.eval()
    x = draw(*shape, seed=9)
    close(
        norm(tensor(x)),
        (x - mean[each]) / np.sqrt(var[each] + 1e-3) * w["weight"][each] + w["bias"][each],
    )
    assert norm.num_batches_tracked.item() == 3


def test_batch_norm_without_running_statistics_uses_the_batch_in_evaluation_too():
    norm = nn.BatchNorm1d(3, affine=False, track_running_stats=False).double().eval()
    x = draw(8, 3)
    close(norm(tensor(x)), standardise(x, (0,), 1e-5))
    assert not norm.state_dict()


def test_a_norm_refuses_other_shapes():
    with pytest.raises(ShapeError, match=r"BatchNorm2d: shape \[2, 3\] has 2 axes; 4 are needed"):
        nn.BatchNorm2d(3)(bs.zeros(2, 3))
    with pytest.raises(ShapeError, match=r"BatchNorm1d: shape \[2, 4\] has 4 channels; 3 are needed"):
        nn.BatchNorm1d(3)(bs.zeros(2, 4))
    with pytest.raises(ValueError, match="GroupNorm: 5 channels do not divide into 2 groups"):
        nn.GroupNorm(2, 5)


def test_group_norm_normalises_groups_and_instance_norm_channels():
    x = draw(2, 6, 3, 4)
    norm = randomised(nn.GroupNorm(2, 6))
    w = weights(norm)
    wanted = standardise(x.reshape(2, 2, -1), (2,), 1e-5).reshape(x.shape)
    close(norm(tensor(x)), wanted * w["weight"][:, None, None] + w["bias"][:, None, None])
    close(nn.InstanceNorm2d(6)(tensor(x)), standardise(x, (2, 3), 1e-5))
    close(nn.InstanceNorm2d(6)(tensor(x[0])), standardise(x[:1], (2, 3), 1e-5)[0])


def windows(x: Array, k: int, stride: int, padding: int, fill: float) -> Array:
    """x [n, c, h, w] → [n, c, h', w', k·k]."""
    x = np.pad(x, [(0, 0), (0, 0), (padding, padding), (padding, padding)], constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(2, 3))[:, :, ::stride, ::stride]
    return view.reshape(*view.shape[:4], -1)


def test_pools_take_the_maximum_or_mean_of_windows():
    x = draw(2, 3, 7, 8)
    close(nn.MaxPool2d(3, 2, 1)(tensor(x)), windows(x, 3, 2, 1, -np.inf).max(axis=-1))
    close(nn.MaxPool2d(2)(tensor(x)), windows(x, 2, 2, 0, 0).max(axis=-1))
    close(nn.AvgPool2d(3, 1, 1)(tensor(x)), windows(x, 3, 1, 1, 0).mean(axis=-1))
    ones = windows(np.ones_like(x), 3, 1, 1, 0).sum(axis=-1)
    without = nn.AvgPool2d(3, 1, 1, count_include_pad=False)
    close(without(tensor(x)), windows(x, 3, 1, 1, 0).sum(axis=-1) / ones)
    row = draw(2, 3, 8)
    close(nn.MaxPool1d(2)(tensor(row)), row.reshape(2, 3, 4, 2).max(axis=-1))
    close(nn.AvgPool1d(4)(tensor(row)), row.reshape(2, 3, 2, 4).mean(axis=-1))


def test_adaptive_pools_split_each_axis_into_the_output_size():
    x = draw(2, 3, 7, 5)
    bounds = [(math.floor(i * 7 / 3), math.ceil((i + 1) * 7 / 3)) for i in range(3)]
    halves = [(0, 3), (2, 5)]
    mean, top = np.zeros((2, 3, 3, 2)), np.zeros((2, 3, 3, 2))
    for (i, (a, b)), (j, (c, d)) in itertools.product(enumerate(bounds), enumerate(halves)):
        mean[:, :, i, j] = x[:, :, a:b, c:d].mean(axis=(2, 3))
        top[:, :, i, j] = x[:, :, a:b, c:d].max(axis=(2, 3))
    close(nn.AdaptiveAvgPool2d((3, 2))(tensor(x)), mean)
    close(nn.AdaptiveMaxPool2d((3, 2))(tensor(x)), top)
    close(nn.AdaptiveAvgPool2d(1)(tensor(x)), x.mean(axis=(2, 3), keepdims=True))
    close(nn.AdaptiveAvgPool1d(1)(tensor(x[0])), x[0].mean(axis=2, keepdims=True))


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
def test_padding_repeats_elements_as_its_mode_says(mode: str):
    x = draw(2, 3, 4, 5)
    name = {"constant": "constant", "reflect": "reflect", "replicate": "edge", "circular": "wrap"}[mode]
    wanted = np.pad(x, [(0, 0), (0, 0), (3, 0), (1, 2)], mode=name)
    close(F.pad(tensor(x), (1, 2, 3, 0), mode=mode), wanted, 0)


def test_constant_padding_takes_any_value_and_crops_where_sizes_are_negative():
    x = draw(2, 3)
    close(F.pad(tensor(x), (1, -2), value=math.inf), np.pad(x[:, :1], [(0, 0), (1, 0)], constant_values=math.inf), 0)
    close(F.pad(tensor(x), (0, 0, -1, 1), value=1.5), np.pad(x[1:], [(0, 1), (0, 0)], constant_values=1.5), 0)


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True, return_indices=True),
        lambda x: F.adaptive_max_pool2d(x, (3, 2), return_indices=True),
    ],
)
def test_indices_of_a_max_pool_say_where_the_maxima_are(pool: Callable[[bs.Tensor], tuple[bs.Tensor, bs.Tensor]]):
    x = draw(2, 3, 7, 6)
    y, places = (part.numpy() for part in pool(tensor(x)))
    picked = np.take_along_axis(x.reshape(2, 3, -1), places.reshape(2, 3, -1), axis=2)
    assert np.array_equal(picked.reshape(y.shape), y)


@pytest.mark.parametrize(
    "function",
    [
        lambda x, w: F.conv2d(x, w, stride=2, padding=1, groups=2),
        lambda x, w: F.conv2d(x, w.transpose(0, 1), dilation=2, padding=1),
        lambda x, w: F.conv_transpose2d(x, w, stride=2, output_padding=1),
        lambda x, w: F.max_pool2d(x**3, 3, 2, 1) * w[0, 0, 0, 0],
        lambda x, w: F.avg_pool2d(x**3, 2, padding=1) * w[0, 0, 0, 0],
        lambda x, w: F.adaptive_max_pool2d(x**3, (2, 3)) * w[0, 0, 0, 0],
        lambda x, w: F.batch_norm(x, None, None, w[:, 0, 0, 0], None, training=True),
        lambda x, w: F.instance_norm(x, weight=w[:, 0, 0, 0]),
        lambda x, w: F.group_norm(x, 2, w[:, 0, 0, 0], w[:, 1, 0, 0]),
    ],
    ids=["conv", "dilated", "transposed", "max", "average", "adaptive", "batch norm", "instance norm", "group norm"],
)
def test_second_derivatives_agree_with_differences(function: Callable[[bs.Tensor, bs.Tensor], bs.Tensor]):
    x, w = (tensor(draw(*shape, seed=seed)).requires_grad_() for seed, shape in enumerate([(2, 4, 5, 6), (4, 2, 3, 3)]))
    assert bs.autograd.gradcheck(function, (x, w))
    assert bs.autograd.gradgradcheck(function, (x, w))


def test_a_block_of_an_image_net_keeps_two_tensors_and_one_bit_an_element():
    conv, norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
    x = bs.randn(4, 8, 16, 16)
    with bs.no_grad():
        x = conv(x)
    before = bs.memory.stats()["activation"]
    y = F.relu(norm(conv(x)))
    kept = bs.memory.stats()["activation"] - before
    numel = x.numel()
    # What conv and norm read, one bit an element for relu, and mean and variance.
    assert kept == 2 * 4 * numel + numel // 8 + 2 * 4 * 8
    # The channels are still fastest in memory: no op in between has made a copy.
    assert y.stride() == x.stride() == (8 * 16 * 16, 1, 16 * 8, 8)
    (dx,) = bs.autograd.grad(y.sum(), [norm.weight])
    assert dx.shape == (8,)


def test_instance_norm_keeps_running_statistics_of_its_images():
    norm = nn.InstanceNorm1d(3, momentum=0.5, track_running_stats=True).double()
    x = draw(4, 3, 5) * 2 + 1
    norm(tensor(x))
    close(norm.running_mean, 0.5 * x.mean(axis=(0, 2)))
    close(norm.running_var, 0.5 + 0.5 * x.var(axis=2, ddof=1).mean(axis=0))
    norm.eval()
    mean, var = array(norm.running_mean)[:, None], array(norm.running_var)[:, None]
    close(norm(tensor(x)), (x - mean) / np.sqrt(var + 1e-5))
