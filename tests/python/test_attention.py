"""Attention as a function: masks, shapes, dropout, grouped heads, and what it keeps in memory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import backsweep as bs
import backsweep.nn.functional as F
from backsweep.errors import BacksweepError

Array = np.ndarray[Any, Any]


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng([seed, *shape]).standard_normal(shape)


def tensor(values: Array) -> bs.Tensor:
    return bs.from_numpy(np.array(values))


def formula(q: Array, k: Array, v: Array, mask: Array | None = None, scale: float | None = None) -> Array:
    s = q @ k.swapaxes(-1, -2) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if mask is not None:
        s = np.where(mask, s, -np.inf) if mask.dtype == bool else s + mask
    top = s.max(axis=-1, keepdims=True)
    e = np.exp(s - np.where(np.isfinite(top), top, 0.0))
    total = e.sum(axis=-1, keepdims=True)
    return np.where(total > 0, e / np.where(total > 0, total, 1.0), 0.0) @ v


Q, K, V = draw(2, 3, 5, 4), draw(2, 3, 7, 4, seed=1), draw(2, 3, 7, 6, seed=2)
KEEP = draw(5, 7, seed=3) > -0.5
KEEP[2] = False


@pytest.mark.parametrize(
    ("mask", "settings"),
    [
        (None, {}),
        (None, {"scale": 0.3}),
        (KEEP, {}),
        (draw(7, seed=4), {}),
        (draw(2, 1, 1, 7, seed=4) > 0, {}),
        (draw(3, 5, 1, seed=4), {}),
        (draw(4, 1, 1, 5, 7, seed=4), {}),
    ],
    ids=["plain", "scale", "bool", "one dim", "padding", "added", "more leading dims"],
)
def test_attention_follows_its_formula(mask: Array | None, settings: dict[str, Any]):
    given = None if mask is None else tensor(mask)
    y = F.scaled_dot_product_attention(tensor(Q), tensor(K), tensor(V), given, **settings)
    np.testing.assert_allclose(y.numpy(), formula(Q, K, V, mask, **settings), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("lead", [(), (3,), (2, 3), (2, 1, 3)])
@pytest.mark.parametrize(("rows", "columns"), [(5, 5), (3, 6), (6, 3)])
def test_causal_attention_sees_no_later_key(lead: tuple[int, ...], rows: int, columns: int):
    q, k, v = draw(*lead, rows, 4), draw(*lead, columns, 4, seed=1), draw(*lead, columns, 2, seed=2)
    y = F.scaled_dot_product_attention(tensor(q), tensor(k), tensor(v), is_causal=True)
    mask = np.tril(np.ones((rows, columns), dtype=bool))
    np.testing.assert_allclose(y.numpy(), formula(q, k, v, mask), rtol=1e-12, atol=1e-14)


def test_a_row_without_a_key_gives_zero_and_a_zero_gradient():
    q = tensor(Q).requires_grad_()
    for create_graph in (False, True):
        y = F.scaled_dot_product_attention(q, tensor(K), tensor(V), tensor(KEEP))
        assert not y.detach().numpy()[:, :, 2].any()
        (dq,) = bs.autograd.grad(y.sum(), [q], create_graph=create_graph)
        assert not dq.detach().numpy()[:, :, 2].any()
        assert np.isfinite(dq.detach().numpy()).all()


def test_gradients_and_their_gradients_agree_with_differences():
    q, k, v = (tensor(draw(2, 3, 4, seed=i)).requires_grad_() for i in range(3))
    mask = tensor(draw(3, 3, seed=5)).requires_grad_()

    def attend(q: bs.Tensor, k: bs.Tensor, v: bs.Tensor, mask: bs.Tensor) -> bs.Tensor:
        return F.scaled_dot_product_attention(q, k, v, mask)

    def causal(q: bs.Tensor, k: bs.Tensor, v: bs.Tensor) -> bs.Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    assert bs.autograd.gradcheck(attend, (q, k, v, mask))
    assert bs.autograd.gradgradcheck(attend, (q, k, v, mask))
    assert bs.autograd.gradcheck(causal, (q, k, v))
    assert bs.autograd.gradgradcheck(causal, (q, k, v))


def test_grouped_heads_are_repeated_heads():
    q, k, v = draw(2, 6, 5, 4), draw(2, 3, 7, 4), draw(2, 3, 7, 2)
    for mask in (None, draw(2, 6, 5, 7) > 0, draw(2, 1, 5, 7) > 0, draw(5, 7)):
        given = None if mask is None else tensor(mask)
        kt, vt = tensor(k).requires_grad_(), tensor(v).requires_grad_()
        y = F.scaled_dot_product_attention(tensor(q), kt, vt, given, enable_gqa=True)
        wanted = formula(q, k.repeat(2, axis=1), v.repeat(2, axis=1), mask)
        np.testing.assert_allclose(y.detach().numpy(), wanted, rtol=1e-12, atol=1e-14)
        y.sum().backward()
        assert kt.grad.shape == k.shape
        assert vt.grad.shape == v.shape
    with pytest.raises(BacksweepError, match="4 heads of the query with 3 of the key"):
        F.scaled_dot_product_attention(tensor(q[:, :4]), tensor(k), tensor(v), enable_gqa=True)


def test_dropout_keeps_the_mean_and_is_drawn_anew():
    bs.manual_seed(0)
    q, k, v = (tensor(draw(4, 32, 8, seed=i)) for i in range(3))
    plain = F.scaled_dot_product_attention(q, k, v).numpy()
    many = np.stack([F.scaled_dot_product_attention(q, k, v, dropout_p=0.4).numpy() for _ in range(400)])
    deviation = many.std(axis=0)
    assert (deviation > 0).all()
    assert (abs(many.mean(axis=0) - plain) < 6 * deviation / 20).all()
    bs.manual_seed(3)
    first = F.scaled_dot_product_attention(q, k, v, dropout_p=0.4).numpy()
    bs.manual_seed(3)
    assert (F.scaled_dot_product_attention(q, k, v, dropout_p=0.4).numpy() == first).all()
    assert not F.scaled_dot_product_attention(q, k, v, dropout_p=1.0).numpy().any()


def test_the_way_back_drops_what_the_way_there_dropped():
    q, k, v = (tensor(draw(2, 3, 5, 4, seed=i)).requires_grad_() for i in range(3))
    gradients = []
    for create_graph in (False, True):
        bs.manual_seed(5)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.5)
        gradients.append(bs.autograd.grad((y * y).sum(), [q, k, v], create_graph=create_graph))
    for fused, composed in zip(*gradients, strict=True):
        np.testing.assert_allclose(fused.numpy(), composed.detach().numpy(), rtol=1e-10, atol=1e-12)


def test_what_is_kept_grows_with_the_length_and_not_with_its_square():
    def kept(length: int) -> int:
        q, k, v = (bs.randn(2, length, 16).requires_grad_() for _ in range(3))
        before = bs.memory.stats()["live"]
        bs.memory.reset_peak()
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        y.sum().backward()
        return bs.memory.stats()["peak"] - before

    kept(64)
    assert kept(2048) < 2.5 * kept(1024)


def test_heads_cut_from_a_projection_are_read_in_place_and_joined_without_a_copy():
    x = bs.randn(2, 9, 3 * 8)
    q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in x.chunk(3, dim=-1))
    y = F.scaled_dot_product_attention(q, k, v)
    joined = y.transpose(1, 2).reshape(2, 9, 8)
    assert joined.data_ptr() == y.data_ptr()
    wanted = formula(q.numpy(), k.numpy(), v.numpy())
    np.testing.assert_allclose(y.numpy(), wanted, rtol=1e-4, atol=1e-5)


def test_attention_refuses_what_does_not_fit():
    q, k, v = bs.zeros(2, 5, 4), bs.zeros(2, 7, 4), bs.zeros(2, 7, 3)
    refused: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
        ((q, k, v), {"attn_mask": bs.zeros(5, 7), "is_causal": True}, "one of them is possible"),
        ((q, bs.zeros(2, 7, 5), v), {}, "the last dims of query and key differ"),
        ((q, k, bs.zeros(2, 6, 3)), {}, "key and value differ in length"),
        ((q[0, 0], k, v), {}, "each needs 2 dims or more"),
        ((q, bs.zeros(3, 7, 4), v), {}, "attention"),
        ((q, k, v), {"attn_mask": bs.zeros(5, 6)}, r"a mask \[5, 6\] for scores \[2, 5, 7\]"),
        ((q, k, v), {"attn_mask": bs.zeros(5, 7, dtype=bs.float64)}, "a mask of dtype float64"),
        ((q, k.double(), v), {}, "dtypes float32 and float64 differ"),
        ((q, k, v), {"dropout_p": 1.5}, "dropout_p is 1.5"),
    ]
    for operands, settings, text in refused:
        with pytest.raises(BacksweepError, match=text):
            F.scaled_dot_product_attention(*operands, **settings)
