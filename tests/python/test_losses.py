"""Losses: their formulas under each reduction, and their refusal to broadcast."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from test_nn import CLASS_WEIGHTS, SIGNS, Array, P, X, Y, close, distance, log_softmax, sigmoid, tensor

import backsweep as bs
from backsweep import nn
from backsweep.errors import ShapeError

ELEMENTWISE: list[tuple[Callable[..., nn.Module], tuple[Array, ...], Array]] = [
    (nn.L1Loss, (X, Y), abs(X - Y)),
    (nn.MSELoss, (X, Y), (X - Y) ** 2),
    (
        lambda **kw: nn.SmoothL1Loss(beta=0.5, **kw),
        (X, Y),
        np.where(abs(X - Y) < 0.5, (X - Y) ** 2, abs(X - Y) - 0.25),
    ),
    (
        lambda **kw: nn.HuberLoss(delta=0.5, **kw),
        (X, Y),
        np.where(abs(X - Y) < 0.5, (X - Y) ** 2 / 2, 0.5 * (abs(X - Y) - 0.25)),
    ),
    (nn.BCELoss, (P, sigmoid(X)), -(sigmoid(X) * np.log(P) + (1 - sigmoid(X)) * np.log(1 - P))),
    (
        lambda **kw: nn.BCEWithLogitsLoss(tensor(CLASS_WEIGHTS), pos_weight=tensor(CLASS_WEIGHTS[::-1]), **kw),
        (X, P),
        -CLASS_WEIGHTS * (CLASS_WEIGHTS[::-1] * P * np.log(sigmoid(X)) + (1 - P) * np.log(1 - sigmoid(X))),
    ),
    (nn.KLDivLoss, (log_softmax(X), P), P * (np.log(P) - log_softmax(X))),
    (lambda **kw: nn.KLDivLoss(log_target=True, **kw), (X, Y), np.exp(Y) * (Y - X)),
    (nn.PoissonNLLLoss, (X, P), np.exp(X) - P * X),
    (nn.GaussianNLLLoss, (X, Y, P), 0.5 * (np.log(P) + (X - Y) ** 2 / P)),
    (nn.SoftMarginLoss, (X, SIGNS), np.log1p(np.exp(-SIGNS * X))),
    (
        lambda **kw: nn.HingeEmbeddingLoss(0.7, **kw),
        (X, SIGNS),
        np.where(SIGNS > 0, X, np.maximum(0.7 - X, 0)),
    ),
    (
        lambda **kw: nn.MarginRankingLoss(0.7, **kw),
        (X, P, SIGNS),
        np.maximum(0.7 - SIGNS * (X - P), 0),
    ),
    (
        lambda **kw: nn.TripletMarginLoss(0.7, **kw),
        (X, Y, P),
        np.maximum(distance(X, Y) - distance(X, P) + 0.7, 0),
    ),
    (
        lambda **kw: nn.CosineEmbeddingLoss(0.1, **kw),
        (X, Y, SIGNS[:, 0]),
        np.where(
            SIGNS[:, 0] > 0,
            1 - (X * Y).sum(axis=1) / np.sqrt((X**2).sum(axis=1) * (Y**2).sum(axis=1)),
            np.maximum((X * Y).sum(axis=1) / np.sqrt((X**2).sum(axis=1) * (Y**2).sum(axis=1)) - 0.1, 0),
        ),
    ),
]


@pytest.mark.parametrize(("loss", "inputs", "wanted"), ELEMENTWISE)
def test_a_loss_follows_its_formula_under_each_reduction(
    loss: Callable[..., nn.Module], inputs: tuple[Array, ...], wanted: Array
):
    given = [tensor(value) for value in inputs]
    close(loss(reduction="none")(*given), wanted, 1e-9)
    close(loss()(*given), np.array(wanted.mean()), 1e-9)
    close(loss(reduction="sum")(*given), np.array(wanted.sum()), 1e-9)


@pytest.mark.parametrize(
    ("loss", "name"),
    [
        (nn.L1Loss, "l1_loss"),
        (nn.MSELoss, "mse_loss"),
        (nn.SmoothL1Loss, "smooth_l1_loss"),
        (nn.HuberLoss, "huber_loss"),
        (nn.BCELoss, "binary_cross_entropy"),
        (nn.BCEWithLogitsLoss, "binary_cross_entropy_with_logits"),
        (nn.KLDivLoss, "kl_div"),
        (nn.PoissonNLLLoss, "poisson_nll_loss"),
        (nn.SoftMarginLoss, "soft_margin_loss"),
        (nn.HingeEmbeddingLoss, "hinge_embedding_loss"),
    ],
)
def test_a_loss_refuses_to_broadcast_and_names_both_shapes(loss: Callable[[], nn.Module], name: str):
    with pytest.raises(ShapeError) as caught:
        loss()(bs.zeros(4, 1), bs.zeros(4))
    assert str(caught.value) == (
        f"{name}: input [4, 1] and target [4]; the shapes must be equal (help: target.reshape(4, 1))"
    )
    with pytest.raises(ShapeError, match=r"\[4, 3\] and target \[1, 3\]"):
        loss()(bs.zeros(4, 3), bs.zeros(1, 3))


def test_losses_of_three_tensors_refuse_to_broadcast():
    a, b = bs.zeros(4, 3), bs.zeros(1, 3)
    for loss in (nn.TripletMarginLoss(), nn.MarginRankingLoss()):
        for inputs in ((a, b, a), (a, a, b)):
            with pytest.raises(ShapeError, match=r"\[4, 3\] and target \[1, 3\]"):
                loss(*inputs)
