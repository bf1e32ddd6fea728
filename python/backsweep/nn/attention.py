"""Multi-head attention, under PyTorch's weight names and mask conventions."""

from __future__ import annotations

import math
from typing import Any

import backsweep as bs

from .. import errors
from .._core import Tensor
from . import functional as F
from . import init
from .linear import Linear
from .module import Module, Parameter


class MultiheadAttention(Module):
    """Attend to value at the places where key matches query, in several heads.

    Vaswani et al. 2017, arXiv:1706.03762

    A boolean mask is True where attention is not allowed; a float mask is added to the scores.
    Shapes: query [l, n, embed_dim], key [s, n, kdim], value [s, n, vdim] → [l, n, embed_dim] and weights
        [n, l, s]; n comes first with batch_first, and may be left out
    """

    in_proj_weight: Parameter | None
    q_proj_weight: Parameter | None
    k_proj_weight: Parameter | None
    v_proj_weight: Parameter | None
    in_proj_bias: Parameter | None
    bias_k: Parameter | None
    bias_v: Parameter | None

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        bias: bool = True,
        add_bias_kv: bool = False,
        add_zero_attn: bool = False,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        """Draw the input projections by `xavier_uniform_`; biases start at 0."""
        super().__init__()
        if num_heads < 1 or embed_dim % num_heads:
            raise errors.ValueError(
                f"MultiheadAttention: embed_dim {embed_dim} does not divide into {num_heads} heads; "
                f"num_heads must divide embed_dim"
            )
        self.embed_dim = embed_dim
        self.num_heads = num_heads
        self.dropout = dropout
        self.add_zero_attn = add_zero_attn
        self.kdim = embed_dim if kdim is None else kdim
        self.vdim = embed_dim if vdim is None else vdim
        self.batch_first = batch_first
        packed = self.kdim == self.vdim == embed_dim

        def parameter(name: str, wanted: bool, *shape: int) -> None:
            value = Parameter(bs.empty(*shape, device=device, dtype=dtype)) if wanted else None
            self.register_parameter(name, value)

        parameter("q_proj_weight", not packed, embed_dim, embed_dim)
        parameter("k_proj_weight", not packed, embed_dim, self.kdim)
        parameter("v_proj_weight", not packed, embed_dim, self.vdim)
        parameter("in_proj_weight", packed, 3 * embed_dim, embed_dim)
        parameter("in_proj_bias", bias, 3 * embed_dim)
        self.out_proj = Linear(embed_dim, embed_dim, bias, device, dtype)
        parameter("bias_k", add_bias_kv, 1, 1, embed_dim)
        parameter("bias_v", add_bias_kv, 1, 1, embed_dim)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew, except the weight of the output projection."""
        for weight in (self.in_proj_weight, self.q_proj_weight, self.k_proj_weight, self.v_proj_weight):
            if weight is not None:
                init.xavier_uniform_(weight)
        for bias in (self.in_proj_bias, self.out_proj.bias):
            if bias is not None:
                init.zeros_(bias)
        for extra in (self.bias_k, self.bias_v):
            if extra is not None:
                init.xavier_normal_(extra)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend; need_weights=False is faster, and keeps no [l, s] matrix for the backward sweep.

        is_causal says that attn_mask is the causal mask, or stands for it where attn_mask is left out.
        A place that may attend to nothing gives 0.
        Shapes: key_padding_mask [n, s]; attn_mask [l, s] or [n·num_heads, l, s]
        """
        self._check(query, key, value)
        batched = query.ndim == 3
        same_kv, same_qk = key is value, query is key
        if not batched:
            query, key, value = (x.unsqueeze(0) for x in (query, key, value))
            key_padding_mask = None if key_padding_mask is None else key_padding_mask.unsqueeze(0)
        elif not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        n, l = query.shape[:2]
        q, k, v = self._project(query, key, value, same_qk and same_kv, same_kv)
        if self.bias_k is not None and self.bias_v is not None:
            k = bs.cat([k, self.bias_k.expand(n, 1, -1)], dim=1)
            v = bs.cat([v, self.bias_v.expand(n, 1, -1)], dim=1)
        if self.add_zero_attn:
            zero = bs.zeros(n, 1, self.embed_dim, device=k.device, dtype=k.dtype)
            k, v = bs.cat([k, zero], dim=1), bs.cat([v, zero], dim=1)
        s = key.shape[1]
        added = k.shape[1] - s

        # The flag spares the mask, but stands for the plain causal pattern only.
        causal = is_causal and not (need_weights or key_padding_mask is not None or added)
        if causal:
            attn_mask = None
        elif is_causal and attn_mask is None:
            attn_mask = bs.arange(l, device=q.device).unsqueeze(1) < bs.arange(s, device=q.device)
        mask = self._mask(attn_mask, key_padding_mask, (n, l, s), added, q.dtype)
        q, k, v = (self._split(x) for x in (q, k, v))
        dropout = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            y, weights = self._attend(q, k, v, mask, dropout)
        else:
            if mask is not None and mask.dtype == bs.bool:
                mask = mask.logical_not()  # the function's boolean mask is True where attention is allowed
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal)
        y = self.out_proj(y.transpose(1, 2).reshape(n, l, self.embed_dim))
        if weights is not None and average_attn_weights:
            weights = weights.mean(dim=1)
        if not batched:
            return y.squeeze(0), None if weights is None else weights.squeeze(0)
        return (y if self.batch_first else y.transpose(0, 1)), weights

    def _check(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        shapes = [list(x.shape) for x in (query, key, value)]
        widths = [self.embed_dim, self.kdim, self.vdim]
        ranks = {len(shape) for shape in shapes}
        if len(ranks) != 1 or not ranks <= {2, 3} or [shape[-1] for shape in shapes] != widths:
            raise errors.ShapeError(
                f"MultiheadAttention: query, key, value have shapes {shapes[0]}, {shapes[1]}, {shapes[2]}; "
                f"2 or 3 axes are needed, the last of them {widths[0]}, {widths[1]}, {widths[2]}"
            )
        batch = 0 if self.batch_first else 1
        if shapes[1][:-1] != shapes[2][:-1] or (len(shapes[0]) == 3 and shapes[0][batch] != shapes[1][batch]):
            raise errors.ShapeError(
                f"MultiheadAttention: query, key, value have shapes {shapes[0]}, {shapes[1]}, {shapes[2]}; "
                f"key and value must have equal length, and all three the same batch"
            )

    def _project(
        self, query: Tensor, key: Tensor, value: Tensor, all_same: bool, same_kv: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        e, w, b = self.embed_dim, self.in_proj_weight, self.in_proj_bias
        if w is None:
            b_q, b_k, b_v = (None,) * 3 if b is None else b.chunk(3)
            w_q, w_k, w_v = self.q_proj_weight, self.k_proj_weight, self.v_proj_weight
            assert w_q is not None and w_k is not None and w_v is not None, "bug: neither packed nor single weights"
            return F.linear(query, w_q, b_q), F.linear(key, w_k, b_k), F.linear(value, w_v, b_v)
        if all_same:
            q, k, v = F.linear(query, w, b).chunk(3, dim=-1)
            return q, k, v
        q = F.linear(query, w[:e], None if b is None else b[:e])
        if same_kv:
            k, v = F.linear(key, w[e:], None if b is None else b[e:]).chunk(2, dim=-1)
            return q, k, v
        k = F.linear(key, w[e : 2 * e], None if b is None else b[e : 2 * e])
        return q, k, F.linear(value, w[2 * e :], None if b is None else b[2 * e :])

    def _split(self, x: Tensor) -> Tensor:
        """Part the heads: [n, l, e] → [n, heads, l, e / heads]."""
        n, l, e = x.shape
        return x.view(n, l, self.num_heads, e // self.num_heads).transpose(1, 2)

    def _mask(
        self, attn: Tensor | None, padding: Tensor | None, sizes: tuple[int, int, int], added: int, dtype: Any
    ) -> Tensor | None:
        """Join both masks into one that broadcasts to [n, heads, l, s]; added keys are never masked."""
        n, l, s = sizes
        masks = []
        if attn is not None:
            shape, whole = tuple(attn.shape), (n * self.num_heads, l, s)
            if shape not in ((l, s), whole):
                raise errors.ShapeError(
                    f"MultiheadAttention: attn_mask has shape {list(shape)}; "
                    f"{[l, s]} or {list(whole)} is needed"
                )
            masks.append(attn if len(shape) == 2 else attn.view(n, self.num_heads, l, s))
        if padding is not None:
            if tuple(padding.shape) != (n, s):
                raise errors.ShapeError(
                    f"MultiheadAttention: key_padding_mask has shape {list(padding.shape)}; "
                    f"{[n, s]} is needed"
                )
            masks.append(padding.view(n, 1, 1, s))
        if any(mask.dtype != bs.bool for mask in masks):
            masks = [_additive(mask, dtype) for mask in masks]
        if not masks:
            return None
        mask = masks[0]
        for other in masks[1:]:
            mask = mask.logical_or(other) if mask.dtype == bs.bool else mask + other
        if not added:
            return mask
        seen = bs.zeros(*mask.shape[:-1], added, device=mask.device, dtype=mask.dtype)
        return bs.cat([mask, seen], dim=-1)

    def _attend(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float
    ) -> tuple[Tensor, Tensor]:
        scores = (q * (1.0 / math.sqrt(q.shape[-1]))).matmul(k.transpose(-2, -1))
        dead = None
        if mask is not None:
            mask = _additive(mask, q.dtype)
            # A row with no key left would be 0/0: let it see all of them, then set its weights to 0.
            dead = mask.eq(-math.inf).all(dim=-1, keepdim=True)
            scores = scores + mask.masked_fill(dead, 0.0)
        weights = F.softmax(scores, dim=-1)
        if dead is not None:
            weights = weights.masked_fill(dead, 0.0)
        if dropout > 0:
            weights = F.dropout(weights, dropout)
        return weights.matmul(v), weights


def _additive(mask: Tensor, dtype: Any) -> Tensor:
    if mask.dtype != bs.bool:
        return mask
    return bs.zeros(*mask.shape, device=mask.device, dtype=dtype).masked_fill(mask, -math.inf)
