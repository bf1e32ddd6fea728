"""Reductions: many elements to one, along some dims or all of them; and running totals along a dim."""

from __future__ import annotations

import builtins
import math
from typing import Any, NamedTuple

from . import errors
from ._core import Tensor, apply
from .attach import method
from .dtypes import bool as bool_
from .shape import axis_of, window
from .types import Dim, DType, Number

__all__ = [
    "all",
    "amax",
    "amin",
    "aminmax",
    "any",
    "argmax",
    "argmin",
    "corrcoef",
    "count_nonzero",
    "cov",
    "cumprod",
    "cumsum",
    "diff",
    "kthvalue",
    "logcumsumexp",
    "logsumexp",
    "max",
    "mean",
    "median",
    "min",
    "nanmean",
    "nansum",
    "norm",
    "prod",
    "quantile",
    "std",
    "std_mean",
    "sum",
    "var",
    "var_mean",
]


class Extreme(NamedTuple):
    """The largest or smallest elements along a dim, and where they are."""

    values: Tensor
    indices: Tensor


def _cast(input: Tensor, dtype: DType | None) -> Tensor:
    return input if dtype is None or input.dtype is dtype else apply("cast", input, dtype)


@method
def sum(input: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: DType | None = None) -> Tensor:
    """The sum; 0 for no elements. Integers and bools sum to int64.

    Example:
        >>> bs.ones(2, 3).sum(dim=0).tolist()
        [2.0, 2.0, 2.0]
    """
    return apply("sum", _cast(input, dtype), dim, keepdim)


@method
def mean(input: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: DType | None = None) -> Tensor:
    """The mean; NaN for no elements."""
    return apply("mean", _cast(input, dtype), dim, keepdim)


def _spread(
    op: str, input: Tensor, dim: Dim | bool, unbiased: bool | None, keepdim: bool, correction: Number | None
) -> Any:
    if isinstance(dim, bool):  # var(x, False): PyTorch's older form
        dim, unbiased = None, dim
    if unbiased is not None and correction is not None:
        raise errors.ValueError(f"{op}: unbiased and correction are both given; one of them is possible")
    degrees = int(unbiased) if unbiased is not None else 1 if correction is None else correction
    return apply(op, input, dim, keepdim, degrees)


@method
def var(
    input: Tensor,
    dim: Dim | bool = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: Number | None = None,
) -> Tensor:
    """The mean squared distance from the mean, over the number of elements less correction, which is 1 if left out.

    Saves: the input, and the means
    """
    return _spread("var", input, dim, unbiased, keepdim, correction)


@method
def std(
    input: Tensor,
    dim: Dim | bool = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: Number | None = None,
) -> Tensor:
    """The root of `var`; its gradient is 0 where all elements are equal."""
    return _root(var(input, dim, unbiased, keepdim, correction=correction))


def var_mean(
    input: Tensor,
    dim: Dim | bool = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: Number | None = None,
) -> tuple[Tensor, Tensor]:
    """Variance and mean, the mean computed once."""
    variance, center = _spread("var_mean", input, dim, unbiased, keepdim, correction)
    return variance, center


def std_mean(
    input: Tensor,
    dim: Dim | bool = None,
    unbiased: bool | None = None,
    keepdim: bool = False,
    *,
    correction: Number | None = None,
) -> tuple[Tensor, Tensor]:
    """Deviation and mean, the mean computed once."""
    variance, center = var_mean(input, dim, unbiased, keepdim, correction=correction)
    return _root(variance), center


def _root(total: Tensor, power: float = 0.5) -> Tensor:
    """A root whose gradient at 0 is 0, the smallest of all slopes there, and not infinite."""
    zero = apply("eq", total, 0.0)
    safe = apply("where", zero, 1.0, total)
    root = apply("sqrt", safe) if power == 0.5 else apply("pow", safe, power)
    return apply("where", zero, 0.0, root)


