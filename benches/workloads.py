"""The eight training workloads, each defined once for every library with PyTorch's names.

A model is built by a function of `(lib, nn, F)`, so that torch and backsweep run the same definition. Weights
and batches are NumPy arrays drawn from fixed seeds. May import NumPy alone; JAX's functional twins are in
jax_models.py.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
SYMBOLS = 65  # the characters of tiny-shakespeare
CLASSES = 10


def walk(random: np.random.Generator, rows: int, length: int) -> Array:
    """Tokens that move on by 1 to 3 symbols: something to learn, so that losses depend on gradients."""
    return np.cumsum(random.integers(1, 4, (rows, length)), axis=1) % SYMBOLS


@dataclass(frozen=True)
class Gpt:
    layers: int
    heads: int
    width: int
    block: int
    batch: int

    def build(self, lib: Any, nn: Any, F: Any) -> Any:
        heads, width = self.heads, self.width

        class Attention(nn.Module):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.c_attn = nn.Linear(width, 3 * width)
                self.c_proj = nn.Linear(width, width)

            def forward(self, x: Any) -> Any:
                b, t, c = x.shape
                q, k, v = (
                    part.view(b, t, heads, c // heads).transpose(1, 2)
                    for part in self.c_attn(x).split(c, dim=2)
                )
                y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
                return self.c_proj(y.transpose(1, 2).contiguous().view(b, t, c))

        class Block(nn.Module):  # type: ignore[misc]
            def __init__(self) -> None:
                super().__init__()
                self.ln_1 = nn.LayerNorm(width)
                self.attn = Attention()
                self.ln_2 = nn.LayerNorm(width)
                self.c_fc = nn.Linear(width, 4 * width)
                self.gelu = nn.GELU()
                self.c_proj = nn.Linear(4 * width, width)

            def forward(self, x: Any) -> Any:
                x = x + self.attn(self.ln_1(x))
                return x + self.c_proj(self.gelu(self.c_fc(self.ln_2(x))))

        class Model(nn.Module):  # type: ignore[misc]
            def __init__(self, gpt: Gpt) -> None:
                super().__init__()
                self.wte = nn.Embedding(SYMBOLS, width)
                self.wpe = nn.Embedding(gpt.block, width)
                self.h = nn.ModuleList([Block() for _ in range(gpt.layers)])
                self.ln_f = nn.LayerNorm(width)
                self.lm_head = nn.Linear(width, SYMBOLS, bias=False)
                self.wte.weight = self.lm_head.weight

            def forward(self, tokens: Any) -> Any:
                x = self.wte(tokens) + self.wpe(lib.arange(tokens.shape[1], device=tokens.device))
                for block in self.h:
                    x = block(x)
                return self.lm_head(self.ln_f(x))

        return Model(self)

    def draw(self, random: np.random.Generator) -> tuple[Array, Array]:
        tokens = walk(random, self.batch, self.block + 1)
        return np.ascontiguousarray(tokens[:, :-1]), np.ascontiguousarray(tokens[:, 1:])

    def flops(self) -> int:
        tokens = self.batch * self.block
        linear = 6 * tokens * (12 * self.layers * self.width**2 + self.width * SYMBOLS)
        # four products forward and eight back, halved by the causal mask
        return linear + self.layers * 6 * self.batch * self.block**2 * self.width


@dataclass(frozen=True)
class ResNet:
    widths: tuple[int, ...]
    blocks: int
    batch: int
    side: int = 32

    def stages(self) -> list[tuple[int, int, int]]:
        """(channels in, channels out, stride) of every block, in order."""
        shapes = []
        inside = self.widths[0]
        for stage, width in enumerate(self.widths):
            for index in range(self.blocks):
                shapes.append((inside, width, 2 if stage > 0 and index == 0 else 1))
                inside = width
        return shapes

    def build(self, lib: Any, nn: Any, F: Any) -> Any:
        class Block(nn.Module):  # type: ignore[misc]
            def __init__(self, inside: int, outside: int, stride: int) -> None:
                super().__init__()
                self.conv1 = nn.Conv2d(inside, outside, 3, stride=stride, padding=1, bias=False)
                self.bn1 = nn.BatchNorm2d(outside)
                self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
                self.bn2 = nn.BatchNorm2d(outside)
                self.project = None
                if stride != 1 or inside != outside:
                    self.project = nn.Sequential(
                        nn.Conv2d(inside, outside, 1, stride=stride, bias=False), nn.BatchNorm2d(outside)
                    )

            def forward(self, x: Any) -> Any:
                y = F.relu(self.bn1(self.conv1(x)))
                y = self.bn2(self.conv2(y))
                return F.relu(y + (x if self.project is None else self.project(x)))

        class Model(nn.Module):  # type: ignore[misc]
            def __init__(self, resnet: ResNet) -> None:
                super().__init__()
                self.conv = nn.Conv2d(3, resnet.widths[0], 3, padding=1, bias=False)
                self.bn = nn.BatchNorm2d(resnet.widths[0])
                self.blocks = nn.Sequential(*(Block(*shape) for shape in resnet.stages()))
                self.head = nn.Linear(resnet.widths[-1], CLASSES)

            def forward(self, images: Any) -> Any:
                x = self.blocks(F.relu(self.bn(self.conv(images))))
                return self.head(x.mean(dim=(2, 3)))

        return Model(self)

    def draw(self, random: np.random.Generator) -> tuple[Array, Array]:
        images = random.standard_normal((self.batch, 3, self.side, self.side), dtype=np.float32)
        return images, random.integers(0, CLASSES, self.batch)

    def flops(self) -> int:
        side = self.side
        pixels = self.batch * side * side
        total = 4 * pixels * 9 * 3 * self.widths[0]  # the images need no gradient
        for inside, outside, stride in self.stages():
            side //= stride
            pixels = self.batch * side * side
            total += 6 * pixels * 9 * outside * (inside + outside)
            if stride != 1 or inside != outside:
                total += 6 * pixels * inside * outside
        return total + 6 * self.batch * self.widths[-1] * CLASSES


@dataclass(frozen=True)
class Mlp:
    sizes: tuple[int, ...]
    batch: int
    classify: bool

    def build(self, lib: Any, nn: Any, F: Any) -> Any:
        layers: list[Any] = []
        for inside, outside in zip(self.sizes, self.sizes[1:], strict=False):
            layers += [nn.Linear(inside, outside), nn.ReLU()]
        return nn.Sequential(*layers[:-1])

    def draw(self, random: np.random.Generator) -> tuple[Array, Array]:
        x = random.random((self.batch, self.sizes[0]), dtype=np.float32)
        if self.classify:
            return x, random.integers(0, CLASSES, self.batch)
        return x, np.sin(6.0 * x.sum(axis=1, keepdims=True, dtype=np.float32))

    def flops(self) -> int:
        pairs = list(zip(self.sizes, self.sizes[1:], strict=False))
        products = sum(inside * outside for inside, outside in pairs)
        return self.batch * (6 * products - 2 * pairs[0][0] * pairs[0][1])  # x needs no gradient


@dataclass(frozen=True)
class Lstm:
    embedding: int
    hidden: int
    steps: int
    batch: int

    def build(self, lib: Any, nn: Any, F: Any) -> Any:
        class Model(nn.Module):  # type: ignore[misc]
            def __init__(self, lstm: Lstm) -> None:
                super().__init__()
                self.embedding = nn.Embedding(SYMBOLS, lstm.embedding)
                self.lstm = nn.LSTM(lstm.embedding, lstm.hidden)
                self.head = nn.Linear(lstm.hidden, SYMBOLS)

            def forward(self, tokens: Any) -> Any:
                output, _ = self.lstm(self.embedding(tokens))
                return self.head(output)

        return Model(self)

    def draw(self, random: np.random.Generator) -> tuple[Array, Array]:
        tokens = walk(random, self.batch, self.steps + 1).T  # time first, as nn.LSTM has it
        return np.ascontiguousarray(tokens[:-1]), np.ascontiguousarray(tokens[1:])

    def flops(self) -> int:
        tokens = self.steps * self.batch
        return tokens * (24 * self.hidden * (self.embedding + self.hidden) + 6 * self.hidden * SYMBOLS)


@dataclass(frozen=True)
class Workload:
    """One row of the table of workloads: a model, its batches, its optimizer and how far losses may part."""

    name: str
    model: Gpt | ResNet | Mlp | Lstm
    optimizer: str
    settings: Mapping[str, Any]
    drift: float  # relative difference allowed in the loss of the last checked step
    loss: str = "cross_entropy"
    bytes_per_parameter: int = field(init=False)

    def __post_init__(self) -> None:
        # reads and writes of weight, gradient and moments in one optimizer pass
        words = {"SGD": 5 if "momentum" in self.settings else 3, "Adam": 7, "AdamW": 7}[self.optimizer]
        object.__setattr__(self, "bytes_per_parameter", 4 * words)

    def build(self, lib: Any, nn: Any, F: Any) -> Any:
        return self.model.build(lib, nn, F)

    def loss_function(self, F: Any) -> Callable[[Any, Any, Any], Any]:
        """The loss of a model on one batch, as a function of (model, x, y)."""
        if self.loss == "mse":
            return lambda model, x, y: F.mse_loss(model(x), y)

        def cross_entropy(model: Any, x: Any, y: Any) -> Any:
            logits = model(x)
            return F.cross_entropy(logits.view(-1, logits.shape[-1]), y.view(-1))

        return cross_entropy

    def batches(self, count: int) -> list[tuple[Array, Array]]:
        """The first `count` batches, the same in every process."""
        return [self.model.draw(np.random.default_rng(step)) for step in range(count)]

    def tolerance(self, step: int, steps: int) -> float:
        """How far two libraries' losses may part: 1e-5 at the first step, growing to `drift` at the last."""
        return 1e-5 * math.pow(self.drift / 1e-5, step / (steps - 1))


