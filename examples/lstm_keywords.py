"""An LSTM that learns to spell Python's keywords and builtin names, and makes up new ones.

    python examples/lstm_keywords.py [--data FILE] [--steps N] [--seed N]

FILE holds one name a line. Names differ in length: padding is left out of the loss by `ignore_index`.
"""

from __future__ import annotations

import argparse
import builtins
import keyword
from pathlib import Path

import numpy as np

import backsweep as bs
import backsweep.nn.functional as F
from backsweep import nn, optim

END, PADDING = 0, -100


class Speller(nn.Module):
    """Embedding, LSTM, and a linear head over the alphabet."""

    def __init__(self, symbols: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(symbols, 16)
        self.lstm = nn.LSTM(16, 64, batch_first=True)
        self.head = nn.Linear(64, symbols)

    def forward(
        self, tokens: bs.Tensor, state: tuple[bs.Tensor, bs.Tensor] | None = None
    ) -> tuple[bs.Tensor, tuple[bs.Tensor, bs.Tensor]]:
        output, state = self.lstm(self.embedding(tokens), state)
        return self.head(output), state


def encode(names: list[str], alphabet: str) -> tuple[bs.Tensor, bs.Tensor]:
    """Each name from its end mark on, and the same moved by one, padded to the longest."""
    longest = max(map(len, names)) + 1
    inputs = np.full((len(names), longest), END, dtype=np.int64)
    targets = np.full((len(names), longest), PADDING, dtype=np.int64)
    for row, name in enumerate(names):
        codes = [alphabet.index(c) + 1 for c in name]
        inputs[row, 1 : len(codes) + 1] = codes
        targets[row, : len(codes) + 1] = [*codes, END]
    return bs.from_numpy(inputs), bs.from_numpy(targets)


def spell(model: Speller, alphabet: str, most: int = 20) -> str:
    """Draw a name, one letter after the other."""
    name, token, state = "", END, None
    with bs.no_grad():
        for _ in range(most):
            logits, state = model(bs.tensor([[token]]), state)
            token = int(bs.multinomial(F.softmax(logits[0, -1], dim=-1), 1).item())
            if token == END:
                break
            name += alphabet[token - 1]
    return name


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description="An LSTM that spells.")
    parser.add_argument("--data", type=Path, help="a file with one name a line")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    names = options.data.read_text(encoding="utf-8").split() if options.data else [*keyword.kwlist, *dir(builtins)]
    alphabet = "".join(sorted(set("".join(names))))
    inputs, targets = encode(names, alphabet)

    bs.manual_seed(options.seed)
    model = Speller(len(alphabet) + 1)
    optimizer = optim.Adam(model.parameters(), lr=5e-3)
    loss = bs.tensor(0.0)
    for step in range(options.steps):
        rows = bs.randint(0, len(names), (64,))
        logits, _ = model(inputs[rows])
        loss = F.cross_entropy(logits.flatten(0, 1), targets[rows].flatten(), ignore_index=PADDING)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step + 1 == options.steps:
            print(f"step {step}: loss {loss.item():.4f}")
    print(", ".join(spell(model, alphabet) for _ in range(10)))
    return float(loss.item())


if __name__ == "__main__":
    main()
