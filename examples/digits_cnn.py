"""A small convolutional network on scikit-learn's handwritten digits: 8 × 8 pixels, ten classes.

    python examples/digits_cnn.py [--epochs N] [--seed N]

Needs scikit-learn, which carries the images. About 98 % of the held-out digits are right after 10 epochs.
"""

from __future__ import annotations

import argparse

from sklearn.datasets import load_digits

import backsweep as bs
import backsweep.nn.functional as F
from backsweep import nn, optim
from backsweep.data import DataLoader, TensorDataset


class Digits(nn.Module):
    """Two convolutions with batch norm, a pool, and a linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.norm1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1)
        self.norm2 = nn.BatchNorm2d(32)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(32 * 2 * 2, 10)

    def forward(self, x: bs.Tensor) -> bs.Tensor:
        x = self.pool(F.relu(self.norm1(self.conv1(x))))
        x = self.pool(F.relu(self.norm2(self.conv2(x))))
        return self.head(x.flatten(1))


def accuracy(model: nn.Module, images: bs.Tensor, labels: bs.Tensor) -> float:
    """The share of right answers."""
    model.eval()
    with bs.no_grad():
        right = (model(images).argmax(dim=1) == labels).float().mean().item()
    model.train()
    return float(right)


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description="A convolutional network on scikit-learn's digits.")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)

    bs.manual_seed(options.seed)
    digits = load_digits()
    images = bs.tensor(digits.images / 16.0, dtype=bs.float32).unsqueeze(1)
    labels = bs.tensor(digits.target)
    train, test = slice(0, 1500), slice(1500, None)

    model = Digits()
    optimizer = optim.AdamW(model.parameters(), lr=2e-3)
    loader = DataLoader(TensorDataset(images[train], labels[train]), batch_size=50, shuffle=True)
    for epoch in range(options.epochs):
        total = 0.0
        for x, y in loader:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: loss {total / len(loader):.4f}, accuracy {accuracy(model, images[test], labels[test]):.3f}")

    stats = bs.memory.stats()
    print(f"peak {stats['peak']:,} bytes, of which parameters {stats['parameter']:,}")
    return accuracy(model, images[test], labels[test])


if __name__ == "__main__":
    main()
