"""The same programs on a GPU. A software driver will do; without any adapter the tests say so and end.

`BACKSWEEP_TEST_DEVICE=gpu` makes a missing adapter a failure.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import backsweep as bs
import backsweep.nn.functional as F
from backsweep import nn, optim

THERE = len(bs.devices()) > 1


def test_a_wanted_gpu_is_there() -> None:
    if os.environ.get("BACKSWEEP_TEST_DEVICE") == "gpu":
        assert THERE, bs._core.why_no_gpu()
    assert bs.devices()[0] == {"name": "cpu"}


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(bs.errors.DeviceError, match="zeros: there is no device 'tpu'; 'cpu', 'gpu', 'gpu:1'"):
        bs.zeros(2, device="tpu")
    with pytest.raises(bs.errors.DeviceError, match="zeros: there is no gpu:9"):
        bs.zeros(2, device="gpu:9")


def alone(program: str, **environment: str) -> str:
    """What a program prints in a process of its own."""
    command = [sys.executable, "-c", textwrap.dedent(program)]
    run = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    return run.stdout


def test_a_machine_without_a_driver_says_so_and_trains_on_the_cpu() -> None:
    program = """
        import backsweep as bs
        assert bs.devices() == [{"name": "cpu"}]
        try:
            bs.zeros(2, device="gpu")
        except bs.errors.DeviceError as error:
            print(error)
        print(bs.ones(3, device="auto").sum().item())
    """
    said = alone(program, VK_DRIVER_FILES="/nowhere", VK_ICD_FILENAMES="/nowhere")
    assert "zeros: there is no gpu: no Vulkan driver answered (help: install the vendor's driver" in said
    assert said.endswith("3.0\n")


if THERE:

    def test_a_lost_gpu_is_an_error_and_the_cpu_goes_on() -> None:
        said = alone(
            """
            import backsweep as bs
            from backsweep import nn, optim
            model = nn.Linear(4, 2).to("gpu")
            optimizer = optim.SGD(model.parameters(), lr=0.1)
            x = bs.ones(3, 4, device="gpu")
            model(x).sum().backward()
            bs._core.gpu_lose("gpu")
            works = {
                "op": lambda: x + x, "read": lambda: x.tolist(), "new": lambda: bs.zeros(1 << 22, device="gpu"),
                "move": lambda: bs.ones(3).to("gpu"), "step": optimizer.step, "wait": lambda: bs._core.gpu_wait("gpu"),
                "backward": lambda: model(x).sum().backward(),
            }
            for name, work in works.items():
                try:
                    work()
                    print(name, "went on")
                except bs.errors.DeviceError as error:
                    assert "gpu was lost" in str(error) and "start again from a checkpoint" in str(error), error
                except bs.OutOfMemoryError as error:
                    print(name, "memory", error)
            del x, model, optimizer
            print((bs.ones(2) * 3).tolist())
            """
        )
        assert said == "[3.0, 3.0]\n"

    def test_the_demo_trains_there_and_bills_the_memory_of_the_gpu(tmp_path: Path) -> None:
        command = [sys.executable, "-m", "backsweep", "demo", "--steps", "2", "--json", "--device", "gpu", "--out", str(tmp_path)]
        run = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert run.returncode == 0, run.stderr
        report = json.loads(run.stdout)
        assert report["device"] == "gpu" and report["steps"] == 2 and 0 < report["val_loss"] < 6
        bill = report["bill"]
        assert bill["total"] == sum(bill["by_category"].values()) > 10_000_000
        assert bill["by_category"]["activation"] > bill["by_category"]["parameter"] > 3_000_000
        assert report["peak_bytes"] >= bill["total"] and "token.weight" in bs.load(report["weights"])

    def test_what_is_too_large_for_a_gpu_is_said() -> None:
        with pytest.raises(bs.OutOfMemoryError) as told:
            bs.zeros(1 << 40, dtype=bs.uint8, device="gpu")
        assert "zeros" in str(told.value) or "full" in str(told.value)
        assert bs.zeros(4, device="gpu").tolist() == [0.0] * 4 and bs.zeros(4).tolist() == [0.0] * 4

    def test_a_limit_in_the_middle_of_a_step_leaves_all_as_it_was() -> None:
        x = bs.ones(64, 64, device="gpu", requires_grad=True)
        live = bs.memory.stats("gpu")["live"]
        with bs.memory.limit(live + 20_000, "gpu"), pytest.raises(bs.OutOfMemoryError):
            ((x @ x) @ x).sum().backward()
        assert bs.memory.stats("gpu")["live"] == live and x.grad is None
        ((x @ x) @ x).sum().backward()
        assert x.grad is not None and x.grad.shape == (64, 64)

    def test_tensors_of_two_devices_are_refused_by_every_kind_of_op() -> None:
        there, near = bs.ones(3, 3, device="gpu"), bs.ones(3, 3)
        places = bs.tensor([0, 1, 2])
        for work in (
            lambda: there @ near, lambda: bs.cat([there, near]), lambda: there[places],
            lambda: F.embedding(places, there), lambda: there.gather(0, bs.zeros(3, 3, dtype=bs.int64)),
            lambda: F.scaled_dot_product_attention(there, near, near), lambda: F.linear(there, near),
            lambda: bs.where(there > 0, there, near), lambda: F.mse_loss(there, near),
        ):  # fmt: skip
            with pytest.raises(bs.errors.DeviceError, match=r"tensors are on (gpu and cpu|cpu and gpu); move them"):
                work()

    def test_numbers_go_there_and_come_back() -> None:
        data = np.arange(24, dtype="f4").reshape(2, 3, 4)
        for dtype in (bs.float32, bs.float16, bs.bfloat16, bs.int32, bs.int64, bs.uint8, bs.bool):
            near = bs.from_numpy(data).to(dtype)
            there = near.to("gpu")
            assert there.device == "gpu" and there.dtype is dtype
            assert there.cpu().tolist() == near.tolist()
            # Views are windows on the GPU's memory as they are on the CPU's.
            assert there[1, ::2, 1:].tolist() == near[1, ::2, 1:].tolist()
            assert there.permute(2, 0, 1).contiguous().tolist() == near.permute(2, 0, 1).tolist()

    def test_windows_of_small_types_are_written_without_touching_their_neighbours() -> None:
        for dtype in (bs.uint8, bs.float16, bs.bool):
            near = bs.zeros(5, 7, dtype=dtype)
            there = near.to("gpu")
            for x in (near, there):
                x[1:4, 2:5] = 1
                x[::2, 6] = 1
            assert there.tolist() == near.tolist()

    def test_creation_takes_a_device() -> None:
        bs.manual_seed(3)
        want = [bs.randn(3), bs.rand(3), bs.zeros(2), bs.ones(2), bs.full((2,), 7), bs.arange(5), bs.eye(2)]
        bs.manual_seed(3)
        how = {"device": "gpu"}
        got = [
            bs.randn(3, **how), bs.rand(3, **how), bs.zeros(2, **how), bs.ones(2, **how), bs.full((2,), 7, **how),
            bs.arange(5, **how), bs.eye(2, **how),
        ]  # fmt: skip
        for place, (a, b) in enumerate(zip(want, got, strict=True)):
            assert b.device == "gpu" and a.dtype is b.dtype
            assert b.tolist() == a.tolist(), place
        assert bs.zeros_like(got[0]).device == "gpu" and bs.tensor([1.0], device="gpu").device == "gpu"

    def test_normal_numbers_have_the_bits_of_the_cpu() -> None:
        for seed, n in [(1, 100_000), (3, 4097)]:
            bs.manual_seed(seed)
            want = [bs.randn(n).numpy() for _ in range(2)]
            bs.manual_seed(seed)
            got = [bs.randn(n, device="gpu").cpu().numpy() for _ in range(2)]
            assert all(np.array_equal(a.view(np.uint32), b.view(np.uint32)) for a, b in zip(want, got, strict=True))

    def test_numbers_of_the_host_stand_beside_tensors_of_a_gpu() -> None:
        x = bs.ones(3, device="gpu")
        assert (x * 2 + bs.tensor(1.0)).tolist() == [3.0, 3.0, 3.0]
        with pytest.raises(bs.errors.DeviceError, match="add: tensors are on gpu and cpu; move them to one device"):
            x + bs.ones(3)

    def test_an_array_is_refused_until_the_tensor_is_copied() -> None:
        x = bs.ones(3, device="gpu")
        with pytest.raises(bs.errors.DeviceError, match=r"numpy: the tensor is on gpu.*help: x\.cpu\(\)"):
            x.numpy()
        assert x.cpu().numpy().tolist() == [1.0, 1.0, 1.0]

    def test_float64_is_refused() -> None:
        with pytest.raises(bs.errors.DeviceError, match="full: GPUs have no float64 here"):
            bs.zeros(2, dtype=bs.float64, device="gpu")
        with pytest.raises(bs.errors.DeviceError, match="cast: GPUs have no float64 here"):
            bs.ones(2, device="gpu").double()

    def test_gradients_cross_between_devices() -> None:
        near = bs.tensor([1.0, 2.0], requires_grad=True)
        there = near.to("gpu")
        (there * there).sum().cpu().backward()
        assert near.grad is not None and near.grad.device == "cpu" and near.grad.tolist() == [2.0, 4.0]
        weight = bs.tensor(3.0, requires_grad=True)
        (weight * there.detach()).sum().backward()
        assert weight.grad is not None and weight.grad.device == "cpu" and weight.grad.item() == 3.0

    def losses(device: str, rule: str, steps: int = 30) -> list[float]:
        bs.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 10))
        model = model.to(device)
        how: dict = {"sgd": {"lr": 0.1, "momentum": 0.9}, "adamw": {"lr": 1e-3}}[rule]
        optimizer = {"sgd": optim.SGD, "adamw": optim.AdamW}[rule](model.parameters(), **how)
        numbers = np.random.default_rng(0)
        x = bs.from_numpy(numbers.normal(size=(256, 64)).astype("f4")).to(device)
        y = bs.from_numpy(numbers.normal(size=(256, 10)).astype("f4")).to(device)
        seen = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
            seen.append(loss.detach())
        return [loss.item() for loss in seen]

    @pytest.mark.parametrize("rule", ["sgd", "adamw"])
    def test_training_follows_the_cpu(rule: str) -> None:
        want, got = losses("cpu", rule), losses("gpu", rule)
        assert want[-1] < 0.9 * want[0]
        np.testing.assert_allclose(got, want, rtol=2e-4)

    class Block(nn.Module):
        """A residual block with all that a ResNet has in one."""

        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
            self.norm1 = nn.BatchNorm2d(outputs)
            self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, groups=2)
            self.norm2 = nn.BatchNorm2d(outputs)
            self.short = nn.Conv2d(inputs, outputs, 1, stride=2)

        def forward(self, x: bs.Tensor) -> bs.Tensor:
            y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
            return F.relu(y + self.short(x))

    class Images(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.pool, self.block = nn.Conv2d(3, 8, 3, padding=1), nn.MaxPool2d(3, 2, 1), Block(8, 12)
            self.norm, self.head = nn.GroupNorm(3, 12), nn.Linear(12, 5)

        def forward(self, x: bs.Tensor) -> bs.Tensor:
            x = self.norm(self.block(self.pool(F.silu(self.stem(x)))))
            return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))

    class Sequences(nn.Module):
        def __init__(self, kind: type[nn.Module]) -> None:
            super().__init__()
            self.layer = kind(6, 16, num_layers=2, batch_first=True, bidirectional=True)
            self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 5)

        def forward(self, x: bs.Tensor) -> bs.Tensor:
            return self.head(self.norm(self.layer(x)[0][:, -1]))

    SHAPES = {"images": (16, 3, 20, 20), "lstm": (16, 7, 6), "gru": (16, 7, 6)}

    def classify(device: str, kind: str, steps: int = 10) -> tuple[list[float], nn.Module, bs.Tensor]:
        bs.manual_seed(0)
        model = Images() if kind == "images" else Sequences({"lstm": nn.LSTM, "gru": nn.GRU}[kind])
        model = model.to(device)
        optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        numbers = np.random.default_rng(1)
        x = bs.from_numpy(numbers.normal(size=SHAPES[kind]).astype("f4")).to(device)
        target = bs.from_numpy(numbers.integers(0, 5, size=16)).to(device)
        seen = []
        for _ in range(steps):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), target, label_smoothing=0.1)
            loss.backward()
            optimizer.step()
            seen.append(loss.detach())
        model.eval()
        with bs.no_grad():
            return [loss.item() for loss in seen], model, model(x).cpu()

    @pytest.mark.parametrize("kind", ["images", "lstm", "gru"])
    def test_classifiers_train_as_on_the_cpu(kind: str) -> None:
        (want, near, out), (got, there, out_there) = classify("cpu", kind), classify("gpu", kind)
        assert want[-1] < 0.8 * want[0]
        np.testing.assert_allclose(got, want, rtol=1e-3)
        np.testing.assert_allclose(out_there.tolist(), out.tolist(), rtol=2e-2, atol=2e-2)
        state = there.state_dict()
        for name, value in near.state_dict().items():
            if "running" in name or "tracked" in name:
                np.testing.assert_allclose(state[name].cpu().tolist(), value.tolist(), rtol=1e-3, atol=1e-4)
        # The same numbers each time: no sum depends on the order of threads.
        assert classify("gpu", kind)[0] == got

    def test_transposed_convolutions_run_there() -> None:
        bs.manual_seed(0)
        layer = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2)
        x = bs.randn(2, 4, 5, 6, requires_grad=True)
        want = layer(x)
        want.square().sum().backward()
        there, x_there = layer.to("gpu"), x.detach().to("gpu").requires_grad_()
        got = there(x_there)
        got.square().sum().backward()
        np.testing.assert_allclose(got.tolist(), want.tolist(), rtol=1e-5, atol=1e-5)
        assert x.grad is not None and x_there.grad is not None
        np.testing.assert_allclose(x_there.grad.tolist(), x.grad.tolist(), rtol=1e-5, atol=1e-4)

    def test_gradients_of_gradients_run_there() -> None:
        numbers = np.random.default_rng(2).normal(size=(4, 5)).astype("f4")
        target = bs.tensor([0, 3, -100, 4])

        def penalty(device: str, loss: object) -> list[list[float]]:
            x = bs.from_numpy(numbers).to(device).requires_grad_()
            (slope,) = bs.autograd.grad(loss(x, device), x, create_graph=True)  # type: ignore[operator]
            slope.square().sum().backward()
            assert x.grad is not None
            return x.grad.tolist()

        losses = {
            "softmax": lambda x, device: (F.softmax(x, 1) * x).sum(),
            "log_softmax": lambda x, device: (F.log_softmax(x, 0) * x).sum(),
            "layer_norm": lambda x, device: F.layer_norm(x, (5,)).pow(3).sum(),
            "cross_entropy": lambda x, device: F.cross_entropy(x, target.to(device), label_smoothing=0.1),
            "logsumexp": lambda x, device: x.logsumexp(1).pow(2).sum(),
            "var": lambda x, device: x.var(0).pow(2).sum(),
            "prod": lambda x, device: x.prod(1).pow(2).sum(),
            "cumsum": lambda x, device: x.cumsum(1).pow(2).sum(),
        }
        for name, loss in losses.items():
            np.testing.assert_allclose(penalty("gpu", loss), penalty("cpu", loss), rtol=2e-4, atol=1e-5, err_msg=name)

    def test_half_precision_is_reduced_in_float32() -> None:
        x = bs.full((70000,), 0.1, dtype=bs.float16, device="gpu")
        assert abs(x.mean().item() - 0.1) < 1e-3 and x.sum().item() == pytest.approx(6998, abs=4)
        assert x.amax().item() == x[0].item() and x.softmax(0).dtype is bs.float16

    def test_integers_stay_exact() -> None:
        x = bs.tensor([2**24 + 1, 1, 2**40, -(2**33)]).to("gpu")
        assert x.sum().item() == 2**24 + 2 + 2**40 - 2**33 and x.max().item() == 2**40
        assert x.argmax().item() == 2 and x.argmin().item() == 3
        assert x.cumsum(0).tolist()[-1] == x.sum().item()
        with pytest.raises(bs.errors.DeviceError, match="among integers, which GPUs compute in 32 bits"):
            x + 2**40

    def test_a_step_sends_little_and_waits_for_nothing() -> None:
        losses("gpu", "sgd", 3)
        before = bs._core.gpu_counts("gpu")
        losses("gpu", "sgd", 10)
        counts = {name: n - before[name] for name, n in bs._core.gpu_counts("gpu").items()}
        # Ten losses were read at the end, and nothing else.
        assert counts["downloaded_bytes"] == 40
        assert counts["pipelines"] == 0
        assert counts["submissions"] < counts["dispatches"] / 10 + 20

    RULES = {
        "sgd": lambda params: optim.SGD(params, lr=0.1, weight_decay=0.01),
        "nesterov": lambda params: optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01),
        "dampened": lambda params: optim.SGD(params, lr=0.1, momentum=0.9, dampening=0.5, maximize=True),
        "adam": lambda params: optim.Adam(params, lr=0.01, weight_decay=0.1),
        "adamw": lambda params: optim.AdamW(params, lr=0.01),
        "amsgrad": lambda params: optim.Adam(params, lr=0.01, amsgrad=True, weight_decay=0.1),
        "amsgradw": lambda params: optim.AdamW(params, lr=0.01, amsgrad=True),
        "adagrad": lambda params: optim.Adagrad(params, lr=0.1, lr_decay=0.1, weight_decay=0.1),
        "adadelta": lambda params: optim.Adadelta(params, weight_decay=0.1),
        "rmsprop": lambda params: optim.RMSprop(params, lr=0.01, weight_decay=0.1),
        "rmsprop with all": lambda params: optim.RMSprop(params, lr=0.01, momentum=0.9, centered=True, maximize=True),
        "lion": lambda params: optim.Lion(params, lr=0.01, weight_decay=0.1),
    }

    def steps(rule: str, device: str, count: int = 4) -> tuple[list[bs.Tensor], dict[str, float]]:
        numbers = np.random.default_rng(1)
        shapes = [(), (3,), (0, 2), (40, 50), (1025,), (2, 3, 4)]
        params = [
            bs.from_numpy(np.asarray(numbers.normal(size=shape), dtype="f4")).to(device).requires_grad_()
            for shape in shapes
        ]
        optimizer = RULES[rule](params)
        for _ in range(count):
            if device != "cpu":
                before = bs._core.gpu_counts(device)["dispatches"]
            for param in params:
                param.grad = bs.from_numpy(np.asarray(numbers.normal(size=param.shape), dtype="f4")).to(device)
            optimizer.step()
        sent = bs._core.gpu_counts(device)["dispatches"] - before if device != "cpu" else 0
        return params, {"dispatches": sent}

    @pytest.mark.parametrize("rule", RULES)
    def test_an_optimizer_steps_all_parameters_by_one_kernel(rule: str) -> None:
        want, _ = steps(rule, "cpu")
        got, counts = steps(rule, "gpu")
        for a, b in zip(want, got, strict=True):
            np.testing.assert_allclose(b.detach().cpu().tolist(), a.detach().tolist(), rtol=2e-5, atol=1e-6)
        # Five parameters; their operands may lie in two slabs.
        assert counts["dispatches"] <= 3
        again, _ = steps(rule, "gpu")
        assert all(a.tolist() == b.tolist() for a, b in zip(got, again, strict=True))

    def test_clipping_waits_for_nothing() -> None:
        numbers = np.random.default_rng(2)
        for most, scale in ((1.0, 1.0), (1e9, 1.0), (1.0, np.nan), (1.0, np.inf)):
            params = {"cpu": [], "gpu": []}
            for shape in [(3,), (70, 40), (0,), ()]:
                value = np.asarray(numbers.normal(size=shape), dtype="f4")
                for device, own in params.items():
                    param = bs.zeros(shape, device=device, requires_grad=True)
                    param.grad = bs.from_numpy(value * np.float32(scale if shape == (3,) else 1.0)).to(device)
                    own.append(param)
            want = nn.utils.clip_grad_norm_(params["cpu"], most)
            before = bs._core.gpu_counts("gpu")
            got = nn.utils.clip_grad_norm_(params["gpu"], most)
            after = bs._core.gpu_counts("gpu")
            assert after["downloaded_bytes"] == before["downloaded_bytes"]
            assert after["dispatches"] - before["dispatches"] == 3
            assert got.device == "gpu"
            np.testing.assert_allclose(got.item(), want.item(), rtol=1e-6)
            for a, b in zip(params["cpu"], params["gpu"], strict=True):
                np.testing.assert_allclose(b.grad.cpu().numpy(), a.grad.numpy(), rtol=2e-6)
        with pytest.raises(bs.errors.ValueError, match="the gradients have norm nan"):
            nn.utils.clip_grad_norm_(params["gpu"], 1.0, error_if_nonfinite=True)
        np.testing.assert_allclose(
            nn.utils.get_total_norm([bs.ones(9, device="gpu")]).item(), 3.0
        )

    def test_random_numbers_are_those_of_the_cpu() -> None:
        for make in (
            lambda **how: bs.rand(1000, **how),
            lambda **how: bs.rand(77, dtype=bs.bfloat16, **how),
            lambda **how: bs.randint(-5, 1000, (999,), **how),
            lambda **how: bs.randint(-(2**60), 2**62, (50,), **how),
            lambda **how: bs.randperm(100, **how),
            lambda **how: F.dropout(bs.ones(1001, **how), 0.3),
            lambda **how: bs.full((500,), 0.3, **how).bernoulli(),
            lambda **how: bs.zeros(9, **how).uniform_(-1, 1),
            lambda **how: bs.multinomial(bs.rand(3, 1000, **how), 500, replacement=True),
            lambda **how: bs.multinomial(bs.rand(4, 70_000, **how).square(), 1),
            lambda **how: bs.multinomial(bs.rand(20, dtype=bs.float16, **how), 30, replacement=True),
            lambda **how: bs.multinomial(bs.tensor([[1e-30, 3e-30, 0.0], [3e38, 2e38, 1e38]], **how), 99, replacement=True),
        ):
            drawn = []
            for device in ("cpu", "gpu"):
                bs.manual_seed(11)
                bs.rand(3)
                drawn.append(make(device=device))
            assert drawn[1].device == "gpu" and drawn[0].tolist() == drawn[1].cpu().tolist()
        with pytest.raises(bs.errors.DeviceError, match="2 samples without replacement are drawn in float64"):
            bs.multinomial(bs.ones(5, device="gpu"), 2)
        bs.manual_seed(4)
        near = bs.randn(10000)
        bs.manual_seed(4)
        there = bs.randn(10000, device="gpu")
        np.testing.assert_allclose(there.cpu().numpy(), near.numpy(), rtol=1e-6)

    def test_dropout_keeps_nothing_and_goes_back_alike() -> None:
        x = bs.ones(4096, device="gpu", requires_grad=True)
        before = bs.memory.stats("gpu")["activation"]
        y = F.dropout(x, 0.25)
        assert bs.memory.stats("gpu")["activation"] == before
        y.sum().backward()
        assert x.grad.tolist() == y.tolist() and 0.7 < (y > 0).float().mean().item() < 0.8

    def test_subscripts_of_every_kind() -> None:
        data = np.arange(60, dtype="f4").reshape(3, 4, 5)
        rows, places = bs.tensor([2, 0, -1]), bs.tensor([[1, 3], [0, 2]])
        for subscript in (
            lambda f: (f(rows),), lambda f: (slice(None), f(places)), lambda f: (f(rows), f(rows)),
            lambda f: (f(rows), slice(1, 3), f(rows)), lambda f: ([0, 2],), lambda f: (np.array([1, 1]),),
            lambda f: (f(bs.from_numpy(data) > 20),), lambda f: (1, f(bs.tensor([True, False, True, True]))),
        ):  # fmt: skip
            near = bs.from_numpy(data.copy())
            there = near.to("gpu")
            assert there[subscript(lambda t: t.to("gpu"))].tolist() == near[subscript(lambda t: t)].tolist()
            there[subscript(lambda t: t.to("gpu"))] = 7.0
            near[subscript(lambda t: t)] = 7.0
            assert there.tolist() == near.tolist()
        x = bs.from_numpy(data).to("gpu").requires_grad_()
        x[x > 30].sum().backward()
        assert x.grad.tolist() == (data > 30).astype("f4").tolist()

    def test_an_index_out_of_range_is_found_by_the_next_read() -> None:
        table = bs.ones(5, 3, device="gpu", requires_grad=True)
        loss = F.embedding(bs.tensor([1, 7], device="gpu"), table).sum()
        loss.backward()
        with pytest.raises(bs.errors.IndexError, match="embedding: index 7 is out of range for size 5"):
            loss.item()
        # It is told once; what was computed is not a plausible number.
        assert np.isnan(loss.item())
        assert table.grad.tolist()[1] == [1.0, 1.0, 1.0]

    def test_order_and_counting_are_those_of_the_cpu() -> None:
        data = np.random.default_rng(0).integers(0, 9, 200)
        near = bs.from_numpy(data)
        there = near.to("gpu")
        assert there.argsort().tolist() == near.argsort().tolist()
        assert [t.tolist() for t in there.topk(5)] == [t.tolist() for t in near.topk(5)]
        assert there.unique().tolist() == near.unique().tolist()
        assert there.bincount().tolist() == near.bincount().tolist()
        assert bs.isin(there, there[:3]).tolist() == bs.isin(near, near[:3]).tolist()
        assert F.one_hot(there, 9).tolist() == F.one_hot(near, 9).tolist()
        edges = bs.tensor([1, 4, 6])
        assert bs.searchsorted(edges.to("gpu"), there).tolist() == bs.searchsorted(edges, near).tolist()
        assert bs.take_along_dim(there, there, 0).tolist() == bs.take_along_dim(near, near, 0).tolist()
        assert there.reshape(20, 10).tril().tolist() == near.reshape(20, 10).tril().tolist()
        assert there.reshape(20, 10).flip(0, 1).roll(3, 0).tolist() == near.reshape(20, 10).flip(0, 1).roll(3, 0).tolist()

    class Reader(nn.Module):
        """A language model in small: embeddings that share their weight, attention, dropout, norms."""

        def __init__(self) -> None:
            super().__init__()
            self.token, self.place = nn.Embedding(19, 24), nn.Embedding(12, 24)
            self.norm, self.heads, self.end = nn.LayerNorm(24), nn.Linear(24, 72), nn.LayerNorm(24)
            self.drop = nn.Dropout(0.2)

        def forward(self, tokens: bs.Tensor) -> bs.Tensor:
            batch, time = tokens.shape
            x = self.drop(self.token(tokens) + self.place(bs.arange(time, device=tokens.device)))
            heads = self.heads(self.norm(x)).reshape(batch, time, 3, 2, 12).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], dropout_p=0.1, is_causal=True)
            x = x + self.drop(y.transpose(1, 2).reshape(batch, time, 24))
            return F.linear(self.end(x), self.token.weight)

    def read(device: str) -> tuple[list[float], list[float]]:
        bs.manual_seed(7)
        model = Reader().to(device)
        optimizer = optim.AdamW(model.parameters(), lr=3e-3)
        numbers = np.random.default_rng(4)
        losses, norms = [], []
        for _ in range(20):
            tokens = (numbers.integers(0, 19, (16, 1)) + np.arange(13)) % 19
            x, y = (bs.from_numpy(part.copy()).to(device) for part in (tokens[:, :-1], tokens[:, 1:]))
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x).reshape(-1, 19), y.reshape(-1))
            loss.backward()
            norms.append(nn.utils.clip_grad_norm_(model.parameters(), 0.5))
            optimizer.step()
            losses.append(loss.detach())
        return [loss.item() for loss in losses], [norm.item() for norm in norms]

    def test_a_language_model_trains_as_on_the_cpu_and_always_alike() -> None:
        want, got, again = read("cpu"), read("gpu"), read("gpu")
        assert want[0][-1] < 0.8 * want[0][0]
        np.testing.assert_allclose(got[0], want[0], rtol=2e-4)
        np.testing.assert_allclose(got[1], want[1], rtol=2e-3)
        # Bit for bit.
        assert got == again

    def test_steps_leave_nothing_behind_on_a_gpu() -> None:
        model = Reader().to("gpu")
        optimizer = optim.Adam(model.parameters())
        tokens = bs.randint(0, 19, (4, 13), device="gpu")
        live = []
        for _ in range(6):
            optimizer.zero_grad()
            F.cross_entropy(model(tokens[:, :-1]).reshape(-1, 19), tokens[:, 1:].reshape(-1)).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
            stats = bs.memory.stats("gpu")
            live.append((stats["live"], stats["nodes"], stats["blocks"]))
        assert len(set(live[1:])) == 1

    def test_a_replay_on_a_gpu_drops_the_same() -> None:
        weight = bs.randn(30, 30, device="gpu").requires_grad_()
        x = bs.randn(20, 30, device="gpu")

        def block(x: bs.Tensor) -> bs.Tensor:
            return F.dropout((x @ weight).tanh(), 0.5) @ weight

        found = []
        for run in (block, lambda x: bs.checkpoint(block, x)):
            bs.manual_seed(3)
            weight.grad = None
            run(x).square().mean().backward()
            found.append(weight.grad.tolist())
        assert found[0] == found[1]

    def attended(device: str, **how: object) -> list[list]:
        numbers = np.random.default_rng(3)
        q, k, v = (
            bs.from_numpy(numbers.normal(size=(2, 3, 70, 20)).astype("f4")).to(device).requires_grad_() for _ in range(3)
        )
        bs.manual_seed(5)
        y = F.scaled_dot_product_attention(q, k, v, **how)
        (y * y).sum().backward()
        return [t.tolist() for t in (y.detach(), q.grad, k.grad, v.grad)]

    @pytest.mark.parametrize("how", [{}, {"is_causal": True}, {"dropout_p": 0.4}, {"is_causal": True, "dropout_p": 0.2}])
    def test_attention_is_that_of_the_cpu(how: dict) -> None:
        for want, got in zip(attended("cpu", **how), attended("gpu", **how), strict=True):
            np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)

    def test_what_kernels_do_not_take_is_said_with_a_way_out() -> None:
        q = bs.ones(1, 2, 1, 2, 1, 3, 4, device="gpu")
        with pytest.raises(bs.errors.DeviceError, match=r"attention: 5 leading dims; kernels of a GPU take 4 \(help: q\.flatten"):
            F.scaled_dot_product_attention(q, q, q)
        assert F.scaled_dot_product_attention(q[0], q[0], q[0]).shape == (2, 1, 2, 1, 3, 4)
        x, place = bs.ones((1,) * 8, device="gpu"), bs.tensor([0], device="gpu")
        with pytest.raises(bs.errors.DeviceError, match="index: 8 index tensors; kernels of a GPU take 7"):
            x[(place,) * 8]
        assert x[(place,) * 7].tolist() == [[1.0]]
        if bs.devices()[1]["kind"] == "software":
            with pytest.raises(bs.errors.DeviceError, match=r"attention: .* steps in a row; software drivers stop"):
                F.scaled_dot_product_attention(*[bs.ones(20000, 4, device="gpu")] * 3)

    def test_attention_takes_memory_by_the_row() -> None:
        def peak(length: int) -> int:
            q = bs.ones(1, 2, length, 16, device="gpu", requires_grad=True)
            before = bs.memory.stats("gpu")["live"]
            bs.memory.reset_peak("gpu")
            F.scaled_dot_product_attention(q, q, q, is_causal=True).sum().backward()
            return bs.memory.stats("gpu")["peak"] - before

        assert peak(512) < 2.2 * peak(256)

    def test_the_bill_of_a_gpu_is_its_own() -> None:
        live = bs.memory.stats("gpu")["live"]
        x = bs.zeros(1000, device="gpu")
        stats = bs.memory.stats("gpu")
        assert stats["live"] == live + 4096 and stats["reserved"] >= stats["live"]
        assert any(block["bytes"] == 4096 for block in bs.memory.snapshot("gpu"))
        with pytest.raises(bs.OutOfMemoryError, match="would exceed the limit"), bs.memory.limit(stats["live"], "gpu"):
            bs.zeros(1000, device="gpu")
        del x
        assert bs.memory.stats("gpu")["live"] == live

    @contextlib.contextmanager
    def apart() -> Iterator[None]:
        """Each elementwise op as a kernel of its own."""
        before = bs._core.gpu_join("gpu", False)
        try:
            yield
        finally:
            bs._core.gpu_join("gpu", before)

    def sent(work: object) -> int:
        before = bs._core.gpu_counts("gpu")["dispatches"]
        held = work()  # type: ignore[operator]
        count = bs._core.gpu_counts("gpu")["dispatches"] - before
        del held
        return count

    def bits(t: bs.Tensor) -> bytes:
        return t.detach().cpu().numpy().tobytes()

    def test_what_follows_products_and_softmax_of_halves_has_the_same_bits_joined_and_alone() -> None:
        numbers = np.random.default_rng(4)
        shapes = (20, 24), (28, 24), (28,)
        x, w, b = (bs.from_numpy(numbers.normal(size=s).astype("f4")).to("gpu").half() for s in shapes)

        def chain() -> bs.Tensor:
            return F.relu(F.linear(x, w, b)).softmax(-1).float()

        with apart():
            want = bits(chain())
        assert bits(chain()) == want

    def test_a_relu_behind_a_product_makes_no_bits_where_its_result_is_kept() -> None:
        first, second = nn.Linear(32, 32).to("gpu"), nn.Linear(32, 32).to("gpu")
        x = bs.rand(16, 32, device="gpu")
        assert sent(lambda: second(F.relu(first(x)))) == 2
        # Nobody keeps the result.
        assert sent(lambda: F.relu(first(x)).sum()) == 3

    def test_a_chain_of_elementwise_ops_is_one_kernel_and_the_same_bits() -> None:
        bs.manual_seed(0)
        x, y = bs.randn(33, 7, device="gpu"), bs.randn(7, device="gpu")
        work = lambda: F.gelu((x * 1.7 + y) * x - 0.3).tanh() / (x * x + 1.0)  # noqa: E731
        with apart():
            want, count = bits(work()), sent(work)
        assert bits(work()) == want and (count, sent(work)) == (9, 1)
        # What nobody holds is not computed; a product takes what follows along.
        assert sent(lambda: (x + y, None)[1]) == 0
        a, b = bs.randn(33, 40, device="gpu"), bs.randn(40, 7, device="gpu")
        product = lambda: F.relu(a @ b + y) + x  # noqa: E731
        with apart():
            want, count = bits(product()), sent(product)
        assert bits(product()) == want and (count, sent(product)) == (4, 1)

    def test_products_and_sums_are_not_contracted_across_ops() -> None:
        # (1 + e)² - 1 - 2e: zero when the product is rounded first, e² when it is not.
        e = 2.0**-13
        x = bs.full((5,), 1.0 + e, device="gpu")
        product = x * x
        assert (product - (1.0 + 2 * e)).tolist() == [0.0] * 5

    def test_a_freed_block_is_used_again_by_the_next_op_of_a_chain() -> None:
        bs.manual_seed(1)
        x = bs.randn(16, 16)
        there = x.to("gpu")
        t = there + 1.0
        for _ in range(6):
            # The old t is freed when the new one, which may lie where it was, is asked for.
            t = t.T.contiguous() * 0.5 + there.sum(0)
            t = t.T * 2.0 - t
        want = x + 1.0
        for _ in range(6):
            want = want.T.contiguous() * 0.5 + x.sum(0)
            want = want.T * 2.0 - want
        np.testing.assert_allclose(t.tolist(), want.tolist(), rtol=1e-4, atol=1e-4)

    UNARY = {
        "relu": F.relu, "tanh": lambda x: x.tanh(), "gelu": F.gelu, "neg": lambda x: -x, "abs": lambda x: x.abs(),
        "sigmoid": lambda x: x.sigmoid(), "scaled": lambda x: x * 1.37 + 0.11, "half": lambda x: x.half().float(),
        "bf16": lambda x: x.bfloat16().float(), "int": lambda x: x.clamp(-100, 100).to(bs.int32).float(),
        "positive": lambda x: (x > 0).float(), "byte": lambda x: (x.abs().clamp(0, 200)).to(bs.uint8).float(),
    }  # fmt: skip
    BINARY = {
        "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
        "max": lambda a, b: bs.maximum(a, b), "where": lambda a, b: bs.where(a > b, a, b * 0.5),
        "div": lambda a, b: a / (b * b + 0.5), "matmul": lambda a, b: (a @ b) * 0.25,
    }  # fmt: skip
    SHAPES_OF = {"row": (6,), "column": (6, 1), "all": (6, 6), "one": (1,)}

    def follow_program(program: list[tuple], device: str, seed: int) -> list[np.ndarray]:
        """Runs a random program on tensors of 6 × 6, some of which are changed in place, looked at askew, or let go."""
        numbers = np.random.default_rng(seed)
        data = [np.asarray(numbers.normal(size=(6, 6)), dtype="f4") for _ in range(3)]
        data[0][0, :3] = np.nan, np.inf, -0.0
        values = [bs.from_numpy(d).to(device) for d in data]
        small = {
            name: bs.from_numpy(np.asarray(numbers.normal(size=shape), dtype="f4")).to(device)
            for name, shape in SHAPES_OF.items()
        }
        for kind, name, i, j in program:
            a, b = values[i % len(values)], values[j % len(values)]
            if kind == "unary":
                values.append(UNARY[name](a))
            elif kind == "binary":
                values.append(BINARY[name](a, b))
            elif kind == "spread":
                values.append(a * small[name] + b)
            elif kind == "turned":
                values.append(a.T + b)
            elif kind == "window":
                values.append(bs.cat([a[:3], b[3:]]) if j % 2 else bs.cat([a[:, 1:], b[:, :1]], dim=1))
            elif kind == "in place":
                a.mul_(0.5) if j % 3 == 0 else a.add_(b) if i % len(values) != j % len(values) else a.sub_(1.0)
            elif kind == "part":
                a[1:4, ::2] = b[2:5, 1::2] * 2.0
            elif kind == "filled":
                a[j % 6] = 0.25
            elif kind == "rows":
                values.append(a - a.sum(1, keepdim=True) * 0.1)
            elif kind == "let go" and len(values) > 2:
                del values[i % len(values)]
        return [v.cpu().numpy() for v in values]

    INSTRUCTIONS = st.one_of(
        st.tuples(st.just("unary"), st.sampled_from(sorted(UNARY)), st.integers(0, 9), st.integers(0, 9)),
        st.tuples(st.just("binary"), st.sampled_from(sorted(BINARY)), st.integers(0, 9), st.integers(0, 9)),
        st.tuples(st.just("spread"), st.sampled_from(sorted(SHAPES_OF)), st.integers(0, 9), st.integers(0, 9)),
        st.tuples(
            st.sampled_from(["turned", "window", "in place", "part", "filled", "rows", "let go", "let go"]),
            st.just(""), st.integers(0, 9), st.integers(0, 9),
        ),
    )

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    @given(st.lists(INSTRUCTIONS, min_size=3, max_size=25), st.integers(0, 3))
    def test_random_chains_have_the_bits_of_single_kernels(program: list[tuple], seed: int) -> None:
        joined = follow_program(program, "gpu", seed)
        with apart():
            single = follow_program(program, "gpu", seed)
        # Which of two NaNs a sum hands on is the driver's to choose.
        plain = [[np.where(np.isnan(v), np.float32(np.nan), v).tobytes() for v in run] for run in (joined, single)]
        assert plain[0] == plain[1]

    def test_products_in_every_form_have_the_same_bits_wherever_their_operands_begin() -> None:
        numbers = np.random.default_rng(5)
        for m, k, n in ((64, 64, 64), (4, 4, 4), (68, 36, 132), (130, 16, 260), (8, 100, 12), (5, 7, 9), (200, 64, 136), (64, 600, 64)):
            left = numbers.normal(size=(m, k)).astype("f4")
            right = numbers.normal(size=(k, n)).astype("f4")
            want = left @ right
            for turned in ((False, False), (True, False), (False, True), (True, True)):

                def placed(data: np.ndarray, turn: bool, start: int) -> bs.Tensor:
                    flat = np.ascontiguousarray(data.T if turn else data).reshape(-1)
                    there = bs.from_numpy(np.concatenate([np.zeros(start, "f4"), flat])).to("gpu")[start:]
                    return there.view(*data.shape[::-1]).T if turn else there.view(*data.shape)

                # From a word of four on, and from the middle of one.
                found = [
                    (placed(left, turned[0], start) @ placed(right, turned[1], start)).cpu().numpy() for start in (0, 4, 1)
                ]
                np.testing.assert_allclose(found[0], want, rtol=1e-5, atol=1e-5 * np.abs(want).max())
                assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()

    @pytest.mark.parametrize("name", ["demo", "resnet20", "lstm"])
    def test_models_of_full_width_follow_the_cpu(name: str) -> None:
        # Two steps of the fifty that `python benches/gpu.py --follow` compares.
        folder = str(Path(__file__).parents[2] / "benches")
        sys.path.insert(0, folder)
        try:
            import gpu as bench
        finally:
            sys.path.remove(folder)
        want, got = bench.losses(name, "cpu", 2), bench.losses(name, "gpu", 2)
        assert want[0] != want[1]
        np.testing.assert_allclose(got, want, rtol=2e-5)

    def test_batch_norm_relu_and_residuals_have_the_bits_of_single_kernels() -> None:
        def run() -> list[bytes]:
            losses, model, out = classify("gpu", "images", 3)
            return [np.asarray(losses).tobytes(), bits(out), *(bits(v) for v in model.state_dict().values())]

        joined = run()
        with apart():
            assert run() == joined
