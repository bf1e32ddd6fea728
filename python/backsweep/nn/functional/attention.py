"""Scaled dot-product attention."""

from __future__ import annotations

import math

from ... import _core, errors
from ..._core import Tensor, apply


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
