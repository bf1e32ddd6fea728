"""The demo: a character-level GPT trained on real text, its gradients looked at, its memory billed to the byte.

The recipe is nanoGPT's for a CPU: 4 layers, 4 heads, 128 wide, context 64, batch 12, AdamW with decay on matrices only,
warm-up and cosine, clipping at 1.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import backsweep as bs
import backsweep.nn.functional as F
from backsweep import nn, optim
from backsweep.creation import check_device

LAYERS, HEADS, WIDTH, CONTEXT, BATCH = 4, 4, 128, 64, 12
RATE, LEAST_RATE, WARM_UP, DECAY, BETAS, CLIP = 1e-3, 1e-4, 100, 0.1, (0.9, 0.99), 1.0
EVALUATION_BATCHES = 20


class Block(nn.Module):
    """Attention and a two-layer network, each behind a layer norm and around a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(WIDTH)
        self.attention = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.projection = nn.Linear(WIDTH, WIDTH, bias=False)
        self.norm2 = nn.LayerNorm(WIDTH)
        self.widen = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.narrow = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x: bs.Tensor) -> bs.Tensor:
        batch, time, _ = x.shape
        heads = self.attention(self.norm1(x)).reshape(batch, time, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        x = x + self.projection(mixed.transpose(1, 2).reshape(batch, time, WIDTH))
        return x + self.narrow(F.gelu(self.widen(self.norm2(x))))


class GPT(nn.Module):
    """A character-level language model."""

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.token = nn.Embedding(symbols, WIDTH)
        self.position = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.ModuleList([Block() for _ in range(LAYERS)])
        self.norm = nn.LayerNorm(WIDTH)
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                narrow = name.endswith(("projection.weight", "narrow.weight"))
                nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * LAYERS) if narrow else 0.02)

    def forward(self, tokens: bs.Tensor) -> bs.Tensor:
        x = self.token(tokens) + self.position(bs.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        # The output layer shares its weights with the token embedding.
        return F.linear(self.norm(x), self.token.weight)


@dataclass
class Report:
    """What a run came to; the JSON report holds these names."""

    val_loss: float
    train_loss: float
    steps: int
    seconds: float
    tokens_per_second: float
    peak_bytes: int
    activation_bytes: int
    device: str
    version: str
    seed: int
    interrupted: bool
    sample: str
    weights: str
    gradient_norms: dict[str, float]
    diagnosis: str
    bill: dict[str, Any]


class Text:
    """A text as symbols on a device: nine tenths to train on, one tenth to validate."""

    def __init__(self, text: str, device: str) -> None:
        self.device = device
        self.symbols = sorted(set(text))
        place = {symbol: i for i, symbol in enumerate(self.symbols)}
        data = np.array([place[c] for c in text], dtype=np.int64)
        cut = int(0.9 * len(data))
        self.train, self.validation = data[:cut], data[cut:]
        if len(self.validation) <= CONTEXT + 1:
            raise bs.errors.ValueError(
                f"a text of {len(text)} characters; {10 * (CONTEXT + 2)} or more are needed"
            )

    @staticmethod
    def read(path: str | None, device: str) -> Text:
        if path is not None:
            return Text(Path(path).read_text(encoding="utf-8"), device)
        from pydoc_data.topics import topics

        return Text("\n".join(topics[name] for name in sorted(topics)), device)

    def batch(self, data: np.ndarray, random: np.random.Generator) -> tuple[bs.Tensor, bs.Tensor]:
        starts = random.integers(0, len(data) - CONTEXT - 1, BATCH)
        window = starts[:, None] + np.arange(CONTEXT + 1)
        tokens = data[window]
        x, y = (bs.from_numpy(part.copy()).to(self.device) for part in (tokens[:, :-1], tokens[:, 1:]))
        return x, y


def rate(step: int, steps: int) -> float:
    """Warm-up, then half a cosine down to a tenth."""
    if step < WARM_UP:
        return RATE * (step + 1) / (WARM_UP + 1)
    done = (step - WARM_UP) / max(1, steps - WARM_UP)
    return LEAST_RATE + 0.5 * (1.0 + math.cos(math.pi * min(1.0, done))) * (RATE - LEAST_RATE)


def loss_of(model: GPT, tokens: bs.Tensor, targets: bs.Tensor) -> bs.Tensor:
    logits = model(tokens)
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1))


