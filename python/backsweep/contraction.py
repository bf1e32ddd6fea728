"""Einstein sums: products of tensors by named dims, summed over the names that the result leaves out.

Operands are brought in one by one. A name is summed as soon as no later operand and not the result has it.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from . import errors
from ._core import Tensor, apply
from .shape import diagonal

__all__ = ["einsum"]

# Names for the dims that "..." stands for; they cannot be written.
_HIDDEN = [chr(code) for code in range(0xE000, 0xE040)]


def einsum(equation: str, *operands: Any) -> Tensor:
    """Sum products of operands as an equation says; "..." stands for dims that broadcast.

    Example:
        >>> bs.einsum("bij,bjk->bik", bs.ones(2, 3, 4), bs.ones(2, 4, 5)).shape
        (2, 3, 5)
    """
    if len(operands) == 1 and isinstance(operands[0], (tuple, list)):
        operands = tuple(operands[0])
    names, out = _parse(equation, operands)
    x, own = _single(operands[0], names[0])
    for place in range(1, len(operands)):
        y, other = _single(operands[place], names[place])
        needed = set(out).union(*names[place + 1 :])
        x, own = _pair(equation, x, own, y, other, needed)
    dropped = [axis for axis, name in enumerate(own) if name not in out]
    if dropped:
        x = apply("sum", x, dropped, False)
        own = [name for name in own if name in out]
    order = [own.index(name) for name in out]
    return x if order == list(range(len(order))) else apply("permute", x, order)


def _wrong(equation: str, what: str) -> errors.ValueError:
    return errors.ValueError(f"einsum: {equation!r}: {what}")


def _parse(equation: str, operands: tuple[Any, ...]) -> tuple[list[list[str]], list[str]]:
    """The names of the dims of every operand, and of the result."""
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    if len(terms) != len(operands):
        raise _wrong(equation, f"{len(terms)} terms for {len(operands)} operands; one term for each is needed")
    names: list[list[str]] = []
    hidden = 0
    for term, operand in zip(terms, operands, strict=True):
        if not isinstance(operand, Tensor):
            raise errors.DTypeError(f"einsum: an operand is a {type(operand).__name__}; tensors are needed")
        before, dots, after = term.partition("...")
        written = before + after
        if not (written.isascii() and (written.isalpha() or not written)):
            raise _wrong(equation, f"term {term!r}; letters, and ... once at most, are needed")
        extra = operand.ndim - len(written)
        if extra < 0 or (extra > 0 and not dots):
            raise _wrong(
                equation,
                f"term {term!r} names {len(written)} dims of {list(operand.shape)}; {operand.ndim} are there",
            )
        hidden = max(hidden, extra) if dots else hidden
        # Dims under "..." line up from the right.
        names.append([*before, *_HIDDEN[len(_HIDDEN) - extra :], *after] if dots else [*before])
    every = _HIDDEN[len(_HIDDEN) - hidden :] if hidden else []
    if arrow:
        before, dots, after = right.partition("...")
        written = before + after
        out = [*before, *(every if dots else []), *after]
        known = set().union(*names)
        for name in written:
            if name not in known:
                raise _wrong(equation, f"the result has {name!r}, which no term has")
        if len(set(out)) != len(out):
            raise _wrong(equation, "the result names a dim twice; once each is needed")
    else:
        counts = Counter(name for term in names for name in term if name not in every)
        out = [*every, *sorted(name for name, count in counts.items() if count == 1)]
    _check_sizes(equation, names, operands)
    return names, out


def _check_sizes(equation: str, names: list[list[str]], operands: tuple[Any, ...]) -> None:
    sizes: dict[str, int] = {}
    for term, operand in zip(names, operands, strict=True):
        for name, size in zip(term, operand.shape, strict=True):
            known = sizes.setdefault(name, size)
            if known == 1:
                sizes[name] = size
            elif size not in (1, known):
                what = "a dim under '...'" if name in _HIDDEN else repr(name)
                raise errors.ShapeError(
                    f"einsum: {equation!r}: {what} is {known} in one operand and {size} in another; "
                    f"the sizes must be equal or 1"
                )


def _single(x: Tensor, names: list[str]) -> tuple[Tensor, list[str]]:
    """A term without repeated names: these walk along the diagonal."""
    own = list(names)
    for name in dict.fromkeys(names):
        while own.count(name) > 1:
            first = own.index(name)
            second = own.index(name, first + 1)
            x = diagonal(x, 0, first, second)
            own = [other for axis, other in enumerate(own) if axis not in (first, second)] + [name]
    return x, own


def _pair(
    equation: str, x: Tensor, own: list[str], y: Tensor, other: list[str], needed: set[str]
) -> tuple[Tensor, list[str]]:
    """The product of two tensors, summed over the names that are not needed any more."""
    # What only one side has, and nobody needs, is summed there.
    alone = [axis for axis, name in enumerate(own) if name not in other and name not in needed]
    if alone:
        x, own = apply("sum", x, alone, False), [name for axis, name in enumerate(own) if axis not in alone]
    alone = [axis for axis, name in enumerate(other) if name not in own and name not in needed]
    if alone:
        y, other = apply("sum", y, alone, False), [name for axis, name in enumerate(other) if axis not in alone]
    size = dict(zip(own, x.shape, strict=True))
    theirs = dict(zip(other, y.shape, strict=True))
    batch = [name for name in own if name in other and name in needed]
    inner = [name for name in own if name in other and name not in needed]
    rows = [name for name in own if name not in other]
    columns = [name for name in other if name not in own]
    joint = {name: max(size[name], theirs[name]) if 0 not in (size[name], theirs[name]) else 0 for name in batch + inner}
    if not inner or not x.is_floating_point() or not y.is_floating_point():
        # Nothing to sum over, or no kernel for it: a broadcast product.
        order = batch + rows + columns + inner
        product = apply("mul", _broadcast(x, own, order), _broadcast(y, other, order))
        if inner:
            product = apply("sum", product, [order.index(name) for name in inner], False)
        return product, batch + rows + columns
    if x.dtype is not y.dtype:
        from .dtypes import promote_types

        dtype = promote_types(x.dtype, y.dtype)
        x, y = x.to(dtype), y.to(dtype)
    k = math.prod(joint[name] for name in inner)
    # Each side as [batch…, rows, k] and [batch…, k, columns]; the batch broadcasts, the inner dims must be whole.
    x = _grouped(x, own, batch, rows, inner, joint)
    y = _grouped(y, other, batch, inner, columns, joint)
    m, n = math.prod(size[name] for name in rows), math.prod(theirs[name] for name in columns)
    x = apply("reshape", x, (*(size[name] for name in batch), m, k))
    y = apply("reshape", y, (*(theirs[name] for name in batch), k, n))
    product = apply("matmul", x, y)
    shape = [joint[name] for name in batch] + [size[name] for name in rows] + [theirs[name] for name in columns]
    return apply("reshape", product, shape), batch + rows + columns


def _grouped(
    x: Tensor, own: list[str], batch: list[str], first: list[str], second: list[str], joint: dict[str, int]
) -> Tensor:
    """Dims in the order of batch, first, second; shared dims that are summed spread to their size."""
    order = batch + first + second
    x = apply("permute", x, [own.index(name) for name in order])
    wanted = [x.shape[axis] if name in batch else joint.get(name, x.shape[axis]) for axis, name in enumerate(order)]
    return x if tuple(wanted) == x.shape else apply("expand", x, wanted)


def _broadcast(x: Tensor, own: list[str], order: list[str]) -> Tensor:
    """Dims in order, with a size of 1 for each name that x has not."""
    x = apply("permute", x, [own.index(name) for name in order if name in own])
    sizes = iter(x.shape)
    return apply("reshape", x, [next(sizes) if name in own else 1 for name in order])
