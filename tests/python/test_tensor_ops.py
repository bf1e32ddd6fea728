"""Tensor operations against NumPy in float64, and their gradients against differences, over random shapes and dtypes."""

from __future__ import annotations

import ast
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import backsweep as bs
import backsweep.nn.functional as F
from backsweep import _core, nn
from backsweep.autograd import gradcheck, gradgradcheck

Array = np.ndarray[Any, Any]

settings.register_profile("ops", max_examples=60, deadline=None, derandomize=True)
settings.load_profile("ops")

DTYPES = {"float64": 1e-12, "float32": 2e-5, "float16": 4e-3, "bfloat16": 3e-2}


def values(shape: tuple[int, ...], seed: int = 0) -> Array:
    """Numbers that are far enough from each other and from 0 that no difference crosses a tie or a kink."""
    count = math.prod(shape)
    order = np.random.default_rng([seed, *shape]).permutation(count)
    return (order.reshape(shape) - count / 2 + 0.25) * (3.0 / max(count, 1))


def tensor(array: Any, dtype: str | None = None) -> bs.Tensor:
    made = bs.tensor(np.array(array))
    return made if dtype is None else made.to(getattr(bs, dtype))


def array(x: bs.Tensor) -> Array:
    return np.array(x.detach().double().numpy()) if x.is_floating_point() else np.array(x.numpy())


def agree(found: bs.Tensor, wanted: Any, tolerance: float = 1e-12) -> None:
    wanted = np.asarray(wanted)
    assert found.shape == wanted.shape
    np.testing.assert_allclose(array(found), wanted, rtol=tolerance, atol=tolerance)


def shapes(least: int = 0, most: int = 4, side: int = 5, smallest: int = 0) -> st.SearchStrategy[tuple[int, ...]]:
    return hnp.array_shapes(min_dims=max(least, 1), max_dims=most, min_side=smallest, max_side=side) | (
        st.just(()) if least == 0 else st.nothing()
    )


def leaf(shape: tuple[int, ...], seed: int = 0) -> bs.Tensor:
    return tensor(values(shape, seed)).requires_grad_()


def test_every_op_that_python_calls_is_there() -> None:
    known = set(_core.op_names())
    package = Path(bs.__file__).parent
    # What is imported: a module whose ops are still to come stands beside the package, not in it.
    for module in [m for name, m in sorted(sys.modules.items()) if name.split(".")[0] == "backsweep"]:
        path = Path(getattr(module, "__file__", None) or "")
        if path.suffix != ".py" or package not in path.parents:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("apply", "apply_") and node.args:
                name = node.args[0]
                for part in (name.body, name.orelse) if isinstance(name, ast.IfExp) else (name,):
                    if isinstance(part, ast.Constant):
                        assert part.value in known, f"{path.name}:{node.lineno}: there is no op {part.value!r}"


# Reductions


def reductions() -> dict[str, tuple[Callable[..., bs.Tensor], Callable[..., Any]]]:
    def logsumexp(x: Array, axis: Any, keepdims: bool) -> Any:
        with np.errstate(divide="ignore"):
            return np.log(np.exp(x).sum(axis=axis, keepdims=keepdims))

    return {
        "sum": (bs.sum, np.sum),
        "mean": (bs.mean, np.mean),
        "prod": (bs.prod, np.prod),
        "amax": (bs.amax, np.max),
        "amin": (bs.amin, np.min),
        "var": (lambda x, dim, keepdim: bs.var(x, dim, correction=0, keepdim=keepdim), np.var),
        "std": (lambda x, dim, keepdim: bs.std(x, dim, correction=0, keepdim=keepdim), np.std),
        "logsumexp": (bs.logsumexp, logsumexp),
        "norm": (
            lambda x, dim, keepdim: bs.norm(x, 2, dim, keepdim),
            lambda x, axis, keepdims: np.sqrt((x * x).sum(axis=axis, keepdims=keepdims)),
        ),
        "norm 3": (
            lambda x, dim, keepdim: bs.norm(x, 3, dim, keepdim),
            lambda x, axis, keepdims: (np.abs(x) ** 3).sum(axis=axis, keepdims=keepdims) ** (1 / 3),
        ),
        "any": (lambda x, dim, keepdim: bs.any(x > 0, dim, keepdim), lambda x, axis, keepdims: (x > 0).any(axis, keepdims=keepdims)),
        "all": (lambda x, dim, keepdim: bs.all(x > 0, dim, keepdim), lambda x, axis, keepdims: (x > 0).all(axis, keepdims=keepdims)),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(reductions()))
@given(data=st.data())
def test_reductions_agree_with_numpy(name: str, data: st.DataObject) -> None:
    ours, theirs = reductions()[name]
    shape = data.draw(shapes(least=1, smallest=1))
    dims = data.draw(st.lists(st.integers(0, len(shape) - 1), unique=True, min_size=1))
    signed = tuple(d - len(shape) if data.draw(st.booleans()) else d for d in dims)
    keepdim, dtype = data.draw(st.booleans()), data.draw(st.sampled_from(sorted(DTYPES)))
    x = tensor(values(shape), dtype)
    wanted = theirs(array(x), axis=tuple(dims), keepdims=keepdim)
    found = ours(x, signed, keepdim=keepdim)
    # A few narrow numbers may cancel.
    agree(found, wanted, DTYPES[dtype] * (1 if dtype == "float64" else 4))
    assert found.dtype is (bs.bool if name in ("any", "all") else x.dtype)