def evaluate(model: GPT, text: Text, data: np.ndarray, seed: int) -> float:
    random = np.random.default_rng(seed)
    with bs.no_grad():
        losses = [loss_of(model, *text.batch(data, random)).item() for _ in range(EVALUATION_BATCHES)]
    return float(np.mean(losses))


def generate(model: GPT, text: Text, length: int, seed: int) -> str:
    random = np.random.default_rng(seed)
    tokens = [0]
    with bs.no_grad():
        for _ in range(length):
            context = np.array([tokens[-CONTEXT:]], dtype=np.int64)
            logits = model(bs.from_numpy(context).to(text.device))[0, -1].cpu().numpy().astype(np.float64) / 0.8
            chances = np.exp(logits - logits.max())
            tokens.append(int(random.choice(len(chances), p=chances / chances.sum())))
    return "".join(text.symbols[t] for t in tokens[1:])


def gradient_norms(model: GPT) -> dict[str, float]:
    """The norm of the gradient of each block of layers, from the input to the output."""
    squares: dict[str, float] = {}
    for name, parameter in model.named_parameters():
        parts = name.split(".")
        block = ".".join(parts[:2]) if parts[0] == "blocks" else parts[0]
        if parameter.grad is not None:
            squares[block] = squares.get(block, 0.0) + float((parameter.grad * parameter.grad).sum())
    order = sorted(squares, key=lambda n: (n not in ("token", "position"), n == "norm", n))
    return {name: math.sqrt(squares[name]) for name in order}


def diagnose(norms: dict[str, float]) -> str:
    """One line in words: do the gradients vanish, explode, or neither?"""
    blocks = [value for name, value in norms.items() if name.startswith("blocks")]
    if not all(math.isfinite(v) for v in norms.values()):
        return "exploded: a gradient is not finite; use a smaller rate or clip at a smaller norm"
    ratio = blocks[0] / max(blocks[-1], 1e-30)
    if ratio < 1e-2:
        return f"vanishing: the first block gets {ratio:.2g} of the last one's gradient; look at norms and initialisation"
    if ratio > 1e2:
        return f"exploding: the first block gets {ratio:.2g} times the last one's gradient; clip, or initialise smaller"
    return f"healthy: the first block's gradient is {ratio:.2f} of the last one's, neither vanishing nor exploding"


class Progress:
    """One line that is written over on a terminal, and a line now and then elsewhere."""

    def __init__(self, steps: int, quiet: bool) -> None:
        self.steps, self.quiet, self.start, self.last = steps, quiet, time.perf_counter(), 0.0
        self.terminal = sys.stderr.isatty()

    def show(self, step: int, loss: bs.Tensor) -> None:
        """Read the loss only where it is shown: a read-back waits for a GPU."""
        now = time.perf_counter()
        if self.quiet or (now - self.last < (0.2 if self.terminal else 5.0) and step != self.steps):
            return
        self.last = now
        speed = step * BATCH * CONTEXT / max(now - self.start, 1e-9)
        left = (self.steps - step) * (now - self.start) / max(step, 1)
        done = int(24 * step / self.steps)
        bar = "█" * done + "·" * (24 - done)
        line = f"{bar} {step}/{self.steps}  loss {loss.item():.4f}  {speed:,.0f} tokens/s  {left:.0f} s left"
        print(f"\r{line}   " if self.terminal else line, end="" if self.terminal else "\n", file=sys.stderr, flush=True)

    def end(self) -> None:
        if not self.quiet and self.terminal:
            print(file=sys.stderr)


