"""Random training programs: views, in-place writes, noise, running statistics, several outputs, regions, custom functions.

A program is a function of its seed. It owns parameters, buffers and batches, and runs step by step on whatever is in force
around it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import backsweep as bs
import backsweep.nn.functional as F
from backsweep import nn

Instruction = Callable[[bs.Tensor, bs.Tensor], bs.Tensor]

WIDTH = 16
BATCHES = 3


class Blend(bs.autograd.Function):
    """A custom function that saves an input and its own output."""

    @staticmethod
    def forward(ctx: Any, a: bs.Tensor, b: bs.Tensor) -> bs.Tensor:
        y = (a * 0.5).tanh() + b
        ctx.save_for_backward(a, y)
        return y

    @staticmethod
    def backward(ctx: Any, dy: bs.Tensor) -> tuple[bs.Tensor, bs.Tensor]:
        a, _ = ctx.saved_tensors
        return dy * 0.5 * (1 - (a * 0.5).tanh().square()), dy


class Noisy(bs.autograd.Function):
    """An impure one: each call counts, so that a second would show in the numbers."""

    calls = 0

    @staticmethod
    def forward(ctx: Any, a: bs.Tensor) -> bs.Tensor:
        Noisy.calls += 1
        ctx.factor = 1.0 + 0.125 * (Noisy.calls % 4)
        return a * ctx.factor

    @staticmethod
    def backward(ctx: Any, dy: bs.Tensor) -> bs.Tensor:
        return dy * ctx.factor


def numbers(t: bs.Tensor) -> np.ndarray:
    """A copy of what a tensor of any device holds."""
    return t.detach().cpu().numpy().copy()


class Program:
    """What a seed makes of the instructions below, on a device."""

    def __init__(self, seed: int, device: str = "cpu") -> None:
        self.device = device
        self.draw = np.random.default_rng(seed)
        self.rows = int(self.draw.choice([16, 32, 48]))
        self.parameters: list[bs.Tensor] = []
        self.modules: list[nn.Module] = []
        self.leaves = [self.parameter(self.rows, WIDTH) for _ in range(int(self.draw.integers(1, 3)))]
        count = int(self.draw.integers(4, 26))
        near = int(self.draw.integers(2, 8))
        self.body = [(self.instruction(0), self.pick(near), self.pick(near)) for _ in range(count)]
        # A program that changes from step to step leaves out one instruction in odd steps.
        self.left_out = int(self.draw.integers(0, count)) if self.chance(0.15) else -1
        self.held = int(self.draw.integers(0, count)) if self.chance(0.3) else -1
        self.way = str(self.draw.choice(["once", "once", "once", "once", "twice", "parts", "second"]))
        self.hint = (
            (int(self.draw.integers(0, count)), bs.memory.must_keep if self.chance(0.5) else bs.memory.must_drop)
            if self.chance(0.15)
            else None
        )
        self.batches = [self.tensor(self.rows, WIDTH) for _ in range(BATCHES)]
        self.begin = [numbers(t) for t in self.state()]

    def chance(self, p: float) -> bool:
        return bool(self.draw.random() < p)

    def pick(self, near: int) -> int:
        """How far back an operand is."""
        return int(self.draw.integers(1, near + 1))

    def tensor(self, *shape: int) -> bs.Tensor:
        return bs.tensor(self.draw.standard_normal(shape).astype(np.float32)).to(self.device)

    def parameter(self, *shape: int) -> bs.Tensor:
        made = (self.tensor(*shape) * 0.3).detach().requires_grad_()
        self.parameters.append(made)
        return made

    def module(self, module: nn.Module) -> nn.Module:
        self.modules.append(module.to(self.device))
        self.parameters += module.parameters()
        return module

    def state(self) -> list[bs.Tensor]:
        return self.parameters + [b for m in self.modules for b in m.buffers()]

    def reset(self) -> None:
        """Parameters, statistics and noise as at the beginning."""
        bs.manual_seed(7)
        Noisy.calls = 0
        with bs.no_grad():
            for tensor, value in zip(self.state(), self.begin, strict=True):
                tensor.copy_(bs.from_numpy(value).to(self.device))
        for p in self.parameters:
            p.grad = None

    def instruction(self, depth: int) -> Instruction:
        kinds: list[Callable[[], Instruction]] = [
            self.pointwise, self.pointwise, self.linear, self.product, self.norm, self.noise, self.window, self.window,
            self.in_place, self.several, self.region if depth < 2 else self.pointwise, self.custom, self.image,
        ]  # fmt: skip
        if depth == 0 and self.chance(0.04):
            return self.recurrent()
        return kinds[int(self.draw.integers(0, len(kinds)))]()

    def one_of(self, *kinds: Instruction) -> Instruction:
        return kinds[int(self.draw.integers(0, len(kinds)))]

    def pointwise(self) -> Instruction:
        return self.one_of(
            lambda a, b: a.tanh() * b,
            lambda a, b: a.sin(),
            lambda a, b: F.gelu(a) + b,
            lambda a, b: F.silu(a),
            lambda a, b: (-a.square()).exp() + b * 0.5,
            lambda a, b: F.relu(a),
            lambda a, b: F.relu(a) + F.sigmoid(b),
            lambda a, b: bs.where(a.detach() > 0, a, b),
            lambda a, b: a * 0.5 + b,
            lambda a, b: (a.abs() + 0.1).sqrt() - b * b * 0.1,
        )

    def linear(self) -> Instruction:
        weight, bias = self.parameter(WIDTH, WIDTH), self.parameter(WIDTH)
        return self.one_of(
            lambda a, b: F.linear(a, weight, bias),
            lambda a, b: F.relu(F.linear(a, weight, bias)),
            lambda a, b: F.gelu(F.linear(a, weight)) + b,
            lambda a, b: F.linear(F.relu(F.linear(a, weight, bias)), weight, bias),
        )

    def product(self) -> Instruction:
        return self.one_of(
            lambda a, b: (a @ b.t() * 0.05) @ b,
            lambda a, b: F.softmax(a @ b.t() * 0.1, -1) @ a,
            lambda a, b: F.scaled_dot_product_attention(a[None], b[None], a[None])[0],
            lambda a, b: F.scaled_dot_product_attention(a[None], a[None], b[None], is_causal=True)[0] + a,
        )

    def norm(self) -> Instruction:
        weight, bias = self.parameter(WIDTH), self.parameter(WIDTH)
        batch = self.module(nn.BatchNorm1d(WIDTH))
        return self.one_of(
            lambda a, b: F.layer_norm(a, [WIDTH], weight, bias),
            lambda a, b: F.layer_norm(a, [WIDTH]) * b,
            lambda a, b: batch(a),
            lambda a, b: F.relu(batch(a) + b),
            lambda a, b: F.log_softmax(a, -1) * 0.2 + b,
        )

    def noise(self) -> Instruction:
        return self.one_of(
            lambda a, b: F.dropout(a, 0.3),
            lambda a, b: F.dropout(F.relu(a), 0.2) + b,
            lambda a, b: a + 0.1 * bs.randn(*a.shape, device=self.device),
        )

    def window(self) -> Instruction:
        half, order = self.rows // 2, bs.tensor(self.draw.permutation(self.rows).astype(np.int64)).to(self.device)
        return self.one_of(
            lambda a, b: bs.cat([a[:half], b[half:]]),
            lambda a, b: a.reshape(-1, 2, 8).transpose(1, 2).reshape(a.shape) * 0.9,
            lambda a, b: a.t().sin().t(),
            lambda a, b: a[order] + b,
            lambda a, b: a.flip(0) * b,
            lambda a, b: a[:, :1] * b,
            lambda a, b: a.view(half, 2, WIDTH).sum(1, keepdim=True).expand(half, 2, WIDTH).reshape(a.shape).tanh(),
        )

    def in_place(self) -> Instruction:
        def add(a: bs.Tensor, b: bs.Tensor) -> bs.Tensor:
            y = a * 1.5
            y += b
            return y

        def multiply(a: bs.Tensor, b: bs.Tensor) -> bs.Tensor:
            y = a.sin()
            y.mul_(b)
            return y

        def twice(a: bs.Tensor, b: bs.Tensor) -> bs.Tensor:
            y = F.relu(a)
            y += 0.25
            y *= 0.5
            return y.tanh()

        def overwritten(a: bs.Tensor, b: bs.Tensor) -> bs.Tensor:
            y = a.exp() * 0.1
            y.zero_()
            y += b
            return y * a

        def between(a: bs.Tensor, b: bs.Tensor) -> bs.Tensor:
            y = F.relu(a)
            before = y * 0.5 + b
            with bs.no_grad():
                y += 0.25
            return bs.cat([before, y.sin()])[self.rows // 2 : -(self.rows // 2)]

        return self.one_of(add, multiply, twice, overwritten, between)

    def several(self) -> Instruction:
        def swapped(a: bs.Tensor, b: bs.Tensor) -> bs.Tensor:
            left, right = a.chunk(2, 1)
            return bs.cat([right, left * 2], 1) + b

        def shares(a: bs.Tensor, b: bs.Tensor) -> bs.Tensor:
            p, q, r, s = a.split(WIDTH // 4, 1)
            return bs.cat([p * q, r.sin(), s, q], 1)

        return self.one_of(
            swapped,
            shares,
            lambda a, b: a.sort(dim=1).values,
            lambda a, b: a - b.max(dim=1, keepdim=True).values,
            lambda a, b: bs.stack(list(a.unbind(0)), 0) * 1.1,
        )

    def region(self) -> Instruction:
        inner = [self.instruction(1 + int(self.draw.integers(0, 2))) for _ in range(int(self.draw.integers(1, 5)))]

        def run(a: bs.Tensor, b: bs.Tensor) -> bs.Tensor:
            for instruction in inner:
                a, b = instruction(a, b), a
            return a

        return lambda a, b: bs.checkpoint(run, a, b)

    def custom(self) -> Instruction:
        return self.one_of(
            lambda a, b: Blend.apply(a, b), lambda a, b: Noisy.apply(a), lambda a, b: Blend.apply(a.sin(), b).sin()
        )

    def image(self) -> Instruction:
        kernel = self.parameter(1, 1, 3, 3)
        return self.one_of(
            lambda a, b: F.conv2d(a[None, None], kernel, padding=1)[0, 0],
            lambda a, b: F.max_pool2d(a[None, None], 3, stride=1, padding=1)[0, 0] + b,
            lambda a, b: F.relu(F.conv2d(F.relu(a)[None, None], kernel, padding=1))[0, 0],
        )

    def recurrent(self) -> Instruction:
        lstm = self.module(nn.LSTM(WIDTH, WIDTH))
        return lambda a, b: lstm(a[:, None])[0][:, 0] + b

    def forward(self, number: int) -> tuple[list[bs.Tensor], bs.Tensor | None]:
        values, held = [*self.leaves, self.batches[number % BATCHES] + self.leaves[0]], None
        for i, (instruction, p, q) in enumerate(self.body):
            if i == self.left_out and number % 2:
                continue
            value = instruction(values[-min(p, len(values))], values[-min(q, len(values))])
            # Numbers stay of one size, however long the program is.
            value = value.clamp(-4, 4) if i % 5 == 4 else value
            if self.hint is not None and self.hint[0] == i:
                value = self.hint[1](value)
            held = value if i == self.held else held
            values = [*values, value][-10:]
        return [v.square().mean() for v in values[-3:]], held

    def step(self, number: int) -> list[np.ndarray]:
        """One step; returns what it leaves: the loss, each gradient, and what was held."""
        for p in self.parameters:
            p.grad = None
        parts, held = self.forward(number)
        loss = sum(parts[1:], start=parts[0])
        if self.way == "parts":
            del loss
            for i, part in enumerate(parts):
                part.backward(retain_graph=i + 1 < len(parts))
            loss = parts[-1]
        elif self.way == "second":
            (dx,) = bs.autograd.grad(loss, [self.leaves[0]], create_graph=True, allow_unused=True)
            (loss if dx is None else loss + dx.square().sum()).backward()
            del dx
        else:
            if self.way == "twice":
                loss.backward(retain_graph=True)
            loss.backward()
        left = [numbers(loss)]
        left += [] if held is None else [numbers(held)]
        left += [np.zeros(0) if p.grad is None else numbers(p.grad) for p in self.parameters]
        with bs.no_grad():
            for p in self.parameters:
                if p.grad is not None:
                    p -= p.grad.clamp(-1, 1) * 0.01
        return left

    def left(self) -> list[np.ndarray]:
        return [numbers(t) for t in self.state()]
