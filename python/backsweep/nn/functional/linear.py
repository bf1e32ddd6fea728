"""Linear maps, and rows looked up by number."""

from __future__ import annotations

from ... import errors
from ..._core import Tensor, apply
from ...indexing import as_index


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x · Wᵀ + b.

    Shapes: input [..., in], weight [out, in], bias [out] → [..., out]
    """
    return apply("linear", input, weight, bias)


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