SMOOTH: dict[str, Callable[[bs.Tensor], Any]] = {
    "sum": lambda x: x.sum(-1),
    "mean": lambda x: x.mean((0, -1)),
    "var": lambda x: x.var(1),
    "var of all": lambda x: x.var(correction=2.5),
    "std": lambda x: x.std(0, keepdim=True),
    "var_mean": lambda x: bs.var_mean(x, (0, 1)),
    "std_mean": lambda x: bs.std_mean(x, -1, correction=0),
    "prod": lambda x: x.prod(1),
    "prod of all": lambda x: x.prod(),
    "amax": lambda x: x.amax((0, 2)),
    "max": lambda x: x.max(1).values,
    "median": lambda x: x.median(1).values,
    "kthvalue": lambda x: x.kthvalue(2, 0).values,
    "logsumexp": lambda x: x.logsumexp((0, 2)),
    "norm": lambda x: x.norm(dim=1),
    "norm 1": lambda x: x.norm(1, dim=1),
    "norm 3": lambda x: x.norm(3, dim=(0, 1)),
    "norm inf": lambda x: x.norm(math.inf, dim=1),
    "norm 0.5": lambda x: x.norm(0.5, dim=1),
    "cumsum": lambda x: x.cumsum(1),
    "cumprod": lambda x: x.cumprod(-1),
    "diff": lambda x: x.diff(),
    "sort": lambda x: x.sort(1, descending=True).values,
    "topk": lambda x: x.topk(2, 0, largest=False).values,
    "softmax": lambda x: x.softmax(1),
    "flip": lambda x: x.flip(0, 2),
    "roll": lambda x: x.roll((1, -1), (0, 2)),
    "rot90": lambda x: x.rot90(),
    "tril": lambda x: x.tril(1),
    "triu": lambda x: x.triu(-1),
    "diagonal": lambda x: x.diagonal(1, -1, 0),
    "diag_embed": lambda x: bs.diag_embed(x, -1, 0, 2),
    "unfold": lambda x: x.unfold(1, 2, 1),
    "movement": lambda x: x.movedim(0, 2).flatten(1).unflatten(1, (-1, 2)).swapaxes(0, 1).mT,
    "repeat": lambda x: x.repeat(2, 1, 2) + x.tile(2, 1, 2) + x.repeat_interleave(2, 0).repeat_interleave(2, 2),
    "parts": lambda x: (*x.split(1, 1), *x.chunk(2, 2), *x.unbind(0), *x.tensor_split(2, 1)),
    "joining": lambda x: bs.cat([x, x * 2], 1) + bs.stack([x, x], 1).flatten(1, 2) + bs.hstack([x, x]),
    "vstack": lambda x: bs.vstack([x, x]),
    "basic index": lambda x: x[..., 1:, None, 0],
    "mask": lambda x: x[x.detach() > 0],
    "advanced index": lambda x: x[bs.tensor([0, -1, 0]), :, bs.tensor([[1], [0]])],
    "index_select": lambda x: x.index_select(1, bs.tensor([2, 0, 2])),
    "gather": lambda x: x.gather(1, bs.tensor([[[0, 2], [1, 1]]])),
    "take_along_dim": lambda x: x.take_along_dim(x.detach().argsort(2), 2),
    "masked_fill": lambda x: x.masked_fill(x.detach() > 0, 2.0),
    "masked_select": lambda x: x.masked_select(x.detach()[0] > 0),
    "einsum": lambda x: bs.einsum("ijk,ijl->kl", x, x) + bs.einsum("...k,...l", x, x).sum((0, 1)),
    "tensordot": lambda x: bs.tensordot(x, x, ([0, 1], [0, 1])),
    "cross": lambda x: bs.cross(x, x.roll(1, 1) ** 2, dim=1),
    "cdist": lambda x: bs.cdist(x, x.flip(1) * 2 + 9),
    "normalize": lambda x: F.normalize(x, dim=1),
    "cosine_similarity": lambda x: F.cosine_similarity(x, x**2, dim=1),
    "quantile": lambda x: x.quantile(0.3, 1),
    "cov": lambda x: bs.cov(x[0]),
    "logcumsumexp": lambda x: x.logcumsumexp(1),
    "kron": lambda x: bs.kron(x[0], x[1]),
    "multi_margin_loss": lambda x: F.multi_margin_loss(x[0], bs.tensor([0, 1, 1]), p=2),
    "pairwise_distance": lambda x: F.pairwise_distance(x, x**2),
}
# Their second derivative is 0 or runs through the same ops.
CURVED = ["var", "std", "var_mean", "prod", "prod of all", "logsumexp", "norm", "norm 3", "cumprod", "softmax", "einsum", "normalize"]


