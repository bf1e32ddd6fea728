"""Functions of layers and losses, under PyTorch's names, order and defaults."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from .. import _core, errors
from .._core import Tensor, apply
from ..creation import ones
from ..dtypes import finfo
from ..indexing import as_index
from ..reduction import norm
from ..types import DType
from ._convolution import (
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)
from ._normalisation import batch_norm, group_norm, instance_norm
from ._padding import pad
from ._pooling import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_avg_pool3d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    avg_pool1d,
    avg_pool2d,
    avg_pool3d,
    max_pool1d,
    max_pool2d,
    max_pool3d,
)

__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d",
    "alpha_dropout", "avg_pool1d", "avg_pool2d", "avg_pool3d", "batch_norm", "binary_cross_entropy",
    "binary_cross_entropy_with_logits", "celu", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
    "conv_transpose3d", "cosine_embedding_loss", "cosine_similarity", "cross_entropy", "dropout", "dropout1d",
    "dropout2d", "dropout3d", "elu", "embedding", "gaussian_nll_loss", "gelu", "glu", "group_norm", "hardshrink",
    "hardsigmoid", "hardswish", "hardtanh", "hinge_embedding_loss", "huber_loss", "instance_norm", "kl_div", "l1_loss",
    "layer_norm", "leaky_relu", "linear", "log_softmax", "logsigmoid", "margin_ranking_loss", "max_pool1d",
    "max_pool2d", "max_pool3d", "mish", "mse_loss", "multi_margin_loss", "multilabel_soft_margin_loss", "nll_loss",
    "normalize", "one_hot", "pad", "pairwise_distance", "pdist", "poisson_nll_loss", "prelu", "relu", "relu6",
    "rms_norm", "scaled_dot_product_attention", "selu", "sigmoid", "silu", "smooth_l1_loss", "soft_margin_loss",
    "softmax", "softmin", "softplus", "softshrink", "softsign", "tanh", "tanhshrink", "threshold",
    "triplet_margin_loss", "triplet_margin_with_distance_loss",
]  # fmt: skip

# Activations


def _put(input: Tensor, value: Tensor, inplace: bool) -> Tensor:
    """With inplace, the value written into the input's memory."""
    return input.copy_(value) if inplace else value


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0). Saves: one bit an element."""
    return _put(input, apply("relu", input), inplace)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    """x between 0 and 6."""
    return hardtanh(input, 0.0, 6.0, inplace)


def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """x between two bounds."""
    return _put(input, apply("clamp", input, min_val, max_val), inplace)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where positive, a fraction of it elsewhere."""
    return _put(input, apply("leaky_relu", input, negative_slope), inplace)


def prelu(input: Tensor, weight: Tensor) -> Tensor:
    """A leaky ReLU with a learned slope, one or one a channel."""
    if weight.numel() > 1 and input.ndim > 2:
        weight = apply("reshape", weight, (-1,) + (1,) * (input.ndim - 2))
    return apply("prelu", input, weight)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where positive, α(eˣ - 1) elsewhere."""
    return _put(input, apply("elu", input, alpha, 1.0), inplace)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    """ELU with the constants that keep a network's activations normal."""
    return _put(input, apply("elu", input, 1.6732632423543772, 1.0507009873554805), inplace)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where positive, α(e^(x/α) - 1) elsewhere."""
    return _put(input, apply("celu", input, alpha), inplace)


def gelu(input: Tensor, approximate: str = "none") -> Tensor:
    """x · Φ(x), or its tanh form. Saves: the input."""
    if approximate not in ("none", "tanh"):
        raise errors.ValueError(f"gelu: approximate is '{approximate}'; 'none' or 'tanh' is needed")
    return apply("gelu" if approximate == "none" else "gelu_tanh", input)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    """x · σ(x). Saves: the input."""
    return _put(input, apply("silu", input), inplace)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    """x · tanh(softplus(x))."""
    return _put(input, apply("mish", input), inplace)


def softplus(input: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """ln(1 + e^(βx)) / β, and x itself beyond the threshold."""
    return apply("softplus", input, beta, threshold)


def sigmoid(input: Tensor) -> Tensor:
    """1 / (1 + e⁻ˣ). Saves: the output."""
    return apply("sigmoid", input)


def tanh(input: Tensor) -> Tensor:
    """The hyperbolic tangent. Saves: the output."""
    return apply("tanh", input)


def logsigmoid(input: Tensor) -> Tensor:
    """ln σ(x)."""
    return apply("logsigmoid", input)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    """(x + 3) / 6 between 0 and 1."""
    return _put(input, apply("hardsigmoid", input), inplace)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    """x · hardsigmoid(x)."""
    return _put(input, apply("hardswish", input), inplace)


def hardshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x beyond ±λ, 0 within."""
    return apply("hardshrink", input, lambd)


