"""Losses. Shapes must be equal: a loss that broadcast would be silently wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

from ... import _core, errors
from ..._core import Tensor, apply
from .distance import pairwise_distance


def _same_shape(op: str, input: Tensor, target: Tensor) -> None:
    given, wanted = input.shape, target.shape
    if given != wanted:
        alike = [n for n in given if n != 1] == [n for n in wanted if n != 1]
        hint = f" (help: target.reshape({', '.join(map(str, given))}))" if alike else ""
        raise errors.ShapeError(f"{op}: input {list(given)} and target {list(wanted)}; the shapes must be equal{hint}")


def _reduced(op: str, loss: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return apply("mean", loss)
    if reduction == "sum":
        return apply("sum", loss)
    if reduction == "none":
        return loss
    raise errors.ValueError(f"{op}: reduction is '{reduction}'; 'none', 'mean' or 'sum' is needed")


def _weighted_mean(op: str, loss: Tensor, weight: Tensor | None, reduction: str) -> Tensor:
    """As `_reduced`, each element counted by its weight."""
    if weight is None:
        return _reduced(op, loss, reduction)
    _same_shape(op, loss, weight)
    total = _reduced(op, loss * weight, "sum" if reduction == "mean" else reduction)
    return total / apply("sum", weight, (), False) if reduction == "mean" else total


def mse_loss(
    input: Tensor, target: Tensor, *, reduction: str = "mean", weight: Tensor | None = None
) -> Tensor:
    """Squared differences; the mean is by weight."""
    _same_shape("mse_loss", input, target)
    return _weighted_mean("mse_loss", apply("square", input - target), weight, reduction)


def l1_loss(
    input: Tensor, target: Tensor, *, reduction: str = "mean", weight: Tensor | None = None
) -> Tensor:
    """Absolute differences; the mean is by weight."""
    _same_shape("l1_loss", input, target)
    return _weighted_mean("l1_loss", apply("abs", input - target), weight, reduction)


def smooth_l1_loss(input: Tensor, target: Tensor, *, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """½d²/β within β, |d| - ½β beyond."""
    _same_shape("smooth_l1_loss", input, target)
    if beta < 0:
        raise errors.ValueError(f"smooth_l1_loss: beta is {beta}; zero or more is needed")
    loss = apply("abs", input - target) if beta == 0 else apply("smooth_l1", input, target, beta)
    return _reduced("smooth_l1_loss", loss, reduction)


def huber_loss(
    input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0, weight: Tensor | None = None
) -> Tensor:
    """½d² within δ, δ(|d| - ½δ) beyond; times weight, over whose sum the mean is not taken, as in PyTorch."""
    _same_shape("huber_loss", input, target)
    if delta <= 0:
        raise errors.ValueError(f"huber_loss: delta is {delta}; a number above zero is needed")
    loss = apply("huber", input, target, delta)
    if weight is not None:
        _same_shape("huber_loss", loss, weight)
        loss = loss * weight
    return _reduced("huber_loss", loss, reduction)


def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *, reduction: str = "mean"
) -> Tensor:
    """-t·ln x - (1-t)·ln(1-x), the logarithms no lower than -100."""
    _same_shape("binary_cross_entropy", input, target)
    log = apply("maximum", apply("log", input), -100.0)
    log_rest = apply("maximum", apply("log1p", -input), -100.0)
    loss = -(target * log + (1.0 - target) * log_rest)
    return _reduced("binary_cross_entropy", loss if weight is None else loss * weight, reduction)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of σ(x), from x itself."""
    _same_shape("binary_cross_entropy_with_logits", input, target)
    if pos_weight is None:
        loss = apply("bce_with_logits", input, target)
    else:
        loss = (1.0 - target) * input - (1.0 + (pos_weight - 1.0) * target) * apply("logsigmoid", input)
    return _reduced("binary_cross_entropy_with_logits", loss if weight is None else loss * weight, reduction)