def initial_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Array]:
    """Draw float32 weights by name and shape alone, so that no library's own generator decides them."""
    weights = {}
    for name, shape in shapes.items():
        random = np.random.default_rng(zlib.crc32(name.encode()))
        noise = random.standard_normal(shape, dtype=np.float32)
        if len(shape) > 1:
            weights[name] = noise / np.float32(math.sqrt(math.prod(shape[1:])))
        else:
            weights[name] = np.float32(0.02) * noise + np.float32(name.endswith("weight"))
    return weights


def _workloads() -> dict[str, Workload]:
    momentum = {"lr": 1e-3, "momentum": 0.9}
    decay = {"lr": 1e-3, "weight_decay": 0.1}
    rows = [
        Workload("tiny", Mlp((2, 16, 16, 1), 100, False), "SGD", {"lr": 0.05}, 1e-5, "mse"),
        Workload("mlp", Mlp((784, 1024, 1024, 10), 128, True), "Adam", {"lr": 1e-3}, 1e-5),
        Workload("resnet20", ResNet((16, 32, 64), 3, 64), "SGD", momentum, 2e-3),
        Workload("resnet18", ResNet((64, 128, 256, 512), 2, 16), "SGD", {**momentum, "lr": 1e-4}, 2e-3),
        Workload("lstm", Lstm(128, 256, 64, 32), "Adam", {"lr": 1e-3}, 1e-5),
        Workload("gpt-cpu", Gpt(4, 4, 128, 64, 12), "AdamW", decay, 1e-5),
        Workload("gpt-baby", Gpt(6, 6, 384, 256, 16), "AdamW", decay, 1e-5),
        Workload("gpt-long", Gpt(2, 4, 256, 2048, 1), "AdamW", decay, 1e-5),
    ]
    return {row.name: row for row in rows}


WORKLOADS = _workloads()
