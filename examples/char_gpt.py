"""A character-level GPT in about a hundred lines, trained on text that every Python carries, or on a file.

    python examples/char_gpt.py [--data FILE] [--steps N] [--seed N]

`backsweep demo` is the same with a report; this is the part to read and to change.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np

import backsweep as bs
import backsweep.nn.functional as F
from backsweep import nn, optim

LAYERS, HEADS, WIDTH, CONTEXT, BATCH = 2, 4, 64, 64, 16


class Block(nn.Module):
    """Causal self-attention, then a two-layer network, each added to what came in."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.mix = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.network = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: bs.Tensor) -> bs.Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            part.view(batch, length, HEADS, WIDTH // HEADS).transpose(1, 2)
            for part in self.qkv(self.norm1(x)).split(WIDTH, dim=2)
        )
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.mix(heads.transpose(1, 2).reshape(batch, length, WIDTH))
        return x + self.network(self.norm2(x))


class GPT(nn.Module):
    """Token and position embeddings, blocks, and a linear head."""

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.token, self.position = nn.Embedding(symbols, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, symbols))

    def forward(self, tokens: bs.Tensor) -> bs.Tensor:
        x = self.token(tokens) + self.position(bs.arange(tokens.shape[1]))
        return self.head(self.blocks(x))

    def write(self, start: list[int], length: int) -> list[int]:
        """Draw one symbol after the other."""
        tokens = list(start)
        with bs.no_grad():
            for _ in range(length):
                logits = self(bs.tensor([tokens[-CONTEXT:]]))[0, -1]
                tokens.append(int(bs.multinomial(F.softmax(logits, dim=-1), 1).item()))
        return tokens


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description="A character-level GPT.")
    parser.add_argument("--data", type=Path, help="a text file")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    text = options.data.read_text(encoding="utf-8") if options.data else "\n".join(topics[k] for k in sorted(topics))
    symbols = sorted(set(text))
    data = np.array([symbols.index(c) for c in text[:200_000]], dtype=np.int64)

    bs.manual_seed(options.seed)
    random = np.random.default_rng(options.seed)
    model = GPT(len(symbols))
    optimizer = optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    loss = bs.tensor(0.0)
    for step in range(options.steps):
        starts = random.integers(0, len(data) - CONTEXT - 1, BATCH)
        window = bs.from_numpy(data[starts[:, None] + np.arange(CONTEXT + 1)])
        loss = F.cross_entropy(model(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step + 1 == options.steps:
            print(f"step {step}: loss {loss.item():.4f}")
    print("".join(symbols[i] for i in model.write([symbols.index("\n")], 200)))
    return float(loss.item())


if __name__ == "__main__":
    main()
