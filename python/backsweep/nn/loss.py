"""Losses as modules; each calls the function of the same name in `functional`.

A loss that compares element by element refuses to broadcast: a target of shape [n] against an output of shape
[n, 1] would train on all n² pairs, in silence.
"""

from __future__ import annotations

from collections.abc import Callable

from .. import errors
from .._core import Tensor
from . import functional as F
from .module import Module


class _Loss(Module):
    reduction: str

    def __init__(self, *, reduction: str = "mean") -> None:
        """Reduce by "mean" or "sum", or not at all: "none"."""
        super().__init__()
        if reduction not in ("mean", "sum", "none"):
            raise errors.ValueError(
                f"{type(self).__name__}: reduction {reduction!r} is unknown; mean, sum or none is needed"
            )
        self.reduction = reduction


class _WeightedLoss(_Loss):
    weight: Tensor | None

    def __init__(self, weight: Tensor | None = None, *, reduction: str = "mean") -> None:
        """Keep the weights as a buffer."""
        super().__init__(reduction=reduction)
        self.register_buffer("weight", weight)


class L1Loss(_Loss):
    """|input - target|.

    Raises: ShapeError if the shapes differ
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compare element by element."""
        return F.l1_loss(input, target, reduction=self.reduction)


class MSELoss(_Loss):
    """(input - target)².

    Raises: ShapeError if the shapes differ
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compare element by element."""
        return F.mse_loss(input, target, reduction=self.reduction)


class SmoothL1Loss(_Loss):
    """Squared below beta, linear above.   Girshick 2015, arXiv:1504.08083

    Raises: ShapeError if the shapes differ
    """

    def __init__(self, *, reduction: str = "mean", beta: float = 1.0) -> None:
        """Keep the place where the square ends."""
        super().__init__(reduction=reduction)
        self.beta = beta

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compare element by element."""
        return F.smooth_l1_loss(input, target, reduction=self.reduction, beta=self.beta)


class HuberLoss(_Loss):
    """Squared below delta, linear above with slope delta.   Huber 1964

    Raises: ShapeError if the shapes differ
    """

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        """Keep the place where the square ends."""
        super().__init__(reduction=reduction)
        self.delta = delta

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compare element by element."""
        return F.huber_loss(input, target, reduction=self.reduction, delta=self.delta)


class CrossEntropyLoss(_WeightedLoss):
    """-log softmax(input) at the target's class, or the mean of it over a target of probabilities.

    Shapes: input [n, c, ...], target [n, ...] of classes or [n, c, ...] of probabilities; or [c] and []
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        """Keep the weights of the classes, the class to leave out, and the share of uniform probability."""
        super().__init__(weight, reduction=reduction)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compare logits with classes or probabilities."""
        return F.cross_entropy(
            input,
            target,
            weight=self.weight,
            ignore_index=self.ignore_index,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )


class NLLLoss(_WeightedLoss):
    """-input at the target's class, for an input of log-probabilities.

    Shapes: input [n, c, ...], target [n, ...]; or [c] and []
    """

    def __init__(
        self, weight: Tensor | None = None, *, ignore_index: int = -100, reduction: str = "mean"
    ) -> None:
        """Keep the weights of the classes, and the class to leave out."""
        super().__init__(weight, reduction=reduction)
        self.ignore_index = ignore_index

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compare log-probabilities with classes."""
        return F.nll_loss(
            input, target, weight=self.weight, ignore_index=self.ignore_index, reduction=self.reduction
        )


class BCELoss(_WeightedLoss):
    """Binary cross-entropy of probabilities; BCEWithLogitsLoss is more exact.

    Raises: ShapeError if the shapes differ
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compare element by element."""
        return F.binary_cross_entropy(input, target, weight=self.weight, reduction=self.reduction)


class BCEWithLogitsLoss(_WeightedLoss):
    """Binary cross-entropy of sigmoid(input), without the loss of digits.

    Raises: ShapeError if the shapes differ
    """

    pos_weight: Tensor | None

    def __init__(
        self, weight: Tensor | None = None, *, reduction: str = "mean", pos_weight: Tensor | None = None
    ) -> None:
        """Keep the weights of elements, and of positive examples."""
        super().__init__(weight, reduction=reduction)
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compare element by element."""
        return F.binary_cross_entropy_with_logits(
            input, target, weight=self.weight, reduction=self.reduction, pos_weight=self.pos_weight
        )