def softshrink(input: Tensor, lambd: float = 0.5) -> Tensor:
    """x moved towards 0 by λ."""
    return apply("softshrink", input, lambd)


def softsign(input: Tensor) -> Tensor:
    """x / (1 + |x|)."""
    return apply("softsign", input)


def tanhshrink(input: Tensor) -> Tensor:
    """x - tanh(x)."""
    return input - apply("tanh", input)


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """x above the threshold, `value` elsewhere."""
    return _put(input, apply("threshold", input, threshold, value), inplace)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """One half times the sigmoid of the other."""
    size = input.shape[dim]
    if size % 2:
        raise errors.ShapeError(f"glu: size {size} of dim {dim} of {list(input.shape)}; an even size is needed")
    a, b = input.chunk(2, dim)
    return a * apply("sigmoid", b)


def softmax(input: Tensor, dim: int, dtype: DType | None = None) -> Tensor:
    """eˣ over its sum along a dim. Saves: the output."""
    return apply("softmax", input if dtype is None else input.to(dtype), dim)


def softmin(input: Tensor, dim: int) -> Tensor:
    """softmax(-x)."""
    return apply("softmax", -input, dim)


def log_softmax(input: Tensor, dim: int, dtype: DType | None = None) -> Tensor:
    """ln softmax(x) along a dim. Saves: the output."""
    return apply("log_softmax", input if dtype is None else input.to(dtype), dim)


# Layers


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x · Wᵀ + b.

    Shapes: input [..., in], weight [out, in], bias [out] → [..., out]
    """
    return apply("linear", input, weight) if bias is None else apply("linear", input, weight, bias)


def embedding(input: Tensor, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """Rows of the weight; the row `padding_idx` gets no gradient.

    Shapes: input int64 [...], weight [n, width] → [..., width]
    Saves: the indices
    """
    return apply("embedding", weight, as_index("embedding", input), padding_idx)


def one_hot(tensor: Tensor, num_classes: int = -1) -> Tensor:
    """int64 rows with a 1 at the class; without num_classes, as many as the largest class needs."""
    if num_classes < 0 and not tensor.numel():
        raise errors.ValueError("one_hot: num_classes is -1 and there are no classes; give num_classes")
    classes = num_classes if num_classes >= 0 else max(0, int(tensor.amax().item())) + 1
    return apply("one_hot", as_index("one_hot", tensor), classes)


def normalize(input: Tensor, p: float = 2.0, dim: int | Sequence[int] = 1, eps: float = 1e-12) -> Tensor:
    """Divide by the p-norm along a dim, or by eps where the norm is less: the slope at 0 is then 1 / eps."""
    size = apply("clamp", norm(input, p, dim, True), eps, math.inf)
    return apply("div", input, size)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """The cosine of the angle between vectors along a dim; inputs broadcast."""
    sizes = [apply("clamp", norm(x, 2.0, dim, True), eps, math.inf) for x in (x1, x2)]
    return apply("sum", apply("mul", apply("div", x1, sizes[0]), apply("div", x2, sizes[1])), dim, False)


def pairwise_distance(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    """The p-norm of x1 - x2 + eps along the last dim."""
    return norm(apply("add", apply("sub", x1, x2), eps), p, -1, keepdim)


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Each element 0 with probability p, the others scaled to keep the mean. Saves: nothing."""
    if not 0.0 <= p <= 1.0:
        raise errors.ValueError(f"dropout: p is {p}; a probability from 0 to 1 is needed")
    if not training or p == 0.0:
        return input
    return _put(input, apply("dropout", input, p, *_core.next_stream(input.numel())), inplace)


def _channel_dropout(op: str, input: Tensor, p: float, training: bool, inplace: bool, unbatched: int) -> Tensor:
    if input.ndim < 2:
        raise errors.ShapeError(f"{op}: input {list(input.shape)}; [n, c, ...] or [c, ...] is needed")
    lead = 1 if input.ndim == unbatched else 2
    drawn = dropout(ones((*input.shape[:lead], *(1,) * (input.ndim - lead)), dtype=input.dtype), p, training)
    return _put(input, input * drawn, inplace) if training and p else input