@method
def amax(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """The largest element; ties share the gradient, NaN wins."""
    return apply("amax", input, dim, keepdim)


@method
def amin(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """The smallest element; ties share the gradient, NaN wins."""
    return apply("amin", input, dim, keepdim)


@method
def aminmax(input: Tensor, *, dim: int | None = None, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """The smallest and the largest element."""
    return amin(input, dim, keepdim), amax(input, dim, keepdim)


@method
def max(input: Tensor, dim: int | Tensor | None = None, keepdim: bool = False) -> Any:
    """The largest element; with a dim, the largest along it and where they are; with a tensor, the larger of each two."""
    if dim is None:
        return apply("amax", input, None, keepdim)
    if isinstance(dim, Tensor):
        return apply("maximum", input, dim)
    return Extreme(*apply("max_dim", input, dim, keepdim))


@method
def min(input: Tensor, dim: int | Tensor | None = None, keepdim: bool = False) -> Any:
    """The smallest element; with a dim, the smallest along it and where they are; with a tensor, the smaller of each two."""
    if dim is None:
        return apply("amin", input, None, keepdim)
    if isinstance(dim, Tensor):
        return apply("minimum", input, dim)
    return Extreme(*apply("min_dim", input, dim, keepdim))


def _place(op: str, input: Tensor, dim: int | None, keepdim: bool) -> Tensor:
    input = input.detach()
    if dim is not None:
        return apply(op, input, dim, keepdim)[1]
    place = apply(op, apply("reshape", input, (-1,)), 0, False)[1]
    return apply("reshape", place, (1,) * input.ndim) if keepdim else place


@method
def argmax(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Where the largest element is, the first of equals; without dim, in the flat tensor."""
    return _place("max_dim", input, dim, keepdim)


@method
def argmin(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Tensor:
    """Where the smallest element is, the first of equals; without dim, in the flat tensor."""
    return _place("min_dim", input, dim, keepdim)


@method
def median(input: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    """The element in the middle of the order, the lower of two, NaN if any is; with a dim, along it, and where."""
    if dim is None:
        return median(apply("reshape", input, (-1,)), 0)[0]
    size = _length("median", input, dim)
    values, places = apply("sort", input, dim, False)
    middle = (size - 1) // 2
    # NaN is the largest in order.
    if input.is_floating_point():
        last = _at(values, dim, size - 1).detach()
        middle = apply("where", apply("isnan", last), size - 1, middle)
        axis = axis_of("median", dim, input.shape)
        found = [apply("gather", part, middle, axis) if input.ndim else part for part in (values, places)]
    else:
        found = [_at(part, dim, middle) for part in (values, places)]
    return Extreme(*(part if keepdim or not input.ndim else part.squeeze(dim) for part in found))


@method
def kthvalue(input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> Extreme:
    """The k-th smallest element along a dim, counted from 1, and where it is."""
    size = _length("kthvalue", input, dim)
    if not 1 <= k <= size:
        raise errors.ValueError(f"kthvalue: k is {k} for dim {dim} of {list(input.shape)}; 1 to {size} is needed")
    found = [_at(part, dim, k - 1) for part in apply("topk", input, k, dim, False)]
    return Extreme(*(part if keepdim or not input.ndim else part.squeeze(dim) for part in found))


def _length(op: str, input: Tensor, dim: int) -> int:
    axis = axis_of(op, dim, input.shape)
    size = input.shape[axis] if input.ndim else 1
    if not size:
        raise errors.ShapeError(f"{op}: dim {dim} of {list(input.shape)} is empty; one element or more is needed")
    return size


def _at(x: Tensor, dim: int, place: int) -> Tensor:
    return x.narrow(dim, place, 1) if x.ndim else x


@method
def any(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """True where any element is not 0."""
    return apply("any", input, dim, keepdim)


@method
def all(input: Tensor, dim: Dim = None, keepdim: bool = False) -> Tensor:
    """True where no element is 0."""
    return apply("all", input, dim, keepdim)


@method
def count_nonzero(input: Tensor, dim: Dim = None) -> Tensor:
    """How many elements are not 0."""
    return apply("sum", apply("ne", input, 0), dim, False)


@method
def nansum(input: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: DType | None = None) -> Tensor:
    """The sum of what is not NaN."""
    return sum(_without_nan(input), dim, keepdim, dtype=dtype)


@method
def nanmean(input: Tensor, dim: Dim = None, keepdim: bool = False, *, dtype: DType | None = None) -> Tensor:
    """The mean of what is not NaN."""
    total = nansum(input, dim, keepdim, dtype=dtype)
    return apply("div", total, apply("sum", apply("logical_not", apply("isnan", input)), dim, keepdim))


def _without_nan(input: Tensor) -> Tensor:
    return apply("where", apply("isnan", input), 0.0, input) if input.is_floating_point() else input


@method
def logsumexp(input: Tensor, dim: Dim, keepdim: bool = False) -> Tensor:
    """ln Σ eˣ, without overflow; -inf where all elements are, with a gradient of 0.

    Saves: the input and the output
    """
    return apply("logsumexp", input if input.is_floating_point() else input.float(), dim, keepdim)


@method
def norm(
    input: Tensor, p: float | str = 2.0, dim: Dim = None, keepdim: bool = False, *, dtype: DType | None = None
) -> Tensor:
    """The p-norm (Σ |x|ᵖ)^(1/p); inf and -inf give the largest and smallest |x|, 0 counts what is not 0.

    The gradient at 0 is 0.
    """
    x = _cast(input, dtype)
    if p == "fro":
        p = 2.0
    if isinstance(p, str):
        raise errors.ValueError(f"norm: p is {p!r}; a number or 'fro' is needed")
    if p == 2:
        return apply("norm", x, dim, keepdim)
    size = apply("abs", x)
    if p == 1:
        return apply("sum", size, dim, keepdim)
    if math.isinf(p):
        return apply("amax" if p > 0 else "amin", size, dim, keepdim)
    if p == 0:
        return apply("sum", apply("cast", apply("ne", x, 0), x.dtype), dim, keepdim)
    if math.isnan(p):
        raise errors.ValueError("norm: p is NaN; a number is needed")
    if p < 0:
        return apply("pow", apply("sum", apply("pow", size, float(p)), dim, keepdim), 1.0 / p)
    zero = apply("eq", x, 0.0)
    powers = apply("where", zero, 0.0, apply("pow", apply("where", zero, 1.0, size), float(p)))
    return _root(apply("sum", powers, dim, keepdim), 1.0 / p)


@method
def prod(input: Tensor, dim: int | None = None, keepdim: bool = False, *, dtype: DType | None = None) -> Tensor:
    """The product; 1 for no elements. Its gradient is exact where factors are 0."""
    return apply("prod", _cast(input, dtype), dim, keepdim)


@method
def cumsum(input: Tensor, dim: int, *, dtype: DType | None = None) -> Tensor:
    """The sum of all elements up to each, along a dim."""
    return apply("cumsum", _cast(input, dtype), dim)


@method
def cumprod(input: Tensor, dim: int, *, dtype: DType | None = None) -> Tensor:
    """The product of all elements up to each, along a dim."""
    return apply("cumprod", _cast(input, dtype), dim)


@method
def diff(
    input: Tensor, n: int = 1, dim: int = -1, prepend: Tensor | None = None, append: Tensor | None = None
) -> Tensor:
    """The differences of neighbours along a dim, n times; first joined with what comes before and after."""
    axis = axis_of("diff", dim, input.shape)
    if n < 0 or not input.ndim:
        raise errors.ValueError(f"diff: n is {n} for {list(input.shape)}; zero or more, and at least 1 dim, are needed")
    ends = [part for part in (prepend, input, append) if part is not None]
    if len(ends) > 1:
        input = apply("cat", *ends, axis)
    for _ in range(builtins.min(n, input.shape[axis])):
        size = input.shape[axis] - 1
        later, earlier = window(input, axis, 1, size), window(input, axis, 0, size)
        input = apply("logical_xor" if input.dtype is bool_ else "sub", later, earlier)
    return input


@method
def logcumsumexp(input: Tensor, dim: int) -> Tensor:
    """ln of the running sum of eˣ along a dim, without overflow."""
    axis = axis_of("logcumsumexp", dim, input.shape)
    size, step = (input.shape[axis] if input.ndim else 1), 1
    y = input
    # Each element takes in what stands a distance of 1, 2, 4, … before it.
    while step < size:
        later = apply("logaddexp", window(y, axis, step, size - step), window(y, axis, 0, size - step))
        y = apply("cat", window(y, axis, 0, step), later, axis)
        step *= 2
    return apply("contiguous", y) if y is input else y


@method
def quantile(
    input: Tensor, q: float | Tensor, dim: int | None = None, keepdim: bool = False, *, interpolation: str = "linear"
) -> Tensor:
    """The value below which a part q of the elements lies; a 1-d q gives one result for each, along a new first dim.

    Between two elements, interpolation takes "linear", "lower", "higher", "midpoint" or "nearest". NaN if any is.
    """
    kinds = ("linear", "lower", "higher", "midpoint", "nearest")
    if interpolation not in kinds:
        raise errors.ValueError(f"quantile: interpolation is {interpolation!r}; one of {', '.join(kinds)} is needed")
    parts = q.tolist() if isinstance(q, Tensor) else q
    wanted = parts if isinstance(parts, list) else [parts]
    if not builtins.all(0 <= part <= 1 for part in wanted):
        raise errors.ValueError(f"quantile: q is {parts}; numbers from 0 to 1 are needed")
    x = apply("reshape", input, (-1,)) if dim is None else input
    along = 0 if dim is None else dim
    size = _length("quantile", x, along)
    ordered = apply("sort", x, along, False)[0]
    spoilt = apply("isnan", _at(ordered, along, size - 1).detach())
    found = []
    # Ranks are counted in q's own dtype, as in PyTorch.
    ranks = apply("mul", q.detach(), size - 1).tolist() if isinstance(q, Tensor) else [part * (size - 1) for part in wanted]
    for place in ranks if isinstance(ranks, list) else [ranks]:
        low, high = math.floor(place), math.ceil(place)
        weight = {"linear": place - low, "lower": 0.0, "higher": 1.0, "midpoint": 0.5}.get(interpolation)
        if weight is None:
            low = high = round(place)
        value = _at(ordered, along, low)
        if weight and high > low:
            value = apply("lerp", value, _at(ordered, along, high), weight)
        value = apply("where", spoilt, math.nan, value)
        if dim is None:
            value = apply("reshape", value, (1,) * input.ndim if keepdim else ())
        found.append(value if dim is None or keepdim or not input.ndim else value.squeeze(dim))
    if not isinstance(parts, list):
        return found[0]
    return apply("cat", *(value.unsqueeze(0) for value in found), 0)


@method
def cov(input: Tensor, *, correction: int = 1) -> Tensor:
    """The covariances of variables, one a row, over observations, one a column."""
    if input.ndim > 2:
        raise errors.ShapeError(f"cov: {list(input.shape)} has {input.ndim} dims; at most 2 are needed")
    x = input if input.ndim == 2 else apply("reshape", input, (1, -1))
    x = apply("sub", x, apply("mean", x, 1, True))
    product = apply("matmul", x, x.mT)
    return apply("div", product if input.ndim == 2 else apply("reshape", product, ()), float(builtins.max(0, x.shape[1] - correction)))


@method
def corrcoef(input: Tensor) -> Tensor:
    """The correlations of variables, one a row."""
    c = cov(input)
    if not c.ndim:
        return apply("div", c, c)
    deviation = apply("sqrt", c.diagonal())
    return apply("clamp", apply("div", apply("div", c, deviation.unsqueeze(1)), deviation), -1.0, 1.0)
