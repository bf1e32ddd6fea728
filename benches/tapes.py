"""Nine networks of the checkpointing literature, as tapes of one training step that our engine records on shapes alone.

Batches are small: a budget is a share of the peak, and shapes rather than sizes decide what a planner can do.
"""

from __future__ import annotations

from collections.abc import Callable

import backsweep as bs
import backsweep.nn.functional as F
from backsweep import nn, optim
from backsweep.memory import Tape


def conv_norm(inside: int, outside: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, outside, size, stride=stride, padding=size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outside),
    )


class Vgg16(nn.Module):
    """Simonyan and Zisserman 2015, configuration D."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inside = 3
        for width, depth in ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)):
            for _ in range(depth):
                layers += [nn.Conv2d(inside, width, 3, padding=1), nn.ReLU()]
                inside = width
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Linear(512 * 49, 4096), nn.ReLU(), nn.Dropout(), nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(),
            nn.Linear(4096, 1000),
        )  # fmt: skip

    def forward(self, x: bs.Tensor) -> bs.Tensor:
        return self.head(self.features(x).flatten(1))


class Bottleneck(nn.Module):
    def __init__(self, inside: int, width: int, stride: int) -> None:
        super().__init__()
        self.a, self.b = conv_norm(inside, width, 1), conv_norm(width, width, 3, stride)
        self.c = conv_norm(width, 4 * width, 1)
        same = stride == 1 and inside == 4 * width
        self.project = None if same else conv_norm(inside, 4 * width, 1, stride)

    def forward(self, x: bs.Tensor) -> bs.Tensor:
        y = self.c(F.relu(self.b(F.relu(self.a(x)))))
        return F.relu(y + (x if self.project is None else self.project(x)))


class ResNet50(nn.Module):
    """He et al. 2016."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pool = conv_norm(3, 64, 7, 2), nn.MaxPool2d(3, stride=2, padding=1)
        blocks, inside = [], 64
        for stage, (width, depth) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
            for i in range(depth):
                blocks.append(Bottleneck(inside, width, 2 if stage and not i else 1))
                inside = 4 * width
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(2048, 1000)

    def forward(self, x: bs.Tensor) -> bs.Tensor:
        return self.head(self.blocks(self.pool(F.relu(self.stem(x)))).mean(dim=(2, 3)))


class Inverted(nn.Module):
    def __init__(self, inside: int, outside: int, stride: int, grow: int) -> None:
        super().__init__()
        wide = inside * grow
        self.grow = conv_norm(inside, wide, 1) if grow > 1 else None
        self.deep, self.shrink = conv_norm(wide, wide, 3, stride, groups=wide), conv_norm(wide, outside, 1)
        self.residual = stride == 1 and inside == outside

    def forward(self, x: bs.Tensor) -> bs.Tensor:
        y = x if self.grow is None else F.relu6(self.grow(x))
        y = self.shrink(F.relu6(self.deep(y)))
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """Sandler et al. 2018."""

    def __init__(self) -> None:
        super().__init__()
        blocks, inside = [], 32
        plan = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
        for grow, width, depth, stride in plan:
            for i in range(depth):
                blocks.append(Inverted(inside, width, stride if i == 0 else 1, grow))
                inside = width
        self.stem, self.blocks = conv_norm(3, 32, 3, 2), nn.Sequential(*blocks)
        self.last, self.head = conv_norm(320, 1280, 1), nn.Linear(1280, 1000)

    def forward(self, x: bs.Tensor) -> bs.Tensor:
        x = F.relu6(self.last(self.blocks(F.relu6(self.stem(x)))))
        return self.head(F.dropout(x.mean(dim=(2, 3)), 0.2))


class Twice(nn.Module):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.a, self.b = conv_norm(inside, outside, 3), conv_norm(outside, outside, 3)

    def forward(self, x: bs.Tensor) -> bs.Tensor:
        return F.relu(self.b(F.relu(self.a(x))))


class UNet(nn.Module):
    """Ronneberger et al. 2015, with padding and batch norm; upsampling repeats pixels."""

    def __init__(self) -> None:
        super().__init__()
        widths = [64, 128, 256, 512, 1024]
        self.down = nn.ModuleList([Twice(a, b) for a, b in zip([3, *widths], widths, strict=False)])
        pairs = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.shrink = nn.ModuleList([nn.Conv2d(a, b, 1) for a, b in pairs])
        self.up = nn.ModuleList([Twice(a, b) for a, b in pairs])
        self.head, self.pool = nn.Conv2d(64, 2, 1), nn.MaxPool2d(2)

    def forward(self, x: bs.Tensor) -> bs.Tensor:
        kept = []
        for i, block in enumerate(self.down):
            x = block(x if i == 0 else self.pool(x))
            kept.append(x)
        kept.pop()
        for shrink, up in zip(self.shrink, self.up, strict=True):
            n, c, h, w = x.shape
            x = x.reshape(n, c, h, 1, w, 1).expand(n, c, h, 2, w, 2).reshape(n, c, 2 * h, 2 * w)
            x = up(bs.cat([kept.pop(), shrink(x)], 1))
        return self.head(x).mean(dim=(2, 3))