def kl_div(input: Tensor, target: Tensor, *, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """t · (ln t - x), where x holds logarithms."""
    _same_shape("kl_div", input, target)
    loss = apply("exp", target) * (target - input) if log_target else apply("xlogy", target, target) - target * input
    if reduction == "batchmean":
        return apply("sum", loss, (), False) / input.shape[0]
    return _reduced("kl_div", loss, reduction)


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """-x of the target's class, weighted; input [n, c] or [n, c, ...] holds log-probabilities."""
    shape = target.shape
    if input.ndim == 1:
        input, target = input.unsqueeze(0), target.unsqueeze(0)
    rows = input.movedim(1, -1) if input.ndim > 2 else input
    if rows.shape[:-1] != target.shape:
        raise errors.ShapeError(
            f"nll_loss: input {list(input.shape)} with targets {list(target.shape)}; [n, c, ...] with [n, ...] is needed"
        )
    known = apply("ne", target, ignore_index)
    place = apply("where", known, target, 0)
    picked = apply("gather", rows, place.unsqueeze(-1), -1).squeeze(-1)
    scale = known.to(input.dtype)
    if weight is not None:
        scale = scale * apply("index_get", weight, place)
    loss = -picked * scale
    if reduction == "mean":
        return apply("sum", loss, (), False) / apply("sum", scale, (), False)
    return _reduced("nll_loss", apply("reshape", loss, shape), reduction)

def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-ln softmax(x) of the target's class, weighted; or against probabilities of the input's shape.

    Shapes: input [n, c] or [n, c, ...], target int64 [n] or [n, ...]
    Saves: the input, and one number a row.
    """
    if target.dtype.is_floating_point:
        _same_shape("cross_entropy", input, target)
        axis = min(1, input.ndim - 1)
        if label_smoothing:
            target = target * (1.0 - label_smoothing) + label_smoothing / input.shape[axis]
        loss = -apply("log_softmax", input, axis) * target
        if weight is not None:
            loss = loss * apply("reshape", weight, (-1,) + (1,) * (input.ndim - 2))
        loss = apply("sum", loss, (axis,), False)
        return _reduced("cross_entropy", loss, reduction)
    shape = target.shape
    if input.ndim == 1:
        input, target = input.unsqueeze(0), target.unsqueeze(0)
    if input.ndim > 2:
        input = input.movedim(1, -1)
        if input.shape[:-1] != shape:
            raise errors.ShapeError(
                f"cross_entropy: logits {list(input.shape)} (classes last) with targets {list(shape)}; "
                "[n, c, ...] with [n, ...] is needed"
            )
        input, target = apply("reshape", input, (-1, input.shape[-1])), apply("reshape", target, (-1,))
    given = () if weight is None else (weight,)
    loss = apply("cross_entropy", input, target, *given, ignore_index, label_smoothing)
    if reduction == "mean":
        known = apply("ne", target, ignore_index)
        scale = known.to(input.dtype)
        if weight is not None:
            scale = scale * apply("index_get", weight, apply("where", known, target, 0))
        return apply("sum", loss, (), False) / apply("sum", scale, (), False)
    if reduction == "none":
        return loss if loss.shape == shape else apply("reshape", loss, shape)
    return _reduced("cross_entropy", loss, reduction)


def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    *,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> Tensor:
    """eˣ - t·x for an x that holds logarithms, else x - t·ln(x + ε); full adds Stirling's term for targets above 1."""
    _same_shape("poisson_nll_loss", input, target)
    if log_input:
        loss = apply("exp", input) - target * input
    else:
        loss = input - target * apply("log", input + eps)
    if full:
        large = apply("maximum", target, 1.0)
        stirling = target * apply("log", large) - target + 0.5 * apply("log", 2.0 * math.pi * large)
        loss = loss + apply("where", apply("gt", target, 1.0), stirling, 0.0)
    return _reduced("poisson_nll_loss", loss, reduction)


def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """½(ln σ² + (x - t)²/σ²), the variance no less than ε; full adds ½ ln 2π.

    Shapes: var as input, or with a last dim of 1, or without the last dim
    """
    _same_shape("gaussian_nll_loss", input, target)
    if not isinstance(var, Tensor):
        var = _core.full(input.shape, float(var), input.dtype)
    if input.ndim and var.shape == input.shape[:-1]:
        var = var.unsqueeze(-1)
    if var.shape != input.shape and var.shape != (*input.shape[:-1], 1):
        raise errors.ShapeError(
            f"gaussian_nll_loss: var {list(var.shape)} for input {list(input.shape)}; "
            f"{list(input.shape)}, or the same with a last dim of 1 or without it, is needed"
        )
    if bool(apply("any", apply("lt", var.detach(), 0.0))):
        raise errors.ValueError("gaussian_nll_loss: some variance is negative; zero or more is needed")
    # The bound moves the value and leaves the gradient as it is.
    low = apply("lt", var, eps).detach()
    var = var + apply("where", low, apply("sub", eps, var.detach()), 0.0)
    loss = 0.5 * (apply("log", var) + apply("square", input - target) / var)
    if full:
        loss = loss + 0.5 * math.log(2.0 * math.pi)
    return _reduced("gaussian_nll_loss", loss, reduction)


def _hinge(x: Tensor) -> Tensor:
    """max(0, x) with slope 1 at 0, unlike relu: what is equal is driven apart."""
    return apply("clamp", x, 0.0, math.inf)


def soft_margin_loss(input: Tensor, target: Tensor, *, reduction: str = "mean") -> Tensor:
    """ln(1 + e^(-t·x)), targets 1 or -1."""
    _same_shape("soft_margin_loss", input, target)
    return _reduced("soft_margin_loss", -apply("logsigmoid", target * input), reduction)


def hinge_embedding_loss(
    input: Tensor, target: Tensor, margin: float = 1.0, *, reduction: str = "mean"
) -> Tensor:
    """x where the target is 1, max(0, margin - x) where it is -1."""
    _same_shape("hinge_embedding_loss", input, target)
    near = apply("where", apply("ne", target, -1), input, 0.0)
    far = apply("where", apply("ne", target, 1), _hinge(margin - input), 0.0)
    return _reduced("hinge_embedding_loss", near + far, reduction)


def margin_ranking_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, *, reduction: str = "mean"
) -> Tensor:
    """max(0, margin - t·(x1 - x2)), targets 1 or -1."""
    _same_shape("margin_ranking_loss", input1, input2)
    _same_shape("margin_ranking_loss", input1, target)
    return _reduced("margin_ranking_loss", _hinge(margin - target * (input1 - input2)), reduction)


