"""Embedding: rows of a table, looked up by number."""

from __future__ import annotations

from typing import Any, Self

import backsweep as bs

from .. import errors
from .._core import Tensor
from . import functional as F
from . import init
from .module import Module, Parameter


class Embedding(Module):
    """Look up rows of a table; the row padding_idx starts at zero and gets no gradient.

    Shapes: indices [...] → [..., embedding_dim]; weight [num_embeddings, embedding_dim]
    Example:
        >>> nn.Embedding(10, 3)(bs.tensor([1, 2, 4])).shape
        (3, 3)
    """

    weight: Parameter

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        """Draw the table from N(0, 1)."""
        super().__init__()
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise errors.ValueError(
                    f"Embedding: padding_idx {padding_idx} is out of range for {num_embeddings} rows; "
                    f"valid rows are {-num_embeddings} to {num_embeddings - 1}"
                )
            padding_idx %= num_embeddings
        self.num_embeddings = num_embeddings
        self.embedding_dim = embedding_dim
        self.padding_idx = padding_idx
        self.weight = Parameter(bs.empty(num_embeddings, embedding_dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the table anew."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            with bs.no_grad():
                self.weight[self.padding_idx].fill_(0.0)

    @classmethod
    def from_pretrained(cls, embeddings: Tensor, freeze: bool = True, padding_idx: int | None = None) -> Self:
        """Take the table from a matrix, frozen unless asked otherwise; it shares the memory of the matrix."""
        if embeddings.ndim != 2:
            raise errors.ShapeError(
                f"from_pretrained: shape {list(embeddings.shape)} is no table; 2 axes are needed"
            )
        rows, columns = embeddings.shape
        embedding = cls(0, columns)
        embedding.num_embeddings = rows
        embedding.padding_idx = None if padding_idx is None else padding_idx % rows
        embedding.weight = Parameter(embeddings, requires_grad=not freeze)
        return embedding

    def forward(self, input: Tensor) -> Tensor:
        """Look up the rows."""
        return F.embedding(input, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        """Say the sizes."""
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"
