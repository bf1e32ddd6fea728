"""Recurrent layers and cells: RNN, LSTM and GRU, under PyTorch's weight names.

LSTM and GRU run as one op a layer and direction; the plain RNN is composed.
"""

from __future__ import annotations

import math
import warnings
from typing import Any, ClassVar

import backsweep as bs

from .. import _core, errors
from .._core import Tensor
from . import functional as F
from . import init
from .module import Module, Parameter

# Input-hidden weight and hidden-hidden weight, and their biases if there are any.
Weights = tuple[Tensor, ...]


class _Recurrent(Module):
    """Layers over time: parameters, directions, dropout between layers, layout of the input."""

    _gates: ClassVar[int]
    _states: ClassVar[int]  # tensors a layer carries from step to step: h, or h and c

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        """Draw all parameters from U(-1/√hidden_size, 1/√hidden_size)."""
        super().__init__()
        name = type(self).__name__
        if hidden_size < 1 or num_layers < 1:
            raise errors.ValueError(
                f"{name}: hidden_size={hidden_size}, num_layers={num_layers}; 1 or more are needed"
            )
        if not 0 <= dropout <= 1:
            raise errors.ValueError(
                f"{name}: dropout={dropout} is no probability; a value from 0 to 1 is needed"
            )
        if dropout > 0 and num_layers == 1:
            warnings.warn(
                f"{name}: dropout={dropout} acts between layers, and there is only one; "
                f"num_layers > 1 is needed",
                stacklevel=3,
            )
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = dropout
        self.bidirectional = bidirectional
        rows, directions = self._gates * hidden_size, 1 + bidirectional
        for layer in range(num_layers):
            columns = input_size if layer == 0 else directions * hidden_size
            for direction in range(directions):
                shapes = [(rows, columns), (rows, hidden_size)] + [(rows,)] * (2 * bias)
                for name, shape in zip(self._names(layer, direction), shapes, strict=True):
                    setattr(self, name, Parameter(bs.empty(*shape, device=device, dtype=dtype)))
        self.reset_parameters()

    def _names(self, layer: int, direction: int) -> list[str]:
        kinds = ["weight_ih", "weight_hh"] + ["bias_ih", "bias_hh"] * self.bias
        return [f"{kind}_l{layer}" + "_reverse" * direction for kind in kinds]

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def _weights(self, layer: int, direction: int) -> Weights:
        return tuple(getattr(self, name) for name in self._names(layer, direction))

    def _scan(
        self, x: Tensor, states: tuple[Tensor, ...], weights: Weights, reverse: bool
    ) -> tuple[Tensor, ...]:
        """Run one layer in one direction: x [t, b, i], states [b, h] → y [t, b, h], states [b, h]."""
        raise NotImplementedError

    def _run(self, x: Tensor, given: tuple[Tensor, ...] | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        name = type(self).__name__
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            layout = "[b, t, input]" if self.batch_first else "[t, b, input]"
            raise errors.ShapeError(
                f"{name}: input has shape {list(x.shape)}; {layout} or [t, input] is needed, "
                f"with input {self.input_size}"
            )
        batched = x.ndim == 3
        if not batched:
            x = x.unsqueeze(1)
        elif self.batch_first:
            x = x.transpose(0, 1)
        if not x.shape[0]:
            raise errors.ShapeError(f"{name}: input has shape {list(x.shape)}, 0 steps; 1 step or more is needed")
        directions = 1 + self.bidirectional
        wanted = (self.num_layers * directions, x.shape[1], self.hidden_size)
        if given is None:
            zero = bs.zeros(*wanted[1:], device=x.device, dtype=x.dtype)
            rows = [(zero,) * self._states] * wanted[0]
        else:
            if not batched:
                given = tuple(state.unsqueeze(1) for state in given)
            for state in given:
                if tuple(state.shape) != wanted:
                    shown = [
                        list(shape) if batched else [shape[0], *shape[2:]] for shape in (state.shape, wanted)
                    ]
                    raise errors.ShapeError(f"{name}: a state has shape {shown[0]}; {shown[1]} is needed")
            rows = list(zip(*(state.unbind(0) for state in given), strict=True))
        last: list[tuple[Tensor, ...]] = []
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(directions):
                row = rows[layer * directions + direction]
                y, *after = self._scan(x, row, self._weights(layer, direction), direction == 1)
                outputs.append(y)
                last.append(tuple(after))
            x = bs.cat(outputs, dim=-1) if self.bidirectional else outputs[0]
            if self.dropout > 0 and layer + 1 < self.num_layers:
                x = F.dropout(x, self.dropout, self.training)
        if len(last) == 1:
            states = tuple(state.unsqueeze(0) for state in last[0])
        else:
            states = tuple(bs.stack(state, dim=0) for state in zip(*last, strict=True))
        if not batched:
            return x.squeeze(1), tuple(state.squeeze(1) for state in states)
        return (x.transpose(0, 1) if self.batch_first else x), states

    def extra_repr(self) -> str:
        """Say the settings that differ from the defaults."""
        parts = [f"{self.input_size}, {self.hidden_size}"]
        defaults = {
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
        }
        for name, default in defaults.items():
            value = getattr(self, name)
            parts += [f"{name}={value}"] * (value != default)
        return ", ".join(parts)


class RNN(_Recurrent):
    """h = tanh(x W_ihᵀ + b_ih + h W_hhᵀ + b_hh), step after step.   Elman 1990

    Shapes: x [t, b, input_size], h [layers·directions, b, hidden_size] → y [t, b, directions·hidden_size], h
    """

    _gates = 1
    _states = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        """Draw all parameters from U(-1/√hidden_size, 1/√hidden_size); nonlinearity is "tanh" or "relu"."""
        super().__init__(
            input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype
        )
        self.nonlinearity = _nonlinearity("RNN", nonlinearity)

    def _scan(
        self, x: Tensor, states: tuple[Tensor, ...], weights: Weights, reverse: bool
    ) -> tuple[Tensor, ...]:
        w_ih, w_hh, *biases = weights
        b_ih, b_hh = biases or (None, None)
        (h,) = states
        ys = []
        for x_t in F.linear(x, w_ih, b_ih).unbind(0)[:: -1 if reverse else 1]:
            h = _rnn_step(x_t, h, w_hh, b_hh, self.nonlinearity)
            ys.append(h)
        return bs.stack(ys[::-1] if reverse else ys, dim=0), h

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run over time from state hx, zero if left out; give all outputs and the last state."""
        y, (h_n,) = self._run(input, None if hx is None else (hx,))
        return y, h_n


class GRU(_Recurrent):
    """Gated recurrent unit; gates in the order reset, update, new.   Cho et al. 2014, arXiv:1406.1078

    Shapes: x [t, b, input_size], h [layers·directions, b, hidden_size] → y [t, b, directions·hidden_size], h
    """

    _gates = 3
    _states = 1

    def _scan(
        self, x: Tensor, states: tuple[Tensor, ...], weights: Weights, reverse: bool
    ) -> tuple[Tensor, ...]:
        return _core.apply("gru", x, *states, *weights, reverse)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Run over time from state hx, zero if left out; give all outputs and the last state."""
        y, (h_n,) = self._run(input, None if hx is None else (hx,))
        return y, h_n


class LSTM(_Recurrent):
    """Long short-term memory; gates in the order input, forget, cell, output.

    Hochreiter and Schmidhuber 1997

    Shapes: x [t, b, input_size], h and c [layers·directions, b, hidden_size]
        → y [t, b, directions·hidden_size], (h, c)
    Example:
        >>> y, (h, c) = nn.LSTM(3, 5)(bs.zeros(7, 2, 3))
        >>> y.shape, h.shape
        ((7, 2, 5), (1, 2, 5))
    """

    _gates = 4
    _states = 2

    def _scan(
        self, x: Tensor, states: tuple[Tensor, ...], weights: Weights, reverse: bool
    ) -> tuple[Tensor, ...]:
        return _core.apply("lstm", x, *states, *weights, reverse)

    def forward(
        self, x: Tensor, hx: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run over time from state hx = (h, c), zero if left out; give all outputs and the last state."""
        y, (h_n, c_n) = self._run(x, None if hx is None else tuple(hx))
        return y, (h_n, c_n)


class _Cell(Module):
    """One step of one layer."""

    _gates: ClassVar[int]
    weight_ih: Parameter
    weight_hh: Parameter
    bias_ih: Parameter | None
    bias_hh: Parameter | None

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        """Draw all parameters from U(-1/√hidden_size, 1/√hidden_size)."""
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        rows = self._gates * hidden_size
        self.weight_ih = Parameter(bs.empty(rows, input_size, device=device, dtype=dtype))
        self.weight_hh = Parameter(bs.empty(rows, hidden_size, device=device, dtype=dtype))
        for name in ("bias_ih", "bias_hh"):
            value = Parameter(bs.empty(rows, device=device, dtype=dtype)) if bias else None
            self.register_parameter(name, value)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the parameters anew."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def _weights(self) -> Weights:
        if self.bias_ih is None or self.bias_hh is None:
            return self.weight_ih, self.weight_hh
        return self.weight_ih, self.weight_hh, self.bias_ih, self.bias_hh

    def _step(self, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Take one step: x [b, i], states [b, h] → states [b, h]."""
        raise NotImplementedError

    def _run(self, x: Tensor, states: tuple[Tensor, ...] | None, count: int) -> tuple[Tensor, ...]:
        batched = x.ndim == 2
        if x.ndim not in (1, 2) or x.shape[-1] != self.input_size:
            raise errors.ShapeError(
                f"{type(self).__name__}: input has shape {list(x.shape)}; [b, {self.input_size}] or "
                f"[{self.input_size}] is needed"
            )
        if not batched:
            x = x.unsqueeze(0)
        if states is None:
            states = (bs.zeros(x.shape[0], self.hidden_size, device=x.device, dtype=x.dtype),) * count
        elif not batched:
            states = tuple(state.unsqueeze(0) for state in states)
        after = self._step(x, states)
        return after if batched else tuple(state.squeeze(0) for state in after)

    def extra_repr(self) -> str:
        """Say the sizes."""
        return f"{self.input_size}, {self.hidden_size}" + ", bias=False" * (self.bias_ih is None)


class RNNCell(_Cell):
    """One step of an RNN.

    Shapes: x [b, input_size], h [b, hidden_size] → h [b, hidden_size]
    """

    _gates = 1

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: str | None = None,
        dtype: Any = None,
    ) -> None:
        """Draw all parameters from U(-1/√hidden_size, 1/√hidden_size); nonlinearity is "tanh" or "relu"."""
        super().__init__(input_size, hidden_size, bias, device, dtype)
        self.nonlinearity = _nonlinearity("RNNCell", nonlinearity)

    def _step(self, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        w_ih, w_hh, *biases = self._weights()
        b_ih, b_hh = biases or (None, None)
        (h,) = states
        return (_rnn_step(F.linear(x, w_ih, b_ih), h, w_hh, b_hh, self.nonlinearity),)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Take one step from state hx, zero if left out."""
        return self._run(input, None if hx is None else (hx,), 1)[0]


class GRUCell(_Cell):
    """One step of a GRU.

    Shapes: x [b, input_size], h [b, hidden_size] → h [b, hidden_size]
    """

    _gates = 3

    def _step(self, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        _, *after = _core.apply("gru", x.unsqueeze(0), *states, *self._weights())
        return tuple(after)

    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:
        """Take one step from state hx, zero if left out."""
        return self._run(input, None if hx is None else (hx,), 1)[0]


class LSTMCell(_Cell):
    """One step of an LSTM.

    Shapes: x [b, input_size], h and c [b, hidden_size] → (h, c), each [b, hidden_size]
    """

    _gates = 4

    def _step(self, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        _, *after = _core.apply("lstm", x.unsqueeze(0), *states, *self._weights())
        return tuple(after)

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor]:
        """Take one step from state hx = (h, c), zero if left out."""
        h, c = self._run(input, hx, 2)
        return h, c


def _nonlinearity(name: str, nonlinearity: str) -> str:
    if nonlinearity not in ("tanh", "relu"):
        raise errors.ValueError(f"{name}: nonlinearity {nonlinearity!r} is unknown; tanh or relu is needed")
    return nonlinearity


def _rnn_step(x: Tensor, h: Tensor, w_hh: Tensor, b_hh: Tensor | None, nonlinearity: str) -> Tensor:
    total = x + F.linear(h, w_hh, b_hh)
    return total.tanh() if nonlinearity == "tanh" else F.relu(total)