def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, *, reduction: str = "mean"
) -> Tensor:
    """1 - cos where the target is 1, max(0, cos - margin) where it is -1.

    Shapes: inputs [n, d] with target [n], or [d] with []
    """
    _same_shape("cosine_embedding_loss", input1, input2)
    if target.shape != input1.shape[:-1] or input1.ndim not in (1, 2):
        raise errors.ShapeError(
            f"cosine_embedding_loss: inputs {list(input1.shape)} with targets {list(target.shape)}; "
            "[n, d] with [n], or [d] with [], is needed"
        )
    # Squares are moved off 0 as in PyTorch, so that the root has a slope there.
    squares = [apply("sum", apply("square", x), -1, False) + 1e-12 for x in (input1, input2)]
    cosine = apply("sum", input1 * input2, -1, False) / apply("sqrt", squares[0] * squares[1])
    near = apply("where", apply("eq", target, 1), 1.0 - cosine, 0.0)
    far = apply("where", apply("eq", target, -1), _hinge(cosine - margin), 0.0)
    return _reduced("cosine_embedding_loss", near + far, reduction)


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2,
    eps: float = 1e-6,
    swap: bool = False,
    *,
    reduction: str = "mean",
) -> Tensor:
    """max(0, |anchor - positive| - |anchor - negative| + margin); swap may measure the negative from the positive."""
    _same_shape("triplet_margin_loss", anchor, positive)
    _same_shape("triplet_margin_loss", anchor, negative)
    if margin <= 0:
        raise errors.ValueError(f"triplet_margin_loss: margin is {margin}; a number above zero is needed")
    near, far = pairwise_distance(anchor, positive, p, eps), pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = apply("minimum", far, pairwise_distance(positive, negative, p, eps))
    return _reduced("triplet_margin_loss", _hinge(near - far + margin), reduction)


def triplet_margin_with_distance_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    *,
    distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
    margin: float = 1.0,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """`triplet_margin_loss` with a distance of one's own."""
    distance = pairwise_distance if distance_function is None else distance_function
    near, far = distance(anchor, positive), distance(anchor, negative)
    if swap:
        far = apply("minimum", far, distance(positive, negative))
    return _reduced("triplet_margin_with_distance_loss", _hinge(near - far + margin), reduction)


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    *,
    reduction: str = "mean",
) -> Tensor:
    """The mean over the other classes of max(0, margin - x_target + x)ᵖ.

    Shapes: input [n, c] with target int64 [n], or [c] with []
    """
    x, t = (input.unsqueeze(0), target.unsqueeze(0)) if input.ndim == 1 else (input, target)
    if x.ndim != 2 or t.shape != x.shape[:1]:
        raise errors.ShapeError(
            f"multi_margin_loss: input {list(input.shape)} with targets {list(target.shape)}; "
            "[n, c] with [n], or [c] with [], is needed"
        )
    places = t.unsqueeze(1)
    gap = _hinge(margin - apply("gather", x, places, 1) + x)
    if p == 2:
        gap = apply("square", gap)
    elif p != 1:
        raise errors.ValueError(f"multi_margin_loss: p is {p}; 1 or 2 is needed")
    if weight is not None:
        gap = gap * apply("index_get", weight, t).unsqueeze(1)
    others = apply("scatter", gap, places, gap.detach() * 0, 1)
    loss = apply("sum", others, 1, False) / x.shape[1]
    return _reduced("multi_margin_loss", loss.squeeze(0) if input.ndim == 1 else loss, reduction)


def multilabel_soft_margin_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, *, reduction: str = "mean"
) -> Tensor:
    """The mean over the last dim of the binary cross-entropies of σ(x)."""
    _same_shape("multilabel_soft_margin_loss", input, target)
    loss = apply("bce_with_logits", input, target)
    loss = loss if weight is None else loss * weight
    return _reduced("multilabel_soft_margin_loss", apply("mean", loss, -1, False), reduction)
