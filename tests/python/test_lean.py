"""What is not kept by default: values that are cheap to make again, with the same bits, and their slopes in one pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest

import backsweep as bs
import backsweep.nn.functional as F
from backsweep import nn

ACTIVATIONS: dict[str, Callable[[bs.Tensor], bs.Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
}


@contextlib.contextmanager
def everything_kept() -> Iterator[None]:
    usual = bs._core.set_lean_share(0.0)
    try:
        yield
    finally:
        bs._core.set_lean_share(usual)


def leaves(dtype: bs.dtype = bs.float32) -> list[bs.Tensor]:
    """Rows and two weights, so large that a value between the two products is not worth keeping."""
    draw = np.random.default_rng(5)
    shapes = [(160, 96), (96, 257), (257, 96)]
    arrays = [draw.standard_normal(shape).astype(np.float32) / 4 for shape in shapes]
    return [bs.tensor(array).to(dtype).requires_grad_() for array in arrays]


def gradients(loss_of: Callable[..., bs.Tensor], dtype: bs.dtype = bs.float32) -> list[bytes]:
    own = leaves(dtype)
    loss_of(*own).backward()
    return [leaf.grad.to(bs.float32).numpy().tobytes() for leaf in own]


def kept(loss_of: Callable[..., bs.Tensor]) -> int:
    own = leaves()
    before = bs.memory.stats()["activation"]
    loss = loss_of(*own)
    found = bs.memory.stats()["activation"] - before
    del loss
    return found


@pytest.mark.parametrize("dtype", [bs.float32, bs.float64, bs.bfloat16], ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_value_made_again_with_its_slope_changes_no_bit(name: str, dtype: bs.dtype) -> None:
    f = ACTIVATIONS[name]

    def loss_of(x: bs.Tensor, v: bs.Tensor, w: bs.Tensor) -> bs.Tensor:
        return (f(x @ v) @ w).square().mean()

    lean = gradients(loss_of, dtype)
    with everything_kept():
        assert gradients(loss_of, dtype) == lean


def test_an_activation_between_products_is_not_kept() -> None:
    def loss_of(x: bs.Tensor, v: bs.Tensor, w: bs.Tensor) -> bs.Tensor:
        return (F.gelu(x @ v) @ w).sum()

    with everything_kept():
        whole = kept(loss_of)
    assert whole - kept(loss_of) >= 160 * 257 * 4


@pytest.mark.parametrize("dtype", [bs.float32, bs.float64, bs.bfloat16], ids=str)
@pytest.mark.parametrize("channels", [8, 24, 80])
def test_a_norm_and_its_relu_made_again_change_no_bit(channels: int, dtype: bs.dtype) -> None:
    def run() -> tuple[list[bytes], int]:
        bs.manual_seed(2)
        layers = [nn.Conv2d(3, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
        layers += [nn.Conv2d(channels, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 16, 3)]
        model = nn.Sequential(*layers).to(dtype)
        x = bs.randn(2, 3, 48, 48).to(dtype)
        before = bs.memory.stats()["activation"]
        loss = model(x).square().mean()
        kept = bs.memory.stats()["activation"] - before
        loss.backward()
        return [p.grad.to(bs.float32).numpy().tobytes() for p in model.parameters()], kept

    lean, kept = run()
    with everything_kept():
        whole, all_kept = run()
    assert lean == whole
    assert kept < all_kept


CONVOLUTIONS: dict[str, dict[str, object]] = {
    "3x3": {"kernel_size": 3, "padding": 1},
    "5x5 without padding": {"kernel_size": 5},
    "strided": {"kernel_size": 3, "stride": 2, "padding": 1},
    "dilated in groups": {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 2},
    "depthwise": {"kernel_size": 3, "padding": 1, "groups": 24},
}


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_makes_the_norm_that_it_reads_on_the_way(name: str, affine: bool) -> None:
    norm = nn.BatchNorm2d(24, affine=affine)
    model = nn.Sequential(norm, nn.ReLU(), nn.Conv2d(24, 96 if name != "depthwise" else 24, **CONVOLUTIONS[name]))
    draw = np.random.default_rng(3)
    x = bs.tensor(draw.standard_normal((3, 24, 40, 36)).astype(np.float32)).requires_grad_()

    def run(*, again: bool = False) -> list[bytes]:
        for leaf in [x, *model.parameters()]:
            leaf.grad = None
        loss = model(x * 1.5).square().mean()
        if again:
            loss.backward(retain_graph=True)
        loss.backward()
        return [leaf.grad.numpy().tobytes() for leaf in [x, *model.parameters()]]

    lean, twice = run(), run(again=True)
    with everything_kept():
        assert run() == lean
        assert run(again=True) == twice


def test_a_convolution_that_makes_its_images_on_the_way_has_no_place_for_them() -> None:
    model = nn.Sequential(nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1))
    x = bs.randn(4, 32, 64, 64).requires_grad_()
    image = 4 * 32 * 64 * 64 * 4

    def images_made() -> int:
        loss = model(x * 2).sum()
        with bs.memory.record() as recording:
            loss.backward()
        return sum(kind == "alloc" and size >= image for kind, _, size, _ in recording.events)

    made = images_made()
    with everything_kept():
        assert images_made() == made


def test_a_norm_whose_weight_was_changed_meanwhile_is_not_made_on_the_way() -> None:
    model = nn.Sequential(nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1))
    loss = model(bs.randn(2, 32, 48, 48) * 2).sum()
    with bs.no_grad():
        model[0].weight.mul_(2.0)
    with pytest.raises(bs.GraphError, match="batch_norm"):
        loss.backward()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_what_others_still_read_is_not_written_over(name: str) -> None:
    f = ACTIVATIONS[name]

    def held(x: bs.Tensor, v: bs.Tensor, w: bs.Tensor) -> bs.Tensor:
        h = x @ v
        outside.append(h)
        return (f(h) @ w).sum()

    def saved_twice(x: bs.Tensor, v: bs.Tensor, w: bs.Tensor) -> bs.Tensor:
        h = x @ v
        return (f(h) @ w).sum() + (h * h).sum()

    def read_twice(x: bs.Tensor, v: bs.Tensor, w: bs.Tensor) -> bs.Tensor:
        a = f(x @ v)
        return (a @ w).square().sum() + (a @ (w * 2)).sum()

    def stacked(x: bs.Tensor, v: bs.Tensor, w: bs.Tensor) -> bs.Tensor:
        return (f(f(x @ v)) @ w).square().sum()

    for loss_of in (held, saved_twice, read_twice, stacked):
        outside: list[bs.Tensor] = []
        lean = gradients(loss_of)
        values = [h.detach().numpy().tobytes() for h in outside]
        outside = []
        with everything_kept():
            assert gradients(loss_of) == lean, loss_of.__name__
        assert [h.detach().numpy().tobytes() for h in outside] == values


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_value_is_made_again_by_way_of_an_activation_that_another_product_reads(name: str) -> None:
    f = ACTIVATIONS[name]
    draw = np.random.default_rng(6)
    arrays = [draw.standard_normal(shape).astype(np.float32) / 4 for shape in [(160, 96), (96, 257), (257, 900)]]

    def run(doubled_first: bool) -> list[bytes]:
        x, v, w = own = [bs.tensor(array).requires_grad_() for array in arrays]
        a = f(x @ v)
        factors = [2.0, None] if doubled_first else [None, 2.0]
        one, other = [((a if factor is None else a * factor) @ w).square().sum() for factor in factors]
        (one + other).backward()
        return [leaf.grad.numpy().tobytes() for leaf in own]

    for doubled_first in (True, False):
        lean = run(doubled_first)
        with everything_kept():
            assert run(doubled_first) == lean


def test_a_retained_graph_can_be_swept_again() -> None:
    own = leaves()
    loss = (F.gelu(own[0] @ own[1]) @ own[2]).square().sum()
    loss.backward(retain_graph=True)
    first = [leaf.grad.numpy().copy() for leaf in own]
    loss.backward()
    for leaf, once in zip(own, first, strict=True):
        assert np.array_equal(leaf.grad.numpy(), once + once)


def test_some_gradients_first_and_the_others_later() -> None:
    x, v, w = leaves()
    h = F.gelu(x @ v)
    w = w.detach().clone().requires_grad_()  # younger than h, so that a sweep for its sake ends above h
    loss = (h @ w).square().sum()
    (dw,) = bs.autograd.grad(loss, [w])
    # The sweep ended at w: what lies below was not visited, and can be yet.
    h.sum().backward()
    other = leaves()
    F.gelu(other[0] @ other[1]).sum().backward()
    assert np.array_equal(v.grad.numpy(), other[1].grad.numpy())
    with everything_kept():
        (want,) = bs.autograd.grad((F.gelu(other[0] @ other[1]) @ other[2]).square().sum(), [other[2]])
    assert np.array_equal(dw.numpy(), want.numpy())


def test_second_derivatives_do_not_meet_a_slope() -> None:
    own = leaves()
    loss = (F.gelu(own[0] @ own[1]) @ own[2]).square().sum()
    (dv,) = bs.autograd.grad(loss, [own[1]], create_graph=True)
    dv.sum().backward()
    with everything_kept():
        other = leaves()
        loss = (F.gelu(other[0] @ other[1]) @ other[2]).square().sum()
        (dv,) = bs.autograd.grad(loss, [other[1]], create_graph=True)
        dv.sum().backward()
    assert all(np.array_equal(a.grad.numpy(), b.grad.numpy()) for a, b in zip(own, other, strict=True))


def test_a_sweep_that_ended_half_way_says_so_to_a_second_derivative() -> None:
    def stop(grad: bs.Tensor) -> None:
        raise RuntimeError("stop here")

    x, v, w = leaves()
    a = F.gelu(x @ v)
    other_way = bs.exp(v)  # visited after the product and before the activation
    other_way.register_hook(stop)
    with pytest.raises(RuntimeError, match="stop here"):
        ((a @ w).square().sum() + other_way.sum()).backward()
    with pytest.raises(bs.errors.GraphError, match="did not come to its end"):
        bs.autograd.grad(a.sum(), [v], create_graph=True)
    # A first derivative reads the slope.
    a.sum().backward()
    other = leaves()
    F.gelu(other[0] @ other[1]).sum().backward()
    assert np.array_equal(v.grad.numpy(), other[1].grad.numpy())


def random_images_step(seed: int) -> Callable[[bool], list[bytes]]:
    """Convolutions, norms and activations in any order, reading any image made before; its argument keeps those alive."""
    draw = np.random.default_rng(seed)
    channels, size = int(draw.choice([8, 16, 24])), int(draw.choice([24, 33, 40]))
    batch = draw.standard_normal((int(draw.integers(1, 4)), channels, size, size)).astype(np.float32)
    among = ["conv", "conv", "conv", "two convs", "norm", "relu", "silu", "add", "cat"]
    kinds = draw.choice(among, int(draw.integers(3, 9)))
    modules: dict[int, list[nn.Module]] = {}
    choices = [draw.integers(0, 1 << 30, 8) for _ in kinds]

    def layers(step: int, c: int, pick: np.ndarray) -> list[nn.Module]:
        if step not in modules:
            kernel, groups = int([1, 3, 5][pick[2] % 3]), 2 if pick[3] % 4 == 0 else 1
            wide, stride = int([16, 32, 64][pick[4] % 3]), int(1 + pick[5] % 2)
            first = nn.Conv2d(c, wide, kernel, stride, kernel // 2, groups=groups)
            modules[step] = [nn.BatchNorm2d(c), first, nn.Conv2d(c, 32, 3)]
        return modules[step]

    def images_of(x: bs.Tensor) -> list[bs.Tensor]:
        images = [x]
        for step, (kind, pick) in enumerate(zip(kinds, choices, strict=True)):
            one, other = images[pick[0] % len(images)], images[pick[1] % len(images)]
            if kind in ("conv", "two convs"):
                norm, first, second = layers(step, one.shape[1], pick)
                h = norm(one).relu()
                images.append(first(h))
                if kind == "two convs":
                    images += [second(h), h] if pick[6] % 2 else [second(h)]
            elif kind == "norm":
                images.append(layers(step, one.shape[1], pick)[0](one))
            elif kind in ("relu", "silu"):
                images.append(getattr(F, kind)(one))
            elif kind == "add" and one.shape == other.shape:
                images.append(one + other)
            elif kind == "cat" and one.shape[2:] == other.shape[2:]:
                images.append(bs.cat([one, other], 1))
        return images

    def run(hold: bool) -> list[bytes]:
        bs.manual_seed(seed)
        x = bs.tensor(batch).requires_grad_()
        images = images_of(x)
        loss = sum(image.square().mean() for image in images[-3:])
        if not hold:
            del images
        weights = [weight for layer in sum(modules.values(), []) for weight in layer.parameters()]
        for weight in weights:
            weight.grad = None
        loss.backward()
        return [leaf.grad.numpy().tobytes() for leaf in [x, *weights] if leaf.grad is not None]

    return run


@pytest.mark.parametrize("part", range(3))
def test_random_networks_of_images_change_no_bit(part: int) -> None:
    for seed in range(20 * part, 20 * part + 20):
        run = random_images_step(seed)
        with everything_kept():
            whole = run(True)
        assert run(False) == run(True) == whole, seed
