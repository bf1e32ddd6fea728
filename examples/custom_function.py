"""An operation with a gradient of one's own: rounding that the gradient passes straight through.

    python examples/custom_function.py [--steps N]

Weights are rounded to a few levels in forward; the derivative of rounding is 0 almost everywhere, so backward pretends that
nothing was rounded (Bengio et al. 2013, arXiv:1308.3432). `gradcheck` then checks a Function that is exact.
"""

from __future__ import annotations

import argparse

import backsweep as bs
import backsweep.nn.functional as F
from backsweep import nn, optim


class Quantize(bs.autograd.Function):
    """Round to multiples of a step; the gradient passes through."""

    @staticmethod
    def forward(ctx: bs.autograd.FunctionContext, x: bs.Tensor, step: float) -> bs.Tensor:
        return (x / step).round() * step

    @staticmethod
    def backward(ctx: bs.autograd.FunctionContext, dy: bs.Tensor) -> tuple[bs.Tensor, None]:
        return dy, None


class Cube(bs.autograd.Function):
    """x³ with its exact gradient: what backward needs is saved, on the bill and guarded against changes."""

    @staticmethod
    def forward(ctx: bs.autograd.FunctionContext, x: bs.Tensor) -> bs.Tensor:
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx: bs.autograd.FunctionContext, dy: bs.Tensor) -> bs.Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x * x * dy


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description="Operations with gradients of one's own.")
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args(arguments)

    x = bs.randn(5, dtype=bs.float64).requires_grad_()
    print("Cube:", "gradcheck passed" if bs.autograd.gradcheck(Cube.apply, (x,)) else "gradcheck failed")

    bs.manual_seed(0)
    inputs = bs.randn(256, 8)
    targets = inputs @ bs.randn(8, 1)
    weight = nn.Parameter(bs.zeros(1, 8))
    optimizer = optim.Adam([weight], lr=0.05)
    loss = bs.tensor(0.0)
    for _ in range(options.steps):
        loss = F.mse_loss(F.linear(inputs, Quantize.apply(weight, 0.25)), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss with weights rounded to quarters: {loss.item():.4f}")
    return float(loss.item())


if __name__ == "__main__":
    main()
