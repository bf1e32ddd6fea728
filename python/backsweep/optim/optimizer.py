"""Optimizer: groups of parameters with their settings, the state of each parameter, and the step.

Imports the native module and the errors. A subclass only says how one group is updated.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import backsweep as bs

from .. import _core, errors, memory
from .._core import Tensor
from ..nn.module import zero_grads

# Parameters, (name, parameter) pairs, or dicts with "params" and settings of their own.
Params = Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[dict[str, Any]]
Closure = Callable[[], Any]
# Called at the end of each step, by whoever watches a training.
after_step: list[Callable[[], None]] = []


class Optimizer:
    """The base of all optimizers.

    A parameter that requires a gradient but has none when a step is taken is reported by a UserWarning, once:
    it is not being trained. `optimizer.report_unused = False` turns the report off.
    """

    param_groups: list[dict[str, Any]]
    state: dict[Tensor, dict[str, Any]]
    report_unused: bool = True

    def __init__(self, params: Params, defaults: Mapping[str, Any]) -> None:
        """Take the parameters, and the settings of groups that do not bring their own."""
        if isinstance(params, (Tensor, str)):
            raise TypeError(
                f"{type(self).__name__}: params is a {type(params).__name__}; "
                f"parameters in a list are needed (help: net.parameters())"
            )
        memory.stateful.add(self)
        self.defaults = dict(defaults)
        self.state = defaultdict(dict)
        self.param_groups = []
        self._steps = 0
        self._reported: set[int] = set()
        entries = list(params)
        if not entries:
            raise errors.ValueError(
                f"{type(self).__name__}: params is empty; one parameter or more is needed"
            )
        groups = entries if isinstance(entries[0], dict) else [{"params": entries}]
        for group in groups:
            self.add_param_group(group)  # type: ignore[arg-type]

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters with settings of their own; what is left out comes from the defaults."""
        op, number = type(self).__name__, len(self.param_groups)
        if not isinstance(param_group, dict) or "params" not in param_group:
            raise TypeError(f"{op}: group {number} is no dict with the key 'params'; one is needed")
        group = dict(param_group)
        params = group["params"]
        if isinstance(params, (set, frozenset)):
            raise TypeError(f"{op}: group {number} is a set, whose order changes; a list is needed")
        entries = [params] if isinstance(params, Tensor) else list(params)
        if entries and all(isinstance(entry, tuple) for entry in entries):
            group["param_names"] = [name for name, _ in entries]
            entries = [param for _, param in entries]
        taken = {id(param) for other in self.param_groups for param in other["params"]}
        for place, param in enumerate(entries):
            if not isinstance(param, Tensor):
                raise TypeError(
                    f"{op}: params[{place}] of group {number} is a {type(param).__name__}; a tensor is needed"
                )
            if not param.is_leaf:
                raise errors.ValueError(
                    f"{op}: params[{place}] of group {number} is the result of an operation; "
                    f"a leaf is needed, as only leaves collect gradients"
                )
            if id(param) in taken:
                raise errors.ValueError(
                    f"{op}: params[{place}] of group {number} is there already; each parameter is needed once"
                )
            taken.add(id(param))
        group["params"] = entries
        for name, value in self.defaults.items():
            group.setdefault(name, value)
        self.param_groups.append(group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parameters, or fill them with zeros."""
        for group in self.param_groups:
            zero_grads(group["params"], set_to_none)

    def step(self, closure: Closure | None = None) -> Any:
        """Update all parameters that have a gradient; closure, if given, computes the loss first."""
        loss = None
        if closure is not None:
            with bs.enable_grad():
                loss = closure()
        unused: list[str] = []
        before = _core.optimizer_begin(type(self).__name__)
        try:
            for number, group in enumerate(self.param_groups):
                params, grads = _core.with_gradients(group["params"])
                if len(params) < len(group["params"]) and self.report_unused:
                    unused += self._unused(number, group)
                if params:
                    self._update(group, params, grads)
        finally:
            _core.optimizer_end(before)
        self._steps += 1
        _core.trace_step(True)
        for tell in list(after_step):
            tell()
        if unused:
            warnings.warn(
                f"{type(self).__name__}.step: no gradient for {', '.join(unused)}; call loss.backward() "
                f"first, and use every parameter in the loss (help: requires_grad_(False) freezes one, "
                f"optimizer.report_unused = False ends this report)",
                UserWarning,
                stacklevel=2,
            )
        return loss

    def _unused(self, number: int, group: dict[str, Any]) -> list[str]:
        """Describe the parameters of a group that lack a gradient, and were not reported before."""
        unused = []
        for place, param in enumerate(group["params"]):
            if param.grad is None and param.requires_grad and id(param) not in self._reported:
                self._reported.add(id(param))
                unused.append(_describe(group, number, place))
        return unused

    def _update(self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor]) -> None:
        """Update the parameters of one group by their gradients; recording is off."""
        raise NotImplementedError(f"{type(self).__name__}: _update is missing; define it, or step itself")

    def _states(
        self, params: list[Tensor], begin: Callable[[Tensor], dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Give the state of each parameter, begun where there is none, with its step counted."""
        # Begun for all before any step is counted: a failed allocation leaves the optimizer as it was.
        states = []
        for param in params:
            state = self.state[param]
            if not state:
                state.update({name: own(value, param) for name, value in begin(param).items()})
            states.append(state)
        for state in states:
            state["step"] += 1
        return states

    def _left_by_gpus(
        self,
        rule: str,
        group: dict[str, Any],
        rows: Sequence[tuple[Tensor, ...]],
        numbers: Sequence[float],
    ) -> list[tuple[Tensor, ...]]:
        """Step the float32 parameters on GPUs, all by one kernel, and give the rows that are left.

        A row is a parameter, its gradient and its states.
        """
        there: list[tuple[Tensor, ...]] = []
        left: list[tuple[Tensor, ...]] = []
        for row in rows:
            (there if row[0].device != "cpu" and row[0].dtype is bs.float32 else left).append(row)
        if there:
            lists = [list(column) for column in zip(*there, strict=True)]
            _core.fused_step(rule, lists, [float(n) for n in numbers], group["weight_decay"], group["maximize"])
        return left

    def state_dict(self) -> dict[str, Any]:
        """Gather settings and states, with numbers for parameters; tensors share the optimizer's memory."""
        numbers: dict[int, int] = {}
        groups = []
        for group in self.param_groups:
            for param in group["params"]:
                numbers[id(param)] = len(numbers)
            groups.append({**group, "params": [numbers[id(param)] for param in group["params"]]})
        state = {
            numbers[id(param)]: dict(entries) for param, entries in self.state.items() if id(param) in numbers
        }
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over settings and states; tensors are copied, to the device and dtype of their parameter.

        Raises: ValueError if the groups differ in number or size, or a state has another shape than its
            parameter; the optimizer is as before.
        """
        op = type(self).__name__
        mine, given = self.param_groups, state_dict["param_groups"]
        sizes = [[len(group["params"]) for group in groups] for groups in (given, mine)]
        if sizes[0] != sizes[1]:
            raise errors.ValueError(
                f"{op}.load_state_dict: the groups have {sizes[0]} parameters; {sizes[1]} are needed"
            )
        numbers = [number for group in given for number in group["params"]]
        params = [param for group in mine for param in group["params"]]
        by_number = dict(zip(numbers, params, strict=True))
        state: dict[Tensor, dict[str, Any]] = defaultdict(dict)
        for key, entries in state_dict["state"].items():
            number = int(key) if isinstance(key, str) else key  # JSON has no other keys than text
            if number not in by_number:
                raise errors.ValueError(
                    f"{op}.load_state_dict: there is a state for parameter {key}, and no such parameter"
                )
            param = by_number[number]
            state[param] = {name: self._adopt(name, value, param, number) for name, value in entries.items()}
        groups = []
        for group, old in zip(given, mine, strict=True):
            group = {**old, **group, "params": old["params"]}
            if "betas" in group:
                group["betas"] = tuple(group["betas"])
            groups.append(group)
        self.state = state
        self.param_groups = groups

    def _adopt(self, name: str, value: Any, param: Tensor, number: int) -> Any:
        if not isinstance(value, Tensor):
            return value
        if name == "step":  # PyTorch counts steps in tensors
            return int(value.item())
        if tuple(value.shape) not in (tuple(param.shape), ()):
            raise errors.ValueError(
                f"{type(self).__name__}.load_state_dict: {name} of parameter {number} has shape "
                f"{list(value.shape)}; {list(param.shape)} is needed"
            )
        value = value.detach().to(device=param.device)
        if param.is_floating_point():
            value = value.to(dtype=param.dtype)
        return own(value.clone(), param)

    def __repr__(self) -> str:
        """Show the settings of each group."""
        lines = [type(self).__name__ + " ("]
        for number, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {number}")
            lines += [f"    {key}: {value}" for key, value in sorted(group.items()) if key != "params"]
        return "\n".join([*lines, ")"])


def _describe(group: dict[str, Any], number: int, place: int) -> str:
    shape = list(group["params"][place].shape)
    if "param_names" in group:
        return f"{group['param_names'][place]} {shape}"
    return f"params[{place}] of group {number} {shape}"


def check_range(op: str, name: str, value: float, below: float | None = None) -> None:
    """Refuse a setting below 0, or not below its bound.

    Raises: ValueError
    """
    if not value >= 0 or (below is not None and not value < below):
        needed = "0 or more" if below is None else f"a value in [0, {below:g})"
        raise errors.ValueError(f"{op}: {name}={value}; {needed} is needed")


def own(value: Any, param: Tensor) -> Any:
    """Book the memory of a tensor under the optimizer, in the module of its parameter."""
    if isinstance(value, Tensor):
        value._category = "optimizer"
        _core.place(value, param)
    return value
