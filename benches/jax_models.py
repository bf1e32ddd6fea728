"""JAX twins of the workloads: pure functions of a dictionary with torch's parameter names.

Written as a JAX user would for speed: one jitted step with donated buffers, channels-last convolutions,
`lax.scan` over time with the input product hoisted. Running statistics of batch norm are left out: no
training step reads them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from workloads import Gpt, Lstm, Mlp, ResNet, Workload

Params = dict[str, jax.Array]
Step = Callable[[Params, Any, jax.Array, jax.Array], tuple[Params, Any, jax.Array]]


def _linear(p: Params, name: str, x: jax.Array) -> jax.Array:
    return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]


def _layer_norm(p: Params, name: str, x: jax.Array) -> jax.Array:
    mean = x.mean(-1, keepdims=True)
    centred = x - mean
    scale = lax.rsqrt((centred * centred).mean(-1, keepdims=True) + 1e-5)
    return centred * scale * p[f"{name}.weight"] + p[f"{name}.bias"]


def _gpt(model: Gpt, p: Params, tokens: jax.Array) -> jax.Array:
    x = p["wte.weight"][tokens] + p["wpe.weight"]
    b, t, c = x.shape
    for i in range(model.layers):
        qkv = _linear(p, f"h.{i}.attn.c_attn", _layer_norm(p, f"h.{i}.ln_1", x))
        q, k, v = (part.reshape(b, t, model.heads, c // model.heads) for part in jnp.split(qkv, 3, axis=2))
        y = jax.nn.dot_product_attention(q, k, v, is_causal=True)
        x = x + _linear(p, f"h.{i}.attn.c_proj", y.reshape(b, t, c))
        y = jax.nn.gelu(_linear(p, f"h.{i}.c_fc", _layer_norm(p, f"h.{i}.ln_2", x)), approximate=False)
        x = x + _linear(p, f"h.{i}.c_proj", y)
    return _layer_norm(p, "ln_f", x) @ p["wte.weight"].T


def _conv(p: Params, name: str, x: jax.Array, stride: int = 1) -> jax.Array:
    weight = p[f"{name}.weight"]
    pad = weight.shape[2] // 2
    return lax.conv_general_dilated(
        x, weight, (stride, stride), [(pad, pad), (pad, pad)], dimension_numbers=("NHWC", "OIHW", "NHWC")
    )


def _batch_norm(p: Params, name: str, x: jax.Array) -> jax.Array:
    mean = x.mean((0, 1, 2))
    centred = x - mean
    scale = lax.rsqrt((centred * centred).mean((0, 1, 2)) + 1e-5) * p[f"{name}.weight"]
    return centred * scale + p[f"{name}.bias"]


def _resnet(model: ResNet, p: Params, images: jax.Array) -> jax.Array:
    x = jax.nn.relu(_batch_norm(p, "bn", _conv(p, "conv", images.transpose(0, 2, 3, 1))))
    for i, (inside, outside, stride) in enumerate(model.stages()):
        name = f"blocks.{i}"
        y = jax.nn.relu(_batch_norm(p, f"{name}.bn1", _conv(p, f"{name}.conv1", x, stride)))
        y = _batch_norm(p, f"{name}.bn2", _conv(p, f"{name}.conv2", y))
        if stride != 1 or inside != outside:
            x = _batch_norm(p, f"{name}.project.1", _conv(p, f"{name}.project.0", x, stride))
        x = jax.nn.relu(y + x)
    return _linear(p, "head", x.mean((1, 2)))


def _mlp(model: Mlp, p: Params, x: jax.Array) -> jax.Array:
    last = len(model.sizes) - 2
    for i in range(last):
        x = jax.nn.relu(_linear(p, str(2 * i), x))
    return _linear(p, str(2 * last), x)


def _lstm(model: Lstm, p: Params, tokens: jax.Array) -> jax.Array:
    x = p["embedding.weight"][tokens]
    bias = p["lstm.bias_ih_l0"] + p["lstm.bias_hh_l0"]
    inputs = x @ p["lstm.weight_ih_l0"].T + bias
    recurrent = p["lstm.weight_hh_l0"].T

    def cell(state: tuple[jax.Array, jax.Array], gates: jax.Array) -> Any:
        h, c = state
        i, f, g, o = jnp.split(gates + h @ recurrent, 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
        h = jax.nn.sigmoid(o) * jnp.tanh(c)
        return (h, c), h

    zeros = jnp.zeros((x.shape[1], model.hidden), x.dtype)
    _, output = lax.scan(cell, (zeros, zeros), inputs)
    return _linear(p, "head", output)


def loss_function(workload: Workload) -> Callable[[Params, jax.Array, jax.Array], jax.Array]:
    """The loss of a workload as a function of (parameters, x, y)."""
    forward: Any = {Gpt: _gpt, ResNet: _resnet, Mlp: _mlp, Lstm: _lstm}[type(workload.model)]

    def loss(p: Params, x: jax.Array, y: jax.Array) -> jax.Array:
        output: jax.Array = forward(workload.model, p, x)
        if workload.loss == "mse":
            return jnp.mean((output - y) ** 2)
        logits = output.reshape(-1, output.shape[-1])
        picked = jnp.take_along_axis(logits, y.reshape(-1, 1), axis=1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) - picked)

    return loss


def optimizer(workload: Workload) -> tuple[Callable[[Params], Any], Callable[[Params, Params, Any], Any]]:
    """(initial state, update) of the workload's optimizer, with torch's formulas and defaults."""
    rate, decay = workload.settings["lr"], workload.settings.get("weight_decay", 0.0)

    def zeros(p: Params) -> Any:
        return jax.tree.map(jnp.zeros_like, p)

    if workload.optimizer == "SGD":
        momentum = workload.settings.get("momentum", 0.0)
        if momentum == 0.0:
            return lambda p: (), lambda p, g, s: (jax.tree.map(lambda w, d: w - rate * d, p, g), s)

        def momentum_update(p: Params, g: Params, velocity: Params) -> Any:
            velocity = jax.tree.map(lambda v, d: momentum * v + d, velocity, g)
            return jax.tree.map(lambda w, v: w - rate * v, p, velocity), velocity

        return zeros, momentum_update

    def adam_update(p: Params, g: Params, state: Any) -> Any:
        first, second, count = state
        count = count + 1
        first = jax.tree.map(lambda m, d: 0.9 * m + 0.1 * d, first, g)
        second = jax.tree.map(lambda v, d: 0.999 * v + 0.001 * d * d, second, g)
        # 1 - 0.999**count in float32 would lose four digits
        size = rate / -jnp.expm1(count * math.log(0.9))
        root = jnp.sqrt(-jnp.expm1(count * math.log(0.999)))

        def move(w: jax.Array, m: jax.Array, v: jax.Array) -> Any:
            return w * (1 - rate * decay) - size * m / (jnp.sqrt(v) / root + 1e-8)

        return jax.tree.map(move, p, first, second), (first, second, count)

    return lambda p: (zeros(p), zeros(p), jnp.zeros((), jnp.float32)), adam_update


def training_step(workload: Workload) -> Step:
    """One jitted step: (parameters, optimizer state, x, y) → (parameters, optimizer state, loss)."""
    loss, (_, update) = loss_function(workload), optimizer(workload)

    def step(p: Params, state: Any, x: jax.Array, y: jax.Array) -> tuple[Params, Any, jax.Array]:
        value, gradient = jax.value_and_grad(loss)(p, x, y)
        p, state = update(p, gradient, state)
        return p, state, value

    return jax.jit(step, donate_argnums=(0, 1))