def run(options: argparse.Namespace) -> int:
    """The command `backsweep demo`."""
    out = Path(options.out)
    try:
        options.device = check_device("demo", options.device)
        text = Text.read(options.data, options.device)
        out.mkdir(parents=True, exist_ok=True)
        report = train(text, options)
    except (OSError, UnicodeDecodeError, bs.DeviceError, bs.errors.ValueError) as error:
        print(f"demo: {str(error).removeprefix('demo: ')}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"demo: stopped by Ctrl-C; weights, if any were learned, are in {out}", file=sys.stderr)
        return 130
    (out / "report.json").write_text(json.dumps(asdict(report), indent=2), encoding="utf-8")
    if options.json:
        print(json.dumps(asdict(report)))
    elif not options.quiet:
        show(report, out)
    return 130 if report.interrupted else 0


class Interrupt:
    """Ctrl-C as a wish: heard the first time, obeyed at once the second."""

    def __init__(self) -> None:
        self.heard = False

    def __enter__(self) -> Interrupt:
        # Who was started deaf to Ctrl-C stays deaf.
        self.before = signal.getsignal(signal.SIGINT)
        if self.before is not signal.SIG_IGN:
            signal.signal(signal.SIGINT, self.hear)
        return self

    def __exit__(self, *exception: object) -> None:
        signal.signal(signal.SIGINT, self.before)

    def hear(self, *_: object) -> None:
        if self.heard:
            raise KeyboardInterrupt
        self.heard = True


def train(text: Text, options: argparse.Namespace) -> Report:
    """Train, and gather the report. Ctrl-C ends the training after the step in progress and keeps what was learned."""
    bs.manual_seed(options.seed)
    random = np.random.default_rng(options.seed)
    model, device = GPT(len(text.symbols)).to(text.device), text.device
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": DECAY}, {"params": others, "weight_decay": 0.0}]
    optimizer = optim.AdamW(groups, lr=RATE, betas=BETAS)
    progress = Progress(options.steps, options.quiet or options.json)
    start, step, activation_bytes, peak_bill = time.perf_counter(), 0, 0, []
    bs.memory.reset_peak(device)
    with Interrupt() as interrupt:
        while step < options.steps and not interrupt.heard:
            tokens, targets = text.batch(text.train, random)
            for group in optimizer.param_groups:
                group["lr"] = rate(step, options.steps)
            # One step in the steady state is billed block by block; the first holds no optimizer state yet.
            billed = step == min(2, options.steps - 1)
            with bs.memory.record(device) if billed else _nothing() as bill:
                optimizer.zero_grad()
                value = loss_of(model, tokens, targets)
                if billed:
                    activation_bytes = bs.memory.stats(device)["activation"]
                value.backward()
                nn.utils.clip_grad_norm_(model.parameters(), CLIP)
                optimizer.step()
            if billed:
                peak_bill = bill.at_peak()
            step += 1
            progress.show(step, value.detach())
            del value
    seconds = time.perf_counter() - start
    progress.end()
    weights = Path(options.out) / "model.safetensors"
    bs.save(model.state_dict(), weights)
    # What the next step would do, before clipping makes all norms smaller.
    optimizer.zero_grad()
    loss_of(model, *text.batch(text.train, random)).backward()
    norms = gradient_norms(model)
    return Report(
        val_loss=evaluate(model, text, text.validation, options.seed + 1),
        train_loss=evaluate(model, text, text.train, options.seed + 2),
        steps=step,
        seconds=seconds,
        tokens_per_second=step * BATCH * CONTEXT / seconds,
        peak_bytes=bs.memory.stats(device)["peak"],
        activation_bytes=activation_bytes,
        device=device,
        version=bs.__version__,
        seed=options.seed,
        interrupted=interrupt.heard,
        sample=generate(model, text, 300, options.seed),
        weights=str(weights),
        gradient_norms=norms,
        diagnosis=diagnose(norms),
        bill=bs.memory.bill(peak_bill),
    )


class _nothing:
    def __enter__(self) -> _nothing:
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def at_peak(self) -> list[dict[str, Any]]:
        return []


def show(report: Report, out: Path) -> None:
    """The report for people."""
    if report.interrupted:
        print(f"stopped by Ctrl-C after {report.steps} steps; what was learned is kept")
    print(f"loss         train {report.train_loss:.4f}, validation {report.val_loss:.4f}")
    print(f"speed        {report.tokens_per_second:,.0f} tokens/s, {report.steps} steps in {report.seconds:.1f} s")
    print(f"\nsample\n{report.sample}\n")
    print("gradient norms of the next step")
    for name, value in report.gradient_norms.items():
        print(f"  {name:12} {value:.4f}")
    print(f"  {report.diagnosis}\n")
    print(bs.memory.bill_text(report.bill))
    print(f"\nweights      {report.weights}\nreport       {out / 'report.json'}")