class Dense(nn.Module):
    def __init__(self, inside: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(inside), nn.Conv2d(inside, 128, 1, bias=False)
        self.norm2, self.conv2 = nn.BatchNorm2d(128), nn.Conv2d(128, 32, 3, padding=1, bias=False)

    def forward(self, x: bs.Tensor) -> bs.Tensor:
        y = self.conv2(F.relu(self.norm2(self.conv1(F.relu(self.norm1(x))))))
        return bs.cat([x, y], 1)


class DenseNet121(nn.Module):
    """Huang et al. 2017."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pool = conv_norm(3, 64, 7, 2), nn.MaxPool2d(3, stride=2, padding=1)
        layers: list[nn.Module] = []
        width = 64
        for i, depth in enumerate((6, 12, 24, 16)):
            for _ in range(depth):
                layers.append(Dense(width))
                width += 32
            if i < 3:
                layers += [nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, width // 2, 1, bias=False), nn.AvgPool2d(2)]
                width //= 2
        self.blocks = nn.Sequential(*layers)
        self.norm, self.head = nn.BatchNorm2d(width), nn.Linear(width, 1000)

    def forward(self, x: bs.Tensor) -> bs.Tensor:
        x = F.relu(self.norm(self.blocks(self.pool(F.relu(self.stem(x))))))
        return self.head(x.mean(dim=(2, 3)))


class Attend(nn.Module):
    """A block of GPT-2: norms first, causal attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2, self.heads = nn.LayerNorm(width), nn.LayerNorm(width), heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: bs.Tensor) -> bs.Tensor:
        b, t, c = x.shape
        q, k, v = (
            part.reshape(b, t, self.heads, c // self.heads).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).split(c, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + F.dropout(self.out(y.transpose(1, 2).reshape(b, t, c)), 0.1)
        return x + F.dropout(self.down(F.gelu(self.up(self.norm2(x)))), 0.1)


class Gpt2(nn.Module):
    """Radford et al. 2019, the small one."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(50257, 768), nn.Embedding(1024, 768)
        self.blocks = nn.Sequential(*(Attend(768, 12) for _ in range(12)))
        self.norm = nn.LayerNorm(768)

    def forward(self, x: bs.Tensor) -> bs.Tensor:
        x = F.dropout(self.tokens(x) + self.places(bs.arange(x.shape[1])), 0.1)
        return F.linear(self.norm(self.blocks(x)), self.tokens.weight).flatten(0, 1)


class Encoder(nn.Module):
    """Vaswani et al. 2017: six layers of the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.head = nn.Embedding(32000, 512), nn.Linear(512, 1000)
        self.layers = nn.Sequential(
            *(nn.TransformerEncoderLayer(512, 8, dim_feedforward=2048, batch_first=True) for _ in range(6))
        )

    def forward(self, x: bs.Tensor) -> bs.Tensor:
        return self.head(self.layers(self.tokens(x)).mean(dim=1))


class Lstm128(nn.Module):
    """128 steps of a cell written out, so that each step's values are the planner's to drop."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(128, 128), nn.Linear(128, 10)

    def forward(self, x: bs.Tensor) -> bs.Tensor:
        state = None
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        assert state is not None
        return self.head(state[0])


class TreeLstm(nn.Module):
    """Tai et al. 2015: the binary tree cell, on a complete tree of 64 leaves."""

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        self.leaf, self.gates, self.head = nn.Linear(width, 3 * width), nn.Linear(2 * width, 5 * width), nn.Linear(width, 5)

    def forward(self, x: bs.Tensor) -> bs.Tensor:
        level = []
        for t in range(x.shape[1]):
            i, o, u = self.leaf(x[:, t]).chunk(3, dim=1)
            cell = i.sigmoid() * u.tanh()
            level.append((o.sigmoid() * cell.tanh(), cell))
        while len(level) > 1:
            level = [self.join(a, b) for a, b in zip(level[::2], level[1::2], strict=True)]
        return self.head(level[0][0])

    def join(self, left: tuple[bs.Tensor, bs.Tensor], right: tuple[bs.Tensor, bs.Tensor]) -> tuple[bs.Tensor, bs.Tensor]:
        i, f, g, o, u = self.gates(bs.cat([left[0], right[0]], 1)).chunk(5, dim=1)
        cell = i.sigmoid() * u.tanh() + f.sigmoid() * left[1] + g.sigmoid() * right[1]
        return o.sigmoid() * cell.tanh(), cell


def images(batch: int, side: int) -> Callable[[], bs.Tensor]:
    return lambda: bs.randn(batch, 3, side, side)


def words(batch: int, length: int, count: int) -> Callable[[], bs.Tensor]:
    return lambda: bs.randint(0, count, (batch, length))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], bs.Tensor]]] = {
    "vgg16": (Vgg16, images(64, 224)),
    "resnet50": (ResNet50, images(8, 224)),
    "mobilenetv2": (MobileNetV2, images(8, 224)),
    "unet": (UNet, images(2, 256)),
    "densenet121": (DenseNet121, images(8, 224)),
    "gpt2": (Gpt2, words(4, 512, 50257)),
    "encoder": (Encoder, words(8, 256, 32000)),
    "lstm128": (Lstm128, lambda: bs.randn(64, 128, 128)),
    "treelstm": (TreeLstm, lambda: bs.randn(32, 64, 256)),
}


def tape(name: str) -> Tape:
    """One step of a network, with SGD, as the planner sees it."""
    build, draw = NETWORKS[name]
    bs.manual_seed(0)
    model, x = build(), draw()
    optimizer = optim.SGD(model.parameters(), lr=0.1)

    def step() -> None:
        optimizer.zero_grad()
        y = model(x)
        F.cross_entropy(y, bs.zeros(y.shape[0], dtype=bs.int64)).backward()
        optimizer.step()

    return bs.memory.forecast(step).tape()