@pytest.mark.parametrize("name", list(SMOOTH))
def test_gradients_agree_with_differences(name: str) -> None:
    assert gradcheck(SMOOTH[name], leaf((2, 3, 2)), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", CURVED)
def test_second_gradients_agree_with_differences(name: str) -> None:
    assert gradgradcheck(SMOOTH[name], leaf((2, 3, 2)), atol=1e-5, rtol=1e-4)


@given(shape=shapes(least=1, most=3, side=4, smallest=1), dims=st.integers(1, 7), zeros=st.integers(0, 3))
def test_the_gradient_of_a_product_is_the_product_of_the_others(shape: tuple[int, ...], dims: int, zeros: int) -> None:
    axes = [axis for axis in range(len(shape)) if dims >> axis & 1]
    assume(axes)
    data = values(shape)
    data.flat[: min(zeros, data.size)] = 0
    x = tensor(data).requires_grad_()
    y = bs.prod(x, axes, keepdim=True)
    agree(y, data.prod(tuple(axes), keepdims=True))
    [dx] = bs.autograd.grad(y.sum(), [x])
    for place in np.ndindex(*shape):
        others = data.copy()
        others[place] = 1
        wanted = others.prod(tuple(axes), keepdims=True)[tuple(0 if axis in axes else i for axis, i in enumerate(place))]
        np.testing.assert_allclose(dx[place].item(), wanted, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_a_variance_does_not_cancel(offset: float) -> None:
    x = (np.random.default_rng(0).standard_normal(10_000) + offset).astype(np.float32)
    found = tensor(x).var().item()
    assert abs(found / x.astype(np.float64).var(ddof=1) - 1) < 2e-6


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_long_sums_of_narrow_numbers_are_not_stuck(name: str) -> None:
    x = bs.ones(70_000, dtype=getattr(bs, name))
    assert x.mean().item() == 1.0
    assert x.var().item() == 0.0
    assert x.cumsum(0)[-1].item() == float("inf") if name == "float16" else 69632.0 <= x.cumsum(0)[-1].item() <= 70144.0


@given(data=st.data())
def test_running_totals_agree_with_numpy(data: st.DataObject) -> None:
    shape = data.draw(shapes(least=1))
    dim = data.draw(st.integers(-len(shape), len(shape) - 1))
    kind = data.draw(st.sampled_from(["int64", "int32", "uint8", "bool", "float32", "float64"]))
    x = values(shape)
    given_ = (np.abs(x) * 2).astype(kind) if not kind.startswith("float") else x.astype(kind)
    wide = given_.astype(np.int64 if not kind.startswith("float") else np.float64)
    for ours, theirs in ((bs.cumsum, np.cumsum), (bs.cumprod, np.cumprod)):
        found = ours(tensor(given_), dim)
        agree(found, theirs(wide, axis=dim), 1e-12 if kind != "float32" else 1e-5)
        assert found.dtype is (bs.int64 if not kind.startswith("float") else getattr(bs, kind))


@given(data=st.data())
def test_extremes_and_places_agree_with_numpy(data: st.DataObject) -> None:
    shape = data.draw(shapes(least=1, smallest=1))
    dim, keepdim = data.draw(st.integers(-len(shape), len(shape) - 1)), data.draw(st.booleans())
    kind = data.draw(st.sampled_from(["int64", "int32", "uint8", "float32", "float64"]))
    # Few different numbers, so that there are ties.
    x = data.draw(hnp.arrays(kind, shape, elements=st.integers(0, 3)))
    for ours, theirs, place in ((bs.max, np.max, np.argmax), (bs.min, np.min, np.argmin)):
        found = ours(tensor(x), dim, keepdim)
        agree(found.values, theirs(x, axis=dim, keepdims=keepdim))
        agree(found.indices, place(x, axis=dim, keepdims=keepdim))
        assert found.values.dtype.name == kind


# Order


@given(data=st.data())
def test_sorting_is_stable_and_puts_nan_last(data: st.DataObject) -> None:
    shape = data.draw(shapes(least=1, most=3, side=7))
    dim, descending = data.draw(st.integers(-len(shape), len(shape) - 1)), data.draw(st.booleans())
    x = data.draw(hnp.arrays(np.float64, shape, elements=st.sampled_from([-1.0, -0.0, 0.0, 2.0, math.inf, -math.inf, math.nan])))
    key = np.where(np.isnan(x), np.inf, np.arctan(np.where(np.isnan(x), 0, x)) * 0 + np.where(np.isnan(x), 0, np.clip(x, -9, 9)))
    wanted = np.argsort(-key if descending else key, axis=dim, kind="stable")
    found = tensor(x).sort(dim, descending)
    np.testing.assert_array_equal(array(found.indices), wanted)
    np.testing.assert_array_equal(array(found.values), np.take_along_axis(x, wanted, dim))
    assert bs.equal(tensor(x).argsort(dim, descending), found.indices)
    k = data.draw(st.integers(0, shape[dim]))
    top = tensor(x).topk(k, dim, descending)
    np.testing.assert_array_equal(array(top.indices), np.take(wanted, range(k), axis=dim))


@given(x=hnp.arrays(np.int64, shapes(least=0, most=3), elements=st.integers(-3, 3)))
def test_unique_and_isin_agree_with_numpy(x: Array) -> None:
    wanted = np.unique(x, return_inverse=True, return_counts=True)
    found = bs.unique(tensor(x), return_inverse=True, return_counts=True)
    for ours, theirs in zip(found, (wanted[0], wanted[1].reshape(x.shape), wanted[2]), strict=True):
        np.testing.assert_array_equal(array(ours), theirs)
    tests = np.array([-3, 0, 2])
    np.testing.assert_array_equal(array(bs.isin(tensor(x), tensor(tests))), np.isin(x, tests))
    np.testing.assert_array_equal(array(bs.nonzero(tensor(x))), np.argwhere(x))
    assert int(bs.count_nonzero(tensor(x))) == np.count_nonzero(x)
    if x.ndim == 1:
        np.testing.assert_array_equal(array(bs.bincount(tensor(x + 3), minlength=4)), np.bincount(x + 3, minlength=4))


@given(n=st.integers(0, 6), m=st.integers(0, 6), right=st.booleans(), rows=st.integers(0, 3))
def test_searchsorted_agrees_with_numpy(n: int, m: int, right: bool, rows: int) -> None:
    random = np.random.default_rng([n, m, rows])
    row = np.sort(random.integers(0, 4, n)).astype(np.float32)
    wanted = random.integers(0, 4, (rows, m)).astype(np.float32)
    found = bs.searchsorted(tensor(row), tensor(wanted), right=right)
    np.testing.assert_array_equal(array(found), np.searchsorted(row, wanted, side="right" if right else "left"))


# Indexing


@st.composite
def subscripts(draw: st.DrawFn, shape: tuple[int, ...]) -> tuple[Any, ...]:
    """Slices, None, one Ellipsis, ints, masks and index arrays of one broadcast shape."""
    items: list[Any] = []
    advanced = draw(st.booleans())
    joint = draw(st.sampled_from([(3,), (2, 3), (1,), ()]))
    axis = 0
    while axis < len(shape):
        size = shape[axis]
        kinds = ["slice", "slice", "stop"]
        if size and not advanced:
            kinds.append("int")
        if size and advanced:
            kinds += ["array", "mask"]
        kind = draw(st.sampled_from(kinds))
        if draw(st.integers(0, 5)) == 0:
            items.append(None)
        if kind == "stop":
            if draw(st.booleans()):
                items.append(Ellipsis)
            break
        if kind == "slice":
            start, stop = (draw(st.none() | st.integers(-size - 1, size + 1)) for _ in range(2))
            items.append(slice(start, stop, draw(st.none() | st.integers(1, 3))))
        elif kind == "int":
            items.append(draw(st.integers(-size, size - 1)))
        elif kind == "array":
            own = joint if draw(st.booleans()) else joint[1:]
            items.append(draw(hnp.arrays(np.int64, own or (1,), elements=st.integers(-size, size - 1))))
        else:
            mask = np.zeros(size, dtype=bool)
            # As many as the other indices have, or one.
            chosen = draw(st.permutations(range(size)))[: min(size, joint[-1] if joint else 1)]
            mask[list(chosen)] = True
            items.append(mask)
        axis += 1
    return tuple(items)


def same(item: Any) -> bool:
    return isinstance(item, np.ndarray)


def ours(key: tuple[Any, ...]) -> Any:
    made = tuple(tensor(item) if same(item) else item for item in key)
    return made[0] if len(made) == 1 else made


@settings(max_examples=300)
@given(data=st.data())
def test_reading_and_writing_by_subscript_agree_with_numpy(data: st.DataObject) -> None:
    shape = data.draw(shapes(least=1, most=4, side=4))
    key = data.draw(subscripts(shape))
    x = values(shape)
    try:
        wanted = x[key]
    except IndexError:
        with pytest.raises((bs.ShapeError, bs.errors.IndexError)):
            tensor(x)[ours(key)]
        return
    leaf_ = tensor(x).requires_grad_()
    found = leaf_[ours(key)]
    agree(found, wanted)
    # The gradient of a reading adds up where it read twice.
    weights = values(wanted.shape, 3)
    if wanted.size:
        [dx] = bs.autograd.grad((found * tensor(weights)).sum(), [leaf_])
        expected = np.zeros(shape)
        np.add.at(expected, key, weights)
        agree(dx, expected)
    # A write: plain, and recorded.
    new = values(wanted.shape, 5)
    places = np.zeros(shape, dtype=np.int64)
    np.add.at(places, key, 1)
    assume(places.max(initial=0) <= 1)
    written = x.copy()
    written[key] = new
    plain = tensor(x)
    plain[ours(key)] = tensor(new)
    agree(plain, written)
    base, value = tensor(x).requires_grad_(), tensor(new).requires_grad_()
    target = base * 1
    target[ours(key)] = value
    agree(target, written)
    after = values(shape, 7)
    if x.size and wanted.size:
        dbase, dvalue = bs.autograd.grad((target * tensor(after)).sum(), [base, value])
        agree(dbase, np.where(places > 0, 0, after))
        agree(dvalue, after[key])


def test_a_written_value_is_broadcast_and_converted() -> None:
    x = bs.zeros(2, 3)
    x[:, 1] = 5
    x[0] = bs.tensor([1, 2, 3])
    x[x > 2.5] = -1.0
    assert x.tolist() == [[1, 2, -1], [0, -1, 0]]
    x[bs.tensor([1, 0]), bs.tensor([0, 2])] += 1
    assert x.tolist() == [[1, 2, 0], [1, -1, 0]]
    with pytest.raises(bs.ShapeError, match="must have this shape"):
        x[0] = bs.ones(2)


def test_a_write_by_index_stays_in_its_memory_and_a_refused_one_changes_nothing() -> None:
    x = bs.zeros(4, 3)
    x[bs.tensor([3, -1, 0])] = bs.tensor([[1.0], [2.0], [3.0]])
    assert x[:, 0].tolist() == [3, 0, 0, 2]
    big = bs.zeros(4096, 64)
    bs.memory.reset_peak()
    before = bs.memory.stats()["live"]
    big[bs.tensor([7, 9])] = 1.0
    assert bs.memory.stats()["peak"] - before < big.nbytes / 8
    with pytest.raises(bs.errors.IndexError):
        x[bs.tensor([1, 4])] = 9.0
    assert x[:, 0].tolist() == [3, 0, 0, 2]
    # Through a view, and onto itself.
    x.T[bs.tensor([0])] = 5.0
    assert x[:, 0].tolist() == [5] * 4
    y = bs.arange(4)
    y[bs.tensor([0, 1, 2])] = y[1:]
    assert y.tolist() == [1, 2, 3, 3]
    half = bs.zeros(3, dtype=bs.bfloat16)
    assert half.index_put_((bs.tensor([1, 1]),), bs.ones(2, dtype=bs.bfloat16), accumulate=True).tolist() == [0, 2, 0]


@pytest.mark.parametrize(
    ("key", "kind", "text"),
    [
        (5, bs.errors.IndexError, "out of range"),
        ((0, 0, 0), bs.errors.IndexError, "at most can be used"),
        ((..., ...), bs.errors.IndexError, "more than once"),
        (slice(None, None, -1), bs.errors.ValueError, "step -1; a step above 0 is needed"),
        (slice(None, None, 0), bs.errors.ValueError, "step 0"),
        (bs.tensor([True, False, True]), bs.errors.IndexError, "the shapes must be equal"),
        (bs.tensor([0.5]), bs.errors.IndexError, "float32"),
        ((bs.tensor([0, 1]), bs.tensor([0, 1, 2])), bs.errors.IndexError, "do not broadcast"),
        (bs.tensor([2]), bs.errors.IndexError, "index 2 is out of range for size 2"),
    ],
)
def test_a_wrong_subscript_is_refused(key: Any, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        bs.zeros(2, 3)[key]


@given(data=st.data())
def test_gather_scatter_and_their_kin_agree_with_numpy(data: st.DataObject) -> None:
    shape = data.draw(shapes(least=1, most=3, smallest=1))
    dim = data.draw(st.integers(0, len(shape) - 1))
    sizes = tuple(data.draw(st.integers(1, n + (2 if axis == dim else 0))) for axis, n in enumerate(shape))
    index = data.draw(hnp.arrays(np.int64, sizes, elements=st.integers(0, shape[dim] - 1)))
    x, src = values(shape), values(sizes, 1)
    grid = list(np.indices(sizes))
    grid[dim] = index
    places = tuple(grid)
    agree(bs.gather(tensor(x), dim, tensor(index)), x[places])
    added, replaced = x.copy(), x.copy()
    np.add.at(added, places, src)
    for at in np.ndindex(*sizes):
        replaced[tuple(g[at] for g in grid)] = src[at]
    agree(bs.scatter_add(tensor(x), dim, tensor(index), tensor(src)), added)
    agree(bs.scatter(tensor(x), dim, tensor(index), tensor(src)), replaced)
    leaves = [tensor(x).requires_grad_(), tensor(src).requires_grad_()]
    for op in (bs.scatter, bs.scatter_add):
        assert gradcheck(lambda a, b, op=op: op(a, dim, tensor(index), b), leaves, fast_mode=True)
    whole = tuple(n if axis != dim else len(index.flat) for axis, n in enumerate(shape))
    flat, parts = index.reshape(-1), values(whole, 2)
    moved = np.moveaxis(x.copy(), dim, 0)
    np.add.at(moved, flat, 2 * np.moveaxis(parts, dim, 0))
    agree(bs.index_add(tensor(x), dim, tensor(flat), tensor(parts), alpha=2), np.moveaxis(moved, 0, dim))
    agree(bs.index_select(tensor(x), dim, tensor(flat)), np.take(x, flat, dim))


@pytest.mark.parametrize(
    "call",
    [
        lambda i: bs.gather(bs.zeros(3), 0, i),
        lambda i: bs.scatter(bs.zeros(3), 0, i, 1.0),
        lambda i: bs.scatter_add(bs.zeros(3), 0, i, bs.ones(1)),
        lambda i: bs.index_select(bs.zeros(3), 0, i),
        lambda i: bs.index_add(bs.zeros(3), 0, i, bs.ones(1)),
        lambda i: F.embedding(i, bs.zeros(3, 2)),
        lambda i: F.nll_loss(bs.zeros(1, 3), i),
        lambda i: F.one_hot(i, 3),
    ],
)
@pytest.mark.parametrize("place", [-1, 3])
def test_a_class_or_place_out_of_range_is_refused_from_both_ends(call: Callable[..., Any], place: int) -> None:
    with pytest.raises(bs.errors.IndexError, match=rf"{place}.*0 to 2"):
        call(bs.tensor([place]))


# Movement


@given(data=st.data())
def test_movement_agrees_with_numpy(data: st.DataObject) -> None:
    shape = data.draw(shapes(least=2, most=4))
    rank = len(shape)
    x, t = values(shape), tensor(values(shape))
    dims = data.draw(st.lists(st.integers(-rank, rank - 1), min_size=1, max_size=2, unique_by=lambda d: d % rank))
    shifts = data.draw(st.lists(st.integers(-7, 7), min_size=len(dims), max_size=len(dims)))
    k = data.draw(st.integers(-5, 5))
    agree(bs.flip(t, dims), np.flip(x, dims))
    agree(bs.roll(t, shifts, dims), np.roll(x, shifts, dims))
    agree(bs.roll(t, shifts[0]), np.roll(x, shifts[0]))
    agree(bs.tril(t, k), np.tril(x, k))
    agree(bs.triu(t, k), np.triu(x, k))
    agree(bs.movedim(t, dims[0], -1), np.moveaxis(x, dims[0], -1))
    agree(bs.swapaxes(t, dims[0], 0), np.swapaxes(x, dims[0], 0))
    agree(bs.rot90(t, k), np.rot90(x, k))
    if 0 not in shape:
        agree(bs.diagonal(t, k % 3 - 1), np.diagonal(x, k % 3 - 1))
    times = data.draw(st.lists(st.integers(0, 2), min_size=rank, max_size=rank + 1))
    agree(t.repeat(*times), np.tile(x, times))
    agree(bs.repeat_interleave(t, 2, dims[0]), np.repeat(x, 2, dims[0]))
    pieces = data.draw(st.integers(1, 4))
    for found, wanted in zip(bs.tensor_split(t, pieces, dims[0]), np.array_split(x, pieces, dims[0]), strict=True):
        agree(found, wanted)
    agree(bs.cat(bs.split(t, 2, dims[0]), dims[0]), x)
    agree(bs.stack(bs.unbind(t, dims[0]), dims[0]) if shape[dims[0]] else t, x)


def test_a_diagonal_is_a_view() -> None:
    x = bs.zeros(3, 3)
    x.diagonal().fill_(2.0)
    assert x.tolist() == [[2, 0, 0], [0, 2, 0], [0, 0, 2]]
    assert x.diagonal(1).shares_memory(x) and not x.flip(0).shares_memory(x)


def test_what_is_composed_agrees_with_numpy() -> None:
    x, v = values((3, 4)), values((3,), 1)
    t, u = tensor(x), tensor(v)
    agree(bs.column_stack([u, u]), np.column_stack([v, v]))
    agree(bs.dstack([u, u]), np.dstack([v, v]))
    agree(bs.kron(t, u), np.kron(x, v))
    agree(bs.cov(t), np.cov(x))
    agree(bs.corrcoef(t), np.corrcoef(x))
    agree(bs.diagflat(t, 1), np.diagflat(x, 1))
    agree(bs.take(t, bs.tensor([[5, 0]])), np.take(x, [[5, 0]]))
    agree(bs.logspace(0, 2, 5, dtype=bs.float64), np.logspace(0, 2, 5))
    agree(bs.block_diag(t, u), np.block([[x, np.zeros((3, 3))], [np.zeros((1, 4)), v[None]]]))
    agree(bs.cartesian_prod(u, u)[:, 1], np.tile(v, 3))
    agree(bs.logcumsumexp(t, 1), np.log(np.cumsum(np.exp(x), 1)))
    agree(bs.histc(t, 5, -1, 1), np.histogram(x, 5, (-1, 1))[0])
    agree(bs.fmax(t, t.flip(1)), np.fmax(x, x[:, ::-1]))
    agree(bs.logit(t.sigmoid()), x)
    for kind in ("linear", "lower", "higher", "midpoint", "nearest"):
        for q in (0.0, 0.3, 1.0):
            agree(bs.quantile(t, q, 1, interpolation=kind), np.quantile(x, q, 1, method=kind))
    agree(bs.quantile(t, bs.tensor([0.25, 0.5]).double()), np.quantile(x, [0.25, 0.5]))
    runs = bs.unique_consecutive(bs.tensor([1, 1, 3, 1]), return_inverse=True, return_counts=True)
    assert [part.tolist() for part in runs] == [[1, 3, 1], [0, 0, 1, 2], [2, 1, 1]]


# Products


EQUATIONS = [
    ("ij,jk", [(2, 3), (3, 4)]),
    ("ij,jk->ki", [(2, 3), (3, 4)]),
    ("ii", [(3, 3)]),
    ("ii->i", [(3, 3)]),
    ("iij,jk->ik", [(3, 3, 4), (4, 2)]),
    ("ijk->kj", [(2, 3, 4)]),
    ("ij->", [(2, 3)]),
    ("...ij,...jk->...ik", [(2, 3, 4), (4, 5)]),
    ("...ij,...jk", [(2, 1, 3, 4), (5, 4, 2)]),
    ("b...,...b->b", [(3,), (3,)]),
    ("i,j->ij", [(2,), (3,)]),
    ("ij,ij->ij", [(2, 3), (2, 3)]),
    ("ijk,ilm,jl->km", [(2, 3, 4), (2, 5, 6), (3, 5)]),
    ("ba,b->", [(3, 4), (3,)]),
    ("bhid,bhjd->bhij", [(2, 2, 3, 4), (2, 2, 5, 4)]),
    ("ij,jk", [(2, 0), (0, 3)]),
]


@pytest.mark.parametrize(("equation", "sizes"), EQUATIONS)
def test_einsum_agrees_with_numpy(equation: str, sizes: list[tuple[int, ...]]) -> None:
    arrays = [values(shape, seed) for seed, shape in enumerate(sizes)]
    wanted = np.einsum(equation, *arrays)
    agree(bs.einsum(equation, *map(tensor, arrays)), wanted)
    if wanted.size and all(a.size for a in arrays):
        leaves = [tensor(a).requires_grad_() for a in arrays]
        assert gradcheck(lambda *xs: bs.einsum(equation, *xs), leaves)


@pytest.mark.parametrize(
    ("equation", "sizes", "text"),
    [
        ("ij,jk", [(2, 3)], "2 terms for 1 operands"),
        ("ij", [(2, 3, 4)], "names 2 dims"),
        ("ij->k", [(2, 3)], "which no term has"),
        ("ij->ii", [(2, 3)], "names a dim twice"),
        ("ij,jk", [(2, 3), (4, 5)], "'j' is 3 in one operand and 4 in another"),
    ],
)
def test_a_wrong_equation_is_refused(equation: str, sizes: list[tuple[int, ...]], text: str) -> None:
    with pytest.raises(bs.errors.BacksweepError, match=text):
        bs.einsum(equation, *(bs.zeros(*shape) for shape in sizes))


def test_products_of_matrices_agree_with_numpy() -> None:
    a, b, c, v = values((3, 4)), values((4, 5), 1), values((3, 5), 2), values((4,), 3)
    agree(bs.mm(tensor(a), tensor(b)), a @ b)
    agree(bs.mv(tensor(a), tensor(v)), a @ v)
    agree(bs.dot(tensor(v), tensor(v)), v @ v)
    agree(bs.outer(tensor(v), tensor(v)), np.outer(v, v))
    agree(bs.addmm(tensor(c), tensor(a), tensor(b), beta=0.5, alpha=2), 0.5 * c + 2 * a @ b)
    agree(bs.trace(tensor(c)), np.trace(c))
    x, y = values((2, 3, 4)), values((2, 4, 5), 1)
    agree(bs.baddbmm(tensor(values((2, 3, 5))), tensor(x), tensor(y)), values((2, 3, 5)) + x @ y)
    agree(bs.tensordot(tensor(x), tensor(y), ([0, 2], [0, 1])), np.tensordot(x, y, ([0, 2], [0, 1])))
    with pytest.raises(bs.ShapeError):
        bs.mm(bs.zeros(2, 2, 2), bs.zeros(2, 2))


# In place


IN_PLACE: dict[str, tuple[Callable[[bs.Tensor], Any], Callable[[bs.Tensor], bs.Tensor]]] = {
    "arithmetic": (
        lambda x: x.add_(1).sub_(0.5).mul_(x.detach() + 3).div_(2).pow_(2),
        lambda x: (((x + 1 - 0.5) * (x.detach() + 1 - 0.5 + 3)) / 2) ** 2,
    ),
    "functions": (lambda x: x.abs_().add_(1).sqrt_().exp_().neg_(), lambda x: -(x.abs() + 1).sqrt().exp()),
    "clamp": (lambda x: x.clamp_(-0.5, 0.5), lambda x: x.clamp(-0.5, 0.5)),
    "masked_fill": (lambda x: x.masked_fill_(x.detach() > 0, 2.0), lambda x: x.masked_fill(x.detach() > 0, 2.0)),
    "index_fill": (lambda x: x.index_fill_(0, bs.tensor([1]), 2.0), lambda x: x.index_fill(0, bs.tensor([1]), 2.0)),
    "index_add": (
        lambda x: x.index_add_(0, bs.tensor([1]), bs.ones(1, 3).double()),
        lambda x: x.index_add(0, bs.tensor([1]), bs.ones(1, 3).double()),
    ),
    "scatter": (
        lambda x: x.scatter_(1, bs.tensor([[1], [0]]), 7.0),
        lambda x: x.scatter(1, bs.tensor([[1], [0]]), 7.0),
    ),
    "tril": (lambda x: x.tril_(), lambda x: x.tril()),
    "triu": (lambda x: x.triu_(1), lambda x: x.triu(1)),
    "lerp": (lambda x: x.lerp_(x.detach() * 0 + 1, 0.25), lambda x: x * 0.75 + 0.25),
    "zero": (lambda x: x.zero_(), lambda x: x * 0),
    "fill": (lambda x: x.fill_(3), lambda x: x * 0 + 3),
}


@pytest.mark.parametrize("name", list(IN_PLACE))
def test_the_forms_in_place_agree_with_the_others(name: str) -> None:
    write, read = IN_PLACE[name]
    x, y = leaf((2, 3)), leaf((2, 3))
    target = x * 1
    memory = target.data_ptr()
    assert write(target) is target and target.data_ptr() == memory
    wanted = read(y * 1)
    agree(target, array(wanted))
    weights = tensor(values((2, 3), 4))
    # What is overwritten as a whole has no history any more, and so no gradient.
    assert target.requires_grad == (name not in ("zero", "fill"))
    [dx] = bs.autograd.grad(((target + x * 0) * weights).sum(), [x], materialize_grads=True)
    [dy] = bs.autograd.grad((wanted * weights).sum(), [y], materialize_grads=True)
    agree(dx, array(dy))
    plain = tensor(values((2, 3)))
    write(plain)
    agree(plain, array(wanted))


def test_a_view_or_a_leaf_is_not_overwritten_in_silence() -> None:
    x = leaf((2, 3))
    with pytest.raises(bs.GraphError, match="leaf"):
        x.zero_()
    with pytest.raises(bs.GraphError, match="view"):
        (x * 1)[0].fill_(2.0)
    with bs.no_grad():
        x.zero_()
    assert x.requires_grad and x.tolist() == [[0.0] * 3] * 2


# Losses


def reference_losses() -> dict[str, tuple[Callable[..., bs.Tensor], Callable[..., Array]]]:
    def distance(a: Array, b: Array) -> Array:
        return np.sqrt((((a - b) + 1e-6) ** 2).sum(-1))

    def cosine(a: Array, b: Array) -> Array:
        return (a * b).sum(-1) / np.sqrt(((a**2).sum(-1) + 1e-12) * ((b**2).sum(-1) + 1e-12))

    return {
        "poisson": (F.poisson_nll_loss, lambda x, t: np.exp(x) - t * x),
        "poisson full": (
            lambda x, t, reduction: F.poisson_nll_loss(x.exp(), t.exp(), False, True, reduction=reduction),
            lambda x, t: np.exp(x) - np.exp(t) * np.log(np.exp(x) + 1e-8)
            + np.where(np.exp(t) > 1, np.exp(t) * t - np.exp(t) + 0.5 * np.log(2 * np.pi * np.exp(t)), 0),
        ),
        "gaussian": (
            lambda x, t, reduction: F.gaussian_nll_loss(x, t, t.exp(), True, reduction=reduction),
            lambda x, t: 0.5 * (t + (x - t) ** 2 / np.exp(t)) + 0.5 * np.log(2 * np.pi),
        ),
        "soft margin": (
            lambda x, t, reduction: F.soft_margin_loss(x, t.detach().sign(), reduction=reduction),
            lambda x, t: np.log1p(np.exp(-np.sign(t) * x)),
        ),
        "hinge": (
            lambda x, t, reduction: F.hinge_embedding_loss(x, t.detach().sign(), 0.7, reduction=reduction),
            lambda x, t: np.where(t > 0, x, np.maximum(0, 0.7 - x)),
        ),
        "ranking": (
            lambda x, t, reduction: F.margin_ranking_loss(x, t.flip(0), t.detach().sign(), 0.3, reduction=reduction),
            lambda x, t: np.maximum(0, 0.3 - np.sign(t) * (x - t[::-1])),
        ),
        "cosine": (
            lambda x, t, reduction: F.cosine_embedding_loss(x, t, t.detach()[:, 0].sign(), 0.1, reduction=reduction),
            lambda x, t: np.where(t[:, 0] > 0, 1 - cosine(x, t), np.maximum(0, cosine(x, t) - 0.1)),
        ),
        "triplet": (
            lambda x, t, reduction: F.triplet_margin_loss(x, t, x.flip(1), swap=True, reduction=reduction),
            lambda x, t: np.maximum(
                0, distance(x, t) - np.minimum(distance(x, x[:, ::-1]), distance(t, x[:, ::-1])) + 1
            ),
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(reference_losses()))
def test_losses_agree_with_their_formulas(name: str) -> None:
    function, formula = reference_losses()[name]
    x, t = values((4, 3)), values((4, 3), 1)
    each = formula(x, t)
    agree(function(tensor(x), tensor(t), reduction="none"), each, 1e-10)
    agree(function(tensor(x), tensor(t), reduction="sum"), each.sum(), 1e-10)
    agree(function(tensor(x), tensor(t), reduction="mean"), each.mean(), 1e-10)
    with pytest.raises(bs.errors.ValueError, match="reduction is 'all'"):
        function(tensor(x), tensor(t), reduction="all")
    assert gradcheck(lambda a, b: function(a, b, reduction="sum"), [leaf((4, 3)), leaf((4, 3), 1)], atol=1e-4)


@pytest.mark.parametrize(
    "loss",
    [
        nn.PoissonNLLLoss(),
        nn.SoftMarginLoss(),
        nn.HingeEmbeddingLoss(),
        lambda a, b: nn.GaussianNLLLoss()(a, b, bs.ones(3, 1)),
        lambda a, b: nn.MarginRankingLoss()(a, a, b),
        lambda a, b: nn.TripletMarginLoss()(a, b, b),
        lambda a, b: F.kl_div(a, b),
        lambda a, b: F.binary_cross_entropy(a, b),
        lambda a, b: F.l1_loss(a, b),
    ],
)
def test_a_loss_does_not_broadcast(loss: Callable[..., bs.Tensor]) -> None:
    with pytest.raises(bs.ShapeError, match="equal"):
        loss(bs.ones(3, 1), bs.ones(3))


# Fresh numbers


def test_draws_have_their_distributions() -> None:
    bs.manual_seed(3)
    weights = bs.tensor([[1.0, 0.0, 3.0], [5.0, 5.0, 0.0]])
    drawn = array(bs.multinomial(weights, 20_000, replacement=True))
    assert abs((drawn[0] == 2).mean() - 0.75) < 0.02 and abs((drawn[1] == 0).mean() - 0.5) < 0.02
    assert not (drawn[0] == 1).any() and not (drawn[1] == 2).any()
    # One without replacement is one with it; sizes of numbers do not matter, nor their type.
    rows = bs.tensor([[1e-40, 3e-40, 0.0], [1e38, 3e38, 0.0]]).repeat(5000, 1)
    for kind in (bs.float32, bs.float64):
        once = array(bs.multinomial(rows.to(kind), 1))[:, 0]
        assert abs((once == 1).mean() - 0.75) < 0.02 and not (once == 2).any()
    assert bs.multinomial(bs.tensor([0, 7, 0]), 4, replacement=True).tolist() == [1, 1, 1, 1]
    assert sorted(bs.multinomial(bs.ones(6), 6).tolist()) == list(range(6))
    with pytest.raises(bs.errors.ValueError, match="no more can be drawn"):
        bs.multinomial(weights, 3)
    chances = bs.bernoulli(bs.full((10_000,), 0.3))
    assert abs(chances.mean().item() - 0.3) < 0.02 and set(chances.unique().tolist()) == {0.0, 1.0}
    normal = bs.normal(bs.full((20_000,), 5.0), 2.0)
    assert abs(normal.mean().item() - 5) < 0.1 and abs(normal.std().item() - 2) < 0.1
    assert sorted(bs.randperm(50).tolist()) == list(range(50))
    state = bs.get_rng_state()
    first = bs.rand_like(bs.zeros(5, dtype=bs.float64))
    bs.set_rng_state(state)
    assert bs.equal(first, bs.rand(5, dtype=bs.float64)) and first.dtype is bs.float64


# Shapes and types


@pytest.mark.parametrize(
    ("call", "dtype"),
    [
        (lambda x: x.sum(), "int64"),
        (lambda x: x.prod(0), "int64"),
        (lambda x: x.cumsum(0), "int64"),
        (lambda x: x.amax(), "int32"),
        (lambda x: x.logsumexp(0), "float32"),
        (lambda x: x.argmax(), "int64"),
        (lambda x: x.sort().values, "int32"),
        (lambda x: bs.cat([x, bs.ones(1, dtype=bs.float16)]), "float16"),
        (lambda x: x.mean(dtype=bs.float64), "float64"),
        (lambda x: x.sum(dtype=bs.float32), "float32"),
        (lambda x: bs.where(x > 1, x, bs.zeros(1, dtype=bs.int64)), "int64"),
        (lambda x: F.one_hot(x.long()), "int64"),
    ],
)
def test_types_of_results(call: Callable[[bs.Tensor], bs.Tensor], dtype: str) -> None:
    assert call(bs.tensor([1, 2, 0], dtype=bs.int32)).dtype.name == dtype


@pytest.mark.parametrize("call", [bs.mean, bs.var, bs.std, bs.norm])
def test_integers_have_no_mean(call: Callable[[bs.Tensor], bs.Tensor]) -> None:
    with pytest.raises(bs.DTypeError, match="floating"):
        call(bs.tensor([1, 2]))


def test_a_mean_saves_nothing_and_a_variance_its_means() -> None:
    x = bs.tensor(np.zeros((8, 1024), dtype=np.float32), requires_grad=True)
    before = bs.memory.stats()["activation"]
    y = x.mean(1)
    assert bs.memory.stats()["activation"] == before
    z = x.var(1)
    w = x.logsumexp(1)
    # 8 means, and the 8 results of logsumexp; the input is saved but is not an activation.
    assert bs.memory.stats()["activation"] - before <= 4 * 64
    del y, z, w