def dropout1d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Dropout of whole channels of [n, c, l] or [c, l]."""
    return _channel_dropout("dropout1d", input, p, training, inplace, 2)


def dropout2d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Dropout of whole channels of [n, c, h, w]."""
    return _channel_dropout("dropout2d", input, p, training, inplace, 0)


def dropout3d(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Dropout of whole channels of [n, c, d, h, w] or [c, d, h, w]."""
    return _channel_dropout("dropout3d", input, p, training, inplace, 4)


def alpha_dropout(input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """Dropout to SELU's lower bound, moved and scaled so that mean 0 and variance 1 stay."""
    if not training or p == 0.0:
        return input
    low = -1.7580993408473766
    kept = apply("ne", dropout(ones(input.shape, dtype=input.dtype), p), 0.0)
    scale = 0.0 if p == 1.0 else ((1.0 - p) * (1.0 + p * low * low)) ** -0.5
    return _put(input, apply("where", kept, input, low) * scale - scale * low * p, inplace)


def layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise the last dims, then scale and shift.

    Saves: the input, and two numbers a row.
    """
    shape = tuple(normalized_shape)
    if input.shape[input.ndim - len(shape) :] != shape or not shape:
        raise errors.ShapeError(
            f"layer_norm: normalized_shape {list(shape)} for input {list(input.shape)}; its last dims are needed"
        )
    given = [t for t in (weight, bias) if t is not None]
    return apply("layer_norm", input, *given, len(shape), eps, weight is not None, bias is not None)


def rms_norm(
    input: Tensor, normalized_shape: Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """Divide by the root of the mean square of the last dims, then scale."""
    dims = tuple(range(-len(tuple(normalized_shape)), 0))
    eps = finfo(input.dtype).eps if eps is None else eps
    scaled = input * apply("rsqrt", apply("mean", input * input, dims, True) + eps)
    return scaled if weight is None else scaled * weight


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(q · kᵀ · scale + mask) · v in blocks; a row that is masked as a whole gives 0.

    A boolean mask is True where a key counts, a float mask is added; both broadcast to [..., t, s]. enable_gqa lets
    several heads of the query share one of key and value. Only a mask that needs a gradient makes [..., t, s] exist.
    Shapes: query [..., t, d], key [..., s, d], value [..., s, e] → [..., t, e]
    Saves: the operands, the output, and one number a row
    """
    if is_causal and attn_mask is not None:
        raise errors.ValueError(
            "scaled_dot_product_attention: is_causal and attn_mask are both given; one of them is possible"
        )
    if attn_mask is not None and attn_mask.ndim == 1:
        attn_mask = attn_mask.unsqueeze(0)
    if enable_gqa and query.ndim > 2 and query.shape[-3] != key.shape[-3]:
        heads, groups = query.shape[-3], key.shape[-3]
        if not groups or heads % groups or value.shape[-3] != groups:
            raise errors.ShapeError(
                f"scaled_dot_product_attention: {heads} heads of the query with {groups} of the key and "
                f"{value.shape[-3]} of the value; equal numbers that divide the query's are needed"
            )
        if attn_mask is not None and attn_mask.ndim > 2:
            own = attn_mask.shape[-3]
            attn_mask = attn_mask.unsqueeze(-3) if own == 1 else attn_mask.unflatten(-3, (groups, -1))
        grouped = query.unflatten(-3, (groups, -1))
        y = scaled_dot_product_attention(
            grouped, key.unsqueeze(-3), value.unsqueeze(-3), attn_mask, dropout_p, is_causal, scale=scale
        )
        return y.flatten(-4, -3)
    given = (query, key, value) if attn_mask is None else (query, key, value, attn_mask)
    if dropout_p == 0.0:
        return apply("attention", *given, is_causal, scale)
    lead = [1] * max(t.ndim - 2 for t in given)
    for t in given:
        for i, size in enumerate(reversed(t.shape[:-2])):
            lead[i] = size if lead[i] == 1 else lead[i]
    draws = math.prod(lead) * query.shape[-2] * key.shape[-2]
    return apply("attention", *given, is_causal, scale, dropout_p, *_core.next_stream(draws))


# Losses


def _same_shape(op: str, input: Tensor, target: Tensor) -> None:
    if input.shape != target.shape:
        raise errors.ShapeError(
            f"{op}: input {list(input.shape)} and target {list(target.shape)}; the shapes must be equal (help: reshape one)"
        )


def _reduced(op: str, loss: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return apply("mean", loss, (), False)
    if reduction == "sum":
        return apply("sum", loss, (), False)
    if reduction == "none":
        return loss
    raise errors.ValueError(f"{op}: reduction is '{reduction}'; 'none', 'mean' or 'sum' is needed")


def mse_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Squared differences."""
    _same_shape("mse_loss", input, target)
    return _reduced("mse_loss", apply("square", input - target), reduction)


def l1_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """Absolute differences."""
    _same_shape("l1_loss", input, target)
    return _reduced("l1_loss", apply("abs", input - target), reduction)


def smooth_l1_loss(input: Tensor, target: Tensor, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """½d²/β within β, |d| - ½β beyond."""
    _same_shape("smooth_l1_loss", input, target)
    if beta < 0:
        raise errors.ValueError(f"smooth_l1_loss: beta is {beta}; zero or more is needed")
    loss = apply("abs", input - target) if beta == 0 else apply("smooth_l1", input, target, beta)
    return _reduced("smooth_l1_loss", loss, reduction)


def huber_loss(input: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """½d² within δ, δ(|d| - ½δ) beyond."""
    _same_shape("huber_loss", input, target)
    if delta <= 0:
        raise errors.ValueError(f"huber_loss: delta is {delta}; a number above zero is needed")
    return _reduced("huber_loss", apply("huber", input, target, delta), reduction)


def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean"
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


def kl_div(input: Tensor, target: Tensor, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """t · (ln t - x), where x holds logarithms."""
    _same_shape("kl_div", input, target)
    loss = apply("exp", target) * (target - input) if log_target else apply("xlogy", target, target) - target * input
    if reduction == "batchmean":
        return apply("sum", loss, (), False) / input.shape[0]
    return _reduced("kl_div", loss, reduction)


def nll_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """-x of the target's class, weighted; input [n, c] or [n, c, ...] holds log-probabilities."""
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
    return _reduced("nll_loss", loss, reduction)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
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
        if label_smoothing:
            target = target * (1.0 - label_smoothing) + label_smoothing / input.shape[1]
        loss = -apply("log_softmax", input, min(1, input.ndim - 1)) * target
        if weight is not None:
            loss = loss * apply("reshape", weight, (-1,) + (1,) * (input.ndim - 2))
        loss = apply("sum", loss, (min(1, input.ndim - 1),), False)
        return _reduced("cross_entropy", loss, reduction)
    if input.ndim == 1:
        input, target = input.unsqueeze(0), target.unsqueeze(0)
    shape = target.shape
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
        return loss if len(shape) == 1 else apply("reshape", loss, shape)
    return _reduced("cross_entropy", loss, reduction)


def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
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


def soft_margin_loss(input: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """ln(1 + e^(-t·x)), targets 1 or -1."""
    _same_shape("soft_margin_loss", input, target)
    return _reduced("soft_margin_loss", -apply("logsigmoid", target * input), reduction)


def hinge_embedding_loss(input: Tensor, target: Tensor, margin: float = 1.0, reduction: str = "mean") -> Tensor:
    """x where the target is 1, max(0, margin - x) where it is -1."""
    _same_shape("hinge_embedding_loss", input, target)
    near = apply("where", apply("ne", target, -1), input, 0.0)
    far = apply("where", apply("ne", target, 1), _hinge(margin - input), 0.0)
    return _reduced("hinge_embedding_loss", near + far, reduction)


def margin_ranking_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """max(0, margin - t·(x1 - x2)), targets 1 or -1."""
    _same_shape("margin_ranking_loss", input1, input2)
    _same_shape("margin_ranking_loss", input1, target)
    return _reduced("margin_ranking_loss", _hinge(margin - target * (input1 - input2)), reduction)


def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, reduction: str = "mean"
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
    input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """The mean over the last dim of the binary cross-entropies of σ(x)."""
    _same_shape("multilabel_soft_margin_loss", input, target)
    loss = apply("bce_with_logits", input, target)
    loss = loss if weight is None else loss * weight
    return _reduced("multilabel_soft_margin_loss", apply("mean", loss, -1, False), reduction)


def pdist(input: Tensor, p: float = 2.0) -> Tensor:
    """The p-norm distances of all pairs of rows: [n, d] → [n (n - 1) / 2]."""
    if input.ndim != 2:
        raise errors.ShapeError(f"pdist: {list(input.shape)} has {input.ndim} dims; 2 are needed")
    from ..creation import triu_indices

    first, second = triu_indices(input.shape[0], input.shape[0], 1).unbind(0)
    return norm(apply("index_get", input, first) - apply("index_get", input, second), p, -1)