class KLDivLoss(_Loss):
    """target·(log target - input), for an input of log-probabilities; "batchmean" is the divergence itself.

    Raises: ShapeError if the shapes differ
    """

    def __init__(self, *, reduction: str = "mean", log_target: bool = False) -> None:
        """Take the target as probabilities, or as their logarithms."""
        super().__init__(reduction="mean" if reduction == "batchmean" else reduction)
        self.reduction = reduction
        self.log_target = log_target

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compare element by element."""
        return F.kl_div(input, target, reduction=self.reduction, log_target=self.log_target)


class PoissonNLLLoss(_Loss):
    """exp(input) - target·input, or input - target·log(input) without log_input.

    Raises: ShapeError if the shapes differ
    """

    def __init__(
        self, log_input: bool = True, full: bool = False, *, eps: float = 1e-8, reduction: str = "mean"
    ) -> None:
        """Take the logarithm of the rate, or the rate; full adds Stirling's term."""
        super().__init__(reduction=reduction)
        self.log_input = log_input
        self.full = full
        self.eps = eps

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compare element by element."""
        return F.poisson_nll_loss(
            input, target, log_input=self.log_input, full=self.full, eps=self.eps, reduction=self.reduction
        )


class GaussianNLLLoss(_Loss):
    """(log var + (input - target)² / var) / 2.

    Raises: ShapeError if the shapes of input and target differ
    """

    def __init__(self, *, full: bool = False, eps: float = 1e-6, reduction: str = "mean") -> None:
        """Add the constant term if full is set; eps is the least variance."""
        super().__init__(reduction=reduction)
        self.full = full
        self.eps = eps

    def forward(self, input: Tensor, target: Tensor, var: Tensor) -> Tensor:
        """Compare element by element."""
        return F.gaussian_nll_loss(input, target, var, full=self.full, eps=self.eps, reduction=self.reduction)


class SoftMarginLoss(_Loss):
    """log(1 + exp(-target·input)), target 1 or -1.

    Raises: ShapeError if the shapes differ
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compare element by element."""
        return F.soft_margin_loss(input, target, reduction=self.reduction)


class HingeEmbeddingLoss(_Loss):
    """input where target is 1, max(0, margin - input) where it is -1.

    Raises: ShapeError if the shapes differ
    """

    def __init__(self, margin: float = 1.0, *, reduction: str = "mean") -> None:
        """Keep the margin."""
        super().__init__(reduction=reduction)
        self.margin = margin

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compare element by element."""
        return F.hinge_embedding_loss(input, target, margin=self.margin, reduction=self.reduction)


class MarginRankingLoss(_Loss):
    """max(0, margin - target·(input1 - input2)).

    Raises: ShapeError if the shapes differ
    """

    def __init__(self, margin: float = 0.0, *, reduction: str = "mean") -> None:
        """Keep the margin."""
        super().__init__(reduction=reduction)
        self.margin = margin

    def forward(self, input1: Tensor, input2: Tensor, target: Tensor) -> Tensor:
        """Compare element by element."""
        return F.margin_ranking_loss(input1, input2, target, margin=self.margin, reduction=self.reduction)


class CosineEmbeddingLoss(_Loss):
    """1 - cos(input1, input2) where target is 1, max(0, cos - margin) where it is -1.

    Shapes: input1 and input2 [n, d], target [n]; or [d] and []
    """

    def __init__(self, margin: float = 0.0, *, reduction: str = "mean") -> None:
        """Keep the margin."""
        super().__init__(reduction=reduction)
        self.margin = margin

    def forward(self, input1: Tensor, input2: Tensor, target: Tensor) -> Tensor:
        """Compare row by row."""
        return F.cosine_embedding_loss(input1, input2, target, margin=self.margin, reduction=self.reduction)


class TripletMarginLoss(_Loss):
    """max(0, |anchor - positive| - |anchor - negative| + margin).   Balntas et al. 2016

    Shapes: three times [n, d], or [d]
    """

    def __init__(
        self,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        *,
        reduction: str = "mean",
    ) -> None:
        """Keep the margin and the norm; swap takes the nearer of anchor and positive to the negative."""
        super().__init__(reduction=reduction)
        self.margin = margin
        self.p = p
        self.eps = eps
        self.swap = swap

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Compare row by row."""
        return F.triplet_margin_loss(
            anchor,
            positive,
            negative,
            margin=self.margin,
            p=self.p,
            eps=self.eps,
            swap=self.swap,
            reduction=self.reduction,
        )


class TripletMarginWithDistanceLoss(_Loss):
    """`TripletMarginLoss` with a distance of one's own, which takes two tensors."""

    def __init__(
        self,
        *,
        distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
        margin: float = 1.0,
        swap: bool = False,
        reduction: str = "mean",
    ) -> None:
        """Keep the distance and the margin."""
        super().__init__(reduction=reduction)
        self.distance_function = distance_function
        self.margin = margin
        self.swap = swap

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Compare row by row."""
        return F.triplet_margin_with_distance_loss(
            anchor,
            positive,
            negative,
            distance_function=self.distance_function,
            margin=self.margin,
            swap=self.swap,
            reduction=self.reduction,
        )


class MultiMarginLoss(_WeightedLoss):
    """The mean over the other classes of max(0, margin - x_target + x)ᵖ.

    Shapes: input [n, c], target [n]; or [c] and []
    """

    def __init__(
        self, p: int = 1, margin: float = 1.0, weight: Tensor | None = None, *, reduction: str = "mean"
    ) -> None:
        """Keep the power, 1 or 2, and the margin."""
        super().__init__(weight, reduction=reduction)
        self.p = p
        self.margin = margin

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compare scores with classes."""
        return F.multi_margin_loss(input, target, self.p, self.margin, self.weight, reduction=self.reduction)


class MultiLabelSoftMarginLoss(_WeightedLoss):
    """The mean over classes of the binary cross-entropies of σ(x).

    Raises: ShapeError if the shapes differ
    """

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """Compare element by element."""
        return F.multilabel_soft_margin_loss(input, target, self.weight, reduction=self.reduction)


class CosineSimilarity(Module):
    """The cosine of the angle between vectors along a dim."""

    def __init__(self, dim: int = 1, eps: float = 1e-8) -> None:
        """Keep the dim, and the least length."""
        super().__init__()
        self.dim = dim
        self.eps = eps

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Compare vectors."""
        return F.cosine_similarity(x1, x2, self.dim, self.eps)


class PairwiseDistance(Module):
    """The p-norm of x1 - x2 + eps along the last dim."""

    def __init__(self, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> None:
        """Keep the norm."""
        super().__init__()
        self.p = p
        self.eps = eps
        self.keepdim = keepdim

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Compare vectors."""
        return F.pairwise_distance(x1, x2, self.p, self.eps, self.keepdim)
