"""The element types, what they can hold, and how they mix."""

from __future__ import annotations

from ._core import (
    bfloat16,
    bool,
    dtype,
    float16,
    float32,
    float64,
    int32,
    int64,
    promote_types,
    uint8,
)
from .errors import DTypeError

__all__ = [
    "bfloat16",
    "bool",
    "dtype",
    "finfo",
    "float16",
    "float32",
    "float64",
    "iinfo",
    "int32",
    "int64",
    "promote_types",
    "uint8",
]

# Bits, and bits of the fraction, by name.
_FLOATS = {"float16": (16, 10), "bfloat16": (16, 7), "float32": (32, 23), "float64": (64, 52)}
_INTEGERS = {"uint8": (0, 255), "int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}


class finfo:
    """The limits of a floating dtype: bits, eps, max, min, tiny.

    Example:
        >>> bs.finfo(bs.float32).eps
        1.1920928955078125e-07
    """

    def __init__(self, dtype: dtype) -> None:
        """Look the limits up."""
        if dtype.name not in _FLOATS:
            raise DTypeError(f"finfo: {dtype.name} is no floating dtype; one of {', '.join(_FLOATS)} is needed")
        self.bits, fraction = _FLOATS[dtype.name]
        largest_exponent = 2 ** (self.bits - fraction - 2) - 1
        self.eps = 2.0**-fraction
        self.max = (2.0 - self.eps) * 2.0**largest_exponent
        self.min = -self.max
        self.tiny = 2.0 ** (1 - largest_exponent)


class iinfo:
    """The limits of an integer dtype: bits, max, min."""

    def __init__(self, dtype: dtype) -> None:
        """Look the limits up."""
        if dtype.name not in _INTEGERS:
            raise DTypeError(f"iinfo: {dtype.name} is no integer dtype; one of {', '.join(_INTEGERS)} is needed")
        self.bits = dtype.itemsize * 8
        self.min, self.max = _INTEGERS[dtype.name]
