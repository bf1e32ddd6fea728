"""The types that signatures are written with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from ._core import Tensor, dtype

Number: TypeAlias = bool | int | float
Operand: TypeAlias = Tensor | Number
Dim: TypeAlias = int | Sequence[int] | None
Size: TypeAlias = int | Sequence[int]
DType: TypeAlias = dtype
Tensors: TypeAlias = Tensor | Sequence[Tensor]
