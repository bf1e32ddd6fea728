"""Gradients where a derivative does not exist, or formulas meet infinities: one table, each line with its source.

"peers": PyTorch, JAX and MLX agree. "torch": PyTorch's convention where they do not. "mask": a cotangent of exactly 0 is
0 times anything, so what `where` does not take has no say; PyTorch, JAX and MLX give NaN there. "limit": the true slope.
"subgradient": the smallest of all slopes at a kink.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import backsweep as bs
import backsweep.nn.functional as F
from backsweep import nn

INF, NAN = math.inf, math.nan


def weighted(x: bs.Tensor) -> bs.Tensor:
    """Σ k · x_k: tells apart where each gradient went."""
    return (x * bs.arange(1, x.numel() + 1).double().reshape(x.shape)).sum()


CASES: list[tuple[str, Callable[..., bs.Tensor], list[Any], list[Any], str]] = [
    # Ties: all of a full extreme share, one of several along a dim is chosen.
    ("max of all", lambda x: x.max(), [[3, 3, 1]], [[0.5, 0.5, 0]], "peers"),
    ("min of all", lambda x: x.min(), [[3, 1, 1, 1]], [[0, 1 / 3, 1 / 3, 1 / 3]], "peers"),
    ("amax along a dim", lambda x: x.amax(1).sum(), [[[2, 2], [1, 3]]], [[[0.5, 0.5], [0, 1]]], "torch"),
    ("amin along a dim", lambda x: x.amin(0).sum(), [[[2, 2], [2, 3]]], [[[0.5, 1], [0.5, 0]]], "torch"),
    ("max along a dim", lambda x: x.max(0).values, [[3, 3, 1]], [[1, 0, 0]], "torch: the first"),
    ("min along a dim", lambda x: x.min(0).values, [[3, 1, 1]], [[0, 1, 0]], "torch: the first"),
    ("topk", lambda x: x.topk(2).values.sum(), [[2, 1, 2, 2]], [[1, 0, 1, 0]], "the first, as sort; torch takes any"),
    ("sort", lambda x: weighted(x.sort().values), [[1, 1, 0]], [[2, 3, 1]], "torch: stable"),
    ("sort descending", lambda x: weighted(x.sort(descending=True).values), [[1, 1, 2]], [[2, 3, 1]], "torch: stable"),
    ("median of two", lambda x: x.median(), [[4, 1]], [[0, 1]], "torch: the lower"),
    ("maximum", lambda a, b: bs.maximum(a, b), [1, 1], [0.5, 0.5], "torch and JAX"),
    ("minimum", lambda a, b: bs.minimum(a, b), [1, 1], [0.5, 0.5], "torch and JAX"),
    ("aminmax", lambda x: sum(bs.aminmax(x)), [[1, 1]], [[1, 1]], "torch"),
    ("norm inf", lambda x: x.norm(INF), [[3, -3, 1]], [[0.5, -0.5, 0]], "torch"),
    ("norm -inf", lambda x: x.norm(-INF), [[3, -1, 1]], [[0, -0.5, 0.5]], "torch"),
    ("logaddexp", lambda a, b: bs.logaddexp(a, b), [2, 2], [0.5, 0.5], "limit"),
    # Kinks.
    ("clamp at its bounds", lambda x: x.clamp(0, 1).sum(), [[-1, 0, 0.5, 1, 2]], [[0, 1, 1, 1, 0]], "torch"),
    ("clamp with bounds crossed", lambda x: x.clamp(1, 0).sum(), [[-1, 0, 0.5, 1, 2]], [[0, 0, 0, 0, 0]], "torch"),
    ("relu at 0", lambda x: F.relu(x).sum(), [[-1, 0, 1]], [[0, 0, 1]], "peers"),
    ("abs at 0", lambda x: x.abs().sum(), [[-1, 0, 1]], [[-1, 0, 1]], "torch and MLX"),
    ("sign, floor, round", lambda x: (x.sign() + x.floor() + x.round()).sum(), [[0, 0.5, 1]], [[0, 0, 0]], "peers"),
    ("l1_loss at 0", lambda x, t: F.l1_loss(x, t), [[1.0], [1.0]], [[0], [0]], "torch"),
    ("smooth_l1_loss at 0", lambda x, t: F.smooth_l1_loss(x, t), [[1.0], [1.0]], [[0], [0]], "limit"),
    ("margin_ranking_loss at its edge", lambda a, b: F.margin_ranking_loss(a, b, bs.ones(1)), [[1], [1]], [[-1], [1]], "torch: the bound passes"),
    # Roots and norms at 0.
    ("norm 2 at 0", lambda x: x.norm(), [[0, 0]], [[0, 0]], "subgradient, as torch"),
    ("norm 2 of rows", lambda x: x.norm(dim=1).sum(), [[[0, 0], [3, 4]]], [[[0, 0], [0.6, 0.8]]], "subgradient, as torch"),
    ("norm 1 at 0", lambda x: x.norm(1), [[0, 2]], [[0, 1]], "subgradient, as torch"),
    ("norm 3 at 0", lambda x: x.norm(3), [[0, 0]], [[0, 0]], "subgradient, as torch"),
    ("norm 3 with a 0", lambda x: x.norm(3), [[0, 2]], [[0, 1]], "limit"),
    ("norm 1.5 with a 0", lambda x: x.norm(1.5), [[0, 2]], [[0, 1]], "limit"),
    ("norm inf at 0", lambda x: x.norm(INF), [[0, 0]], [[0, 0]], "subgradient, as torch"),
    ("cdist at distance 0", lambda a: bs.cdist(a, a.detach()).sum(), [[[1, 2]]], [[[0, 0]]], "torch"),
    ("std of constants", lambda x: x.std(), [[2, 2, 2]], [[0, 0, 0]], "subgradient, as torch"),
    ("var of constants", lambda x: x.var(), [[2, 2, 2]], [[0, 0, 0]], "limit"),
    ("var of one element", lambda x: x.var(), [[2]], [[NAN]], "torch: no degree of freedom"),
    ("var of one element, uncorrected", lambda x: x.var(correction=0), [[2]], [[0]], "limit"),
    ("sqrt at 0", lambda x: x.sqrt(), [0], [INF], "peers"),
    ("log at 0", lambda x: x.log(), [0], [INF], "peers"),
    ("hypot at 0", lambda a, b: bs.hypot(a, b), [0, 0], [0, 0], "subgradient; torch NaN, JAX 0.5"),
    ("atan2 at 0", lambda a, b: bs.atan2(a, b), [0, 0], [0, 0], "torch"),
    ("normalize at 0", lambda x: F.normalize(x, dim=0).sum(), [[0, 0]], [[1e12, 1e12]], "torch: 1 / eps"),
    # Powers.
    ("x ** 0", lambda x: (x**0).sum(), [[0, 2]], [[0, 0]], "torch"),
    ("x ** 1", lambda x: (x**1).sum(), [[0, 2]], [[1, 1]], "limit"),
    ("x ** 2", lambda x: (x**2).sum(), [[0, 2]], [[0, 4]], "limit; MLX had NaN"),
    ("x ** 0.5 at 0", lambda x: x**0.5, [0], [INF], "peers"),
    ("0 ** 0 of tensors", lambda x, y: x**y, [0, 0], [0, 0], "torch"),
    ("0 ** 2 by the exponent", lambda x, y: x**y, [0, 2], [0, 0], "torch"),
    # Products: the others, never a quotient.
    ("prod without zeros", lambda x: x.prod(), [[2, 3, 4]], [[12, 8, 6]], "limit"),
    ("prod with a zero", lambda x: x.prod(), [[0, 2, 3]], [[6, 0, 0]], "peers"),
    ("prod with two zeros", lambda x: x.prod(), [[0, 2, 0]], [[0, 0, 0]], "peers"),
    ("prod along a dim", lambda x: x.prod(0).sum(), [[[0, 2], [3, 4]]], [[[3, 4], [0, 2]]], "peers"),
    ("cumprod with a zero", lambda x: x.cumprod(0).sum(), [[2, 0, 3]], [[1, 8, 0]], "limit"),
    # Exponentials.
    ("logsumexp of -inf", lambda x: x.logsumexp(0), [[-INF, -INF]], [[0, 0]], "subgradient; peers NaN"),
    ("logsumexp with a -inf", lambda x: x.logsumexp(0), [[-INF, 1]], [[0, 1]], "limit"),
    ("logsumexp far out", lambda x: x.logsumexp(1).sum(), [[[1e4, 1e4], [-3e300, 0]]], [[[0.5, 0.5], [0, 1]]], "limit"),
    ("softmax of -inf", lambda x: x.softmax(0).sum(), [[-INF, -INF]], [[NAN, NAN]], "peers"),
    # Writes to one place: the last one stays.
    (
        "index_put to one place",
        lambda x, v: weighted(x.index_put((bs.tensor([1, 1]),), v)),
        [[5, 5, 5], [7, 8]],
        [[1, 0, 3], [0, 2]],
        "the later write replaced the earlier",
    ),
    (
        "scatter to one place",
        lambda x, v: weighted(x.scatter(0, bs.tensor([2, 2]), v)),
        [[5, 5, 5], [7, 8]],
        [[1, 2, 0], [0, 3]],
        "the later write replaced the earlier",
    ),
    ("scatter_add to one place", lambda x, v: weighted(x.scatter_add(0, bs.tensor([2, 2]), v)), [[5, 5, 5], [7, 8]], [[1, 2, 3], [3, 3]], "limit"),
    ("the padding row", lambda w: F.embedding(bs.tensor([0, 1, 1]), w, 1).sum(), [[[1], [2]]], [[[1], [0]]], "torch"),
    # No elements.
    ("sum of nothing", lambda x: x.sum(), [[]], [[]], "peers"),
    ("prod of nothing", lambda x: x.prod(), [[]], [[]], "peers"),
    ("logsumexp of rows of nothing", lambda x: x.logsumexp(1).exp().sum(), [np.zeros((2, 0))], [np.zeros((2, 0))], "limit"),
    ("indexing with an empty mask", lambda x: x[bs.tensor([False, False])].sum(), [[1, 2]], [[0, 0]], "peers"),
]  # fmt: skip


def leaf(value: Any) -> bs.Tensor:
    return bs.tensor(np.array(value, dtype=np.float64)).requires_grad_()


@pytest.mark.parametrize(("function", "inputs", "wanted"), [case[1:4] for case in CASES], ids=[case[0] for case in CASES])
def test_the_gradient_in_a_corner_is_the_documented_one(
    function: Callable[..., bs.Tensor], inputs: list[Any], wanted: list[Any]
) -> None:
    leaves = [leaf(value) for value in inputs]
    found = bs.autograd.grad(function(*leaves), leaves, materialize_grads=True)
    for dx, expected in zip(found, wanted, strict=True):
        np.testing.assert_allclose(dx.numpy(), np.array(expected, dtype=np.float64), rtol=1e-12, atol=0)


# A function, and where it is singular.
SINGULAR: list[tuple[str, Callable[[bs.Tensor], bs.Tensor], float]] = [
    ("exp", lambda x: x.exp(), 1000.0),
    ("expm1", lambda x: x.expm1(), 1000.0),
    ("sqrt", lambda x: x.sqrt(), 0.0),
    ("sqrt below", lambda x: x.sqrt(), -1.0),
    ("rsqrt", lambda x: x.rsqrt(), 0.0),
    ("log", lambda x: x.log(), 0.0),
    ("log below", lambda x: x.log(), -1.0),
    ("log1p", lambda x: x.log1p(), -1.0),
    ("log2", lambda x: x.log2(), 0.0),
    ("log10", lambda x: x.log10(), 0.0),
    ("reciprocal", lambda x: x.reciprocal(), 0.0),
    ("division", lambda x: 1.0 / x, 0.0),
    ("zero by zero", lambda x: x / x.detach(), 0.0),
    ("power", lambda x: x**0.5, 0.0),
    ("negative power", lambda x: x**-1.0, 0.0),
    ("asin", lambda x: x.asin(), 1.0),
    ("acos", lambda x: x.acos(), 1.0),
    ("acosh", lambda x: x.acosh(), 1.0),
    ("atanh", lambda x: x.atanh(), 1.0),
    ("tan", lambda x: x.tan(), math.inf),
    ("sinh", lambda x: x.sinh(), 1000.0),
    ("cosh", lambda x: x.cosh(), 1000.0),
    ("logsumexp", lambda x: (x * bs.tensor([1.0, 1.0], dtype=bs.float64)).logsumexp(0), math.inf),
]


@pytest.mark.parametrize(("function", "at"), [case[1:] for case in SINGULAR], ids=[case[0] for case in SINGULAR])
def test_a_branch_that_is_not_taken_has_no_say(function: Callable[[bs.Tensor], bs.Tensor], at: float) -> None:
    x = leaf(at)
    y = bs.where(bs.tensor(False), function(x), x.detach() * 0 + 1.0)
    [dx] = bs.autograd.grad(y, [x])
    assert dx.item() == 0.0


@pytest.mark.parametrize(
    ("function", "at"),
    [
        (lambda x: x.norm(), [0.0, 0.0]),
        (lambda x: x.std(), [2.0, 2.0]),
        (lambda x: (x**2).sum(), [0.0, 0.0]),
        (lambda x: x.prod(), [0.0, 0.0, 3.0]),
        (lambda x: x.logsumexp(0), [1.0, 1.0]),
        (lambda x: x.abs().sum(), [0.0]),
        (lambda x: x.max() ** 2, [1.0, 1.0]),
    ],
    ids=["norm", "std", "square", "prod", "logsumexp", "abs", "max"],
)
def test_second_derivatives_in_corners_are_finite(function: Callable[[bs.Tensor], bs.Tensor], at: list[float]) -> None:
    x = leaf(at)
    [dx] = bs.autograd.grad(function(x), [x], create_graph=True)
    [second] = bs.autograd.grad(weighted(dx), [x], materialize_grads=True)
    assert np.isfinite(second.numpy()).all()


def test_the_second_derivative_of_a_product_sees_the_zeros() -> None:
    x = leaf([0.0, 0.0, 3.0])
    [dx] = bs.autograd.grad(x.prod(), [x], create_graph=True)
    # ∂²(abc)/∂a∂b = c: the row of a.
    [row] = bs.autograd.grad(dx[0], [x])
    assert row.tolist() == [0.0, 3.0, 0.0]


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (lambda: bs.zeros(0).sum(), 0.0),
        (lambda: bs.zeros(0).prod(), 1.0),
        (lambda: bs.zeros(0).mean(), NAN),
        (lambda: bs.zeros(0).logsumexp(0), -INF),
        (lambda: bs.zeros(0).norm(), 0.0),
        (lambda: bs.ones(1).var(), NAN),
        (lambda: bs.tensor([1.0, NAN, 3.0, NAN]).max(), NAN),
        (lambda: bs.tensor([1.0, NAN, 3.0, NAN]).argmax(), 1),
        (lambda: bs.tensor([1.0, NAN, 0.0]).argmin(), 1),
        (lambda: bs.tensor([2.0, 7.0, 7.0]).argmax(), 1),
        (lambda: bs.tensor([1.0, NAN, 3.0]).median(), NAN),
        (lambda: bs.tensor([1.0, NAN, 3.0]).nansum(), 4.0),
        (lambda: bs.tensor([1.0, NAN, 3.0]).nanmean(), 2.0),
        (lambda: bs.tensor([NAN, 1.0, INF]).sort().indices[0], 1),
        (lambda: bs.tensor([NAN, 1.0, INF]).sort().indices[2], 0),
        (lambda: bs.tensor([0.0, -0.0]).argsort()[0], 0),
        (lambda: (bs.tensor([1e6, 1e6 + 1, 1e6 + 2]).var()), 1.0),
        (lambda: bs.logsumexp(bs.tensor([INF, 1.0]), 0), INF),
    ],
)
def test_values_of_nothing_nan_and_ties(function: Callable[[], bs.Tensor], wanted: float) -> None:
    np.testing.assert_equal(float(function()), wanted)


@pytest.mark.parametrize(
    "function",
    [
        lambda: bs.zeros(0).max(),
        lambda: bs.zeros(2, 0).amax(1),
        lambda: bs.zeros(2, 0).argmax(1),
        lambda: bs.zeros(0).median(),
        lambda: bs.zeros(2, 0).max(1),
    ],
)
def test_there_is_no_extreme_of_nothing(function: Callable[[], Any]) -> None:
    with pytest.raises(bs.ShapeError, match=r"is empty|no elements|are needed"):
        function()


def nothing(*shape: int) -> bs.Tensor:
    return bs.zeros(*shape).requires_grad_()


@pytest.mark.parametrize("width", [1, 40, 1000])
@pytest.mark.parametrize(
    "function",
    [
        lambda w: nn.Linear(4, w)(nothing(0, 4)),
        lambda w: nn.Linear(w, 3)(nothing(2, 0, w)),
        lambda w: nothing(3, 0, 5) @ nothing(5, w),
        lambda w: nothing(3, w, 0) @ nothing(0, 7),
        lambda w: nn.Conv2d(3, w, 3, padding=1)(nothing(0, 3, 6, 6)),
        lambda w: nn.ConvTranspose2d(3, w, 3)(nothing(0, 3, 6, 6)),
        lambda w: nn.Conv1d(w, w, 3, groups=w)(nothing(0, w, 6)),
        lambda w: nn.LSTM(3, w, batch_first=True)(nothing(0, 4, 3))[0],
        lambda w: nn.GRU(w, 3, batch_first=True)(nothing(0, 4, w))[0],
        lambda w: nn.LayerNorm(w)(nothing(0, w)),
        lambda w: nn.BatchNorm2d(w).eval()(nothing(0, w, 3, 3)),
        lambda w: F.softmax(nothing(0, w), -1),
        lambda w: F.max_pool2d(nothing(0, w, 6, 6), 2),
        lambda w: F.scaled_dot_product_attention(*[nothing(0, 2, w, 8)] * 3),
        lambda w: nn.TransformerEncoderLayer(8, 2, w, batch_first=True)(nothing(0, 3, 8)),
        lambda w: F.embedding(bs.zeros(0, 3, dtype=bs.int64), nothing(5, w)),
        lambda w: nothing(0, w).cumsum(1),
        lambda w: nothing(0, w).sort(1)[0],
    ],
)
def test_an_empty_batch_goes_through_and_back(function: Callable[[int], bs.Tensor], width: int) -> None:
    y = function(width)
    y.sum().backward()
    assert y.sum().item() == 0.0


def test_log_softmax_beside_huge_numbers_keeps_its_logarithm() -> None:
    x = bs.tensor([1e30, 1e30, -1e30]).requires_grad_()
    y = F.log_softmax(x, 0)
    assert np.allclose(y.detach().numpy(), [-np.log(2), -np.log(2), -2e30], rtol=1e-6)
    y[0].backward()
    assert np.allclose(x.grad.numpy(), [0.5, -0.5, 0.0], atol=1e-6)
