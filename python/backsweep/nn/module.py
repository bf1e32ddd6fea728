"""Module and Parameter: a tree of plain attributes, walked for parameters, buffers and child modules.

Imports the native module and the errors. Leaves out every layer, and where a module's numbers come from.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Self

import backsweep as bs

from .. import _core, errors
from .._core import Tensor

_push_module = _core.push_module
_pop_module = _core.pop_module


class Parameter(Tensor):
    """A tensor that a module registers, and an optimizer changes; it shares the memory of data.

    Example:
        >>> nn.Parameter(bs.zeros(3)).requires_grad
        True
    """

    def __new__(cls, data: Tensor | None = None, requires_grad: bool = True) -> Self:
        """Share the memory of data, as a leaf of the graph."""
        self = super().__new__(cls, bs.empty(0) if data is None else data.detach())
        self._category = "parameter"
        self.requires_grad_(requires_grad)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy the values; as in PyTorch, the gradient stays behind."""
        if id(self) not in memo:
            memo[id(self)] = type(self)(self.detach().clone(), self.requires_grad)
        return memo[id(self)]

    def __repr__(self) -> str:
        """Show the tensor under its role."""
        return f"Parameter containing:\n{self.detach()!r}"


class IncompatibleKeys(NamedTuple):
    """The keys that `load_state_dict` could not match."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class RemovableHandle:
    """Takes a hook off its module again; as a context manager, at the end of the block."""

    _ids = itertools.count()

    def __init__(self, hooks: dict[int, Any], hook: Any, prepend: bool) -> None:
        """Put hook into hooks, at the end or in front."""
        self._hooks = hooks
        self._id = next(RemovableHandle._ids)
        others = list(hooks.items()) if prepend else []
        hooks[self._id] = hook
        for key, other in others:
            del hooks[key]
            hooks[key] = other

    def remove(self) -> None:
        """Take the hook off; a second call does nothing."""
        self._hooks.pop(self._id, None)

    def __enter__(self) -> Self:
        """Keep the hook until the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take the hook off."""
        self.remove()


class Module:
    """The base of every layer and model: set parameters and modules as attributes, and define `forward`.

    Example:
        >>> class Net(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.fc = nn.Linear(2, 1)
        ...     def forward(self, x):
        ...         return self.fc(x).tanh()
        >>> [name for name, _ in Net().named_parameters()]
        ['fc.weight', 'fc.bias']
    """

    training: bool
    forward: Callable[..., Any]

    # Names of the attributes that hold a parameter or a module (or held one, and are None now), in order of
    # registration. The values are plain attributes, so that reading self.weight costs no more than it must.
    _slots: dict[str, None]
    # Names of the attributes that are buffers, and whether the state dict holds them.
    _buffers: dict[str, bool]
    # Where the module hangs below the root that was called last; "" is the root itself, None not yet known.
    _path: str | None
    _forward_pre_hooks: dict[int, tuple[Callable[..., Any], bool]]
    _forward_hooks: dict[int, tuple[Callable[..., Any], bool]]

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Prepare the registers, so that a subclass that forgets `super().__init__()` works as well."""
        self = super().__new__(cls)
        self.__dict__.update(
            training=True, _slots={}, _buffers={}, _path=None, _forward_pre_hooks={}, _forward_hooks={}
        )
        return self

    def __init__(self) -> None:
        """Nothing is left to do: the registers are ready."""

    # The call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the hooks and `forward`, under the module's path in the ledger."""
        path = self._path
        if path is None:
            path = self._name_tree("")
        path = path or type(self).__name__
        _push_module(path)
        try:
            if self._forward_pre_hooks or self._forward_hooks:
                return self._call_with_hooks(args, kwargs)
            return self.forward(*args, **kwargs)
        except errors.BacksweepError as error:
            if not getattr(error, "__notes__", None):  # the innermost module says where it was
                error.add_note(f"in module {path} ({type(self).__name__})")
            raise
        finally:
            _pop_module()

    def _call_with_hooks(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        for pre_hook, with_kwargs in tuple(self._forward_pre_hooks.values()):
            if with_kwargs:
                changed = pre_hook(self, args, kwargs)
                if changed is not None:
                    args, kwargs = changed
            else:
                changed = pre_hook(self, args)
                if changed is not None:
                    args = changed if isinstance(changed, tuple) else (changed,)
        output = self.forward(*args, **kwargs)
        for hook, with_kwargs in tuple(self._forward_hooks.values()):
            changed = hook(self, args, kwargs, output) if with_kwargs else hook(self, args, output)
            if changed is not None:
                output = changed
        return output

    def _name_tree(self, path: str) -> str:
        """Give this module and all below it their paths."""
        # From the end, so that what hangs in two places belongs to the first.
        for name, module in reversed(list(self.named_modules(prefix=path))):
            module.__dict__["_path"] = name
            for _, parameter in module.named_parameters(recurse=False):
                _core.place(parameter, name or type(module).__name__)
            for _, buffer in module.named_buffers(recurse=False):
                _core.place(buffer, name or type(module).__name__)
        return path

    def register_forward_pre_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call hook(module, args) before each forward; a result that is not None replaces the arguments."""
        return RemovableHandle(self._forward_pre_hooks, (hook, with_kwargs), prepend)

    def register_forward_hook(
        self, hook: Callable[..., Any], *, prepend: bool = False, with_kwargs: bool = False
    ) -> RemovableHandle:
        """Call hook(module, args, output) after each forward; a result that is not None replaces output."""
        return RemovableHandle(self._forward_hooks, (hook, with_kwargs), prepend)

    # Registration

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a plain attribute, and register it if it is a parameter or a module."""
        if isinstance(value, (Parameter, Module)):
            self._attach(name, value)
        elif name in self._slots:
            if value is not None:
                held = "parameter" if isinstance(self.__dict__[name], Parameter) else "module"
                raise TypeError(
                    f"{type(self).__name__}: {name} is a {held}, and {type(value).__name__} is not one; "
                    f"assign a Parameter, a Module or None, or del the attribute first"
                )
            self.__dict__[name] = None
        elif name in self._buffers:
            if value is not None and not isinstance(value, Tensor):
                raise TypeError(
                    f"{type(self).__name__}: {name} is a buffer, and {type(value).__name__} is not a tensor; "
                    f"assign a tensor or None, or del the attribute first"
                )
            self._set_buffer(name, value)
        else:
            object.__setattr__(self, name, value)

    def _attach(self, name: str, value: Parameter | Module | None) -> None:
        self._buffers.pop(name, None)
        self._slots[name] = None
        self.__dict__[name] = value
        if self._path is not None and isinstance(value, Module):
            value._name_tree(f"{self._path}.{name}" if self._path else name)

    def __delattr__(self, name: str) -> None:
        """Forget the attribute, registered or not."""
        object.__delattr__(self, name)
        self._slots.pop(name, None)
        self._buffers.pop(name, None)

    def _check_name(self, name: str, taken: Mapping[str, Any]) -> None:
        if not isinstance(name, str):
            raise TypeError(
                f"{type(self).__name__}: a name must be a str; {name!r} is a {type(name).__name__}"
            )
        if not name or "." in name:
            raise errors.ValueError(
                f"{type(self).__name__}: {name!r} cannot name an attribute; "
                f"it must not be empty and must not hold a dot"
            )
        if hasattr(self, name) and name not in taken:
            raise errors.ValueError(
                f"{type(self).__name__}: attribute {name!r} exists already; choose another name"
            )

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Set a tensor that belongs to the module's state but is not trained.

        A buffer that is not persistent moves with the module but stays out of the state dict.
        """
        self._check_name(name, self._buffers)
        if tensor is not None and not isinstance(tensor, Tensor):
            raise TypeError(
                f"register_buffer: {name!r} is a {type(tensor).__name__}; a buffer must be a tensor or None"
            )
        self._buffers[name] = persistent
        self._set_buffer(name, tensor)

    def _set_buffer(self, name: str, value: Tensor | None) -> None:
        if value is not None:
            value._category = "buffer"
        self.__dict__[name] = value

    def register_parameter(self, name: str, param: Parameter | None) -> None:
        """Set a parameter under a name; None keeps its place for later."""
        self._check_name(name, self._slots)
        if param is not None and not isinstance(param, Parameter):
            raise TypeError(
                f"register_parameter: {name!r} is a {type(param).__name__}; wrap it as nn.Parameter(tensor)"
            )
        self._attach(name, param)

    def add_module(self, name: str, module: Module | None) -> None:
        """Set a child module under a name; None keeps its place for later."""
        self._check_name(name, self._slots)
        if module is not None and not isinstance(module, Module):
            raise TypeError(f"add_module: {name!r} is a {type(module).__name__}; a Module is needed")
        self._attach(name, module)

    # Walking

    def named_modules(self, prefix: str = "", remove_duplicate: bool = True) -> Iterator[tuple[str, Module]]:
        """Go through this module and all below it, parents first, with their paths."""
        seen: set[int] = set()
        pending: list[tuple[str, Module]] = [(prefix, self)]
        while pending:
            path, module = pending.pop()
            if remove_duplicate:
                if id(module) in seen:
                    continue
                seen.add(id(module))
            yield path, module
            children = [
                (f"{path}.{name}" if path else name, child)
                for name in module._slots
                if isinstance(child := module.__dict__[name], Module)
            ]
            pending.extend(reversed(children))

    def modules(self) -> Iterator[Module]:
        """Go through this module and all below it, parents first."""
        return (module for _, module in self.named_modules())

    def named_children(self) -> Iterator[tuple[str, Module]]:
        """Go through the direct children, with their names."""
        seen: set[int] = set()
        for name in tuple(self._slots):
            child = self.__dict__[name]
            if isinstance(child, Module) and id(child) not in seen:
                seen.add(id(child))
                yield name, child

    def children(self) -> Iterator[Module]:
        """Go through the direct children."""
        return (child for _, child in self.named_children())

    def _own_parameters(self) -> list[tuple[str, Tensor]]:
        values = self.__dict__
        return [(name, value) for name in self._slots if isinstance(value := values[name], Parameter)]

    def _own_buffers(self) -> list[tuple[str, Tensor]]:
        values = self.__dict__
        return [(name, value) for name in self._buffers if (value := values[name]) is not None]

    def _named_members(
        self,
        members: Callable[[Module], list[tuple[str, Tensor]]],
        prefix: str,
        recurse: bool,
        remove_duplicate: bool,
    ) -> Iterator[tuple[str, Tensor]]:
        seen: set[int] = set()
        modules = self.named_modules(prefix, remove_duplicate) if recurse else [(prefix, self)]
        for path, module in modules:
            for name, value in members(module):
                if remove_duplicate:
                    if id(value) in seen:
                        continue
                    seen.add(id(value))
                yield (f"{path}.{name}" if path else name), value

    def named_parameters(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Parameter]]:
        """Go through the parameters with their names; one that hangs in two places is met once."""
        return self._named_members(Module._own_parameters, prefix, recurse, remove_duplicate)  # type: ignore[return-value]

    def parameters(self, recurse: bool = True) -> Iterator[Parameter]:
        """Go through the parameters; one that hangs in two places is met once."""
        return (value for _, value in self.named_parameters(recurse=recurse))

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Go through the buffers with their names."""
        return self._named_members(Module._own_buffers, prefix, recurse, remove_duplicate)

    def buffers(self, recurse: bool = True) -> Iterator[Tensor]:
        """Go through the buffers."""
        return (value for _, value in self.named_buffers(recurse=recurse))

    def get_submodule(self, target: str) -> Module:
        """Find a module by its path, such as "layers.3.attn"; "" is this module."""
        module: Any = self
        for name in target.split(".") if target else ():
            module = module.__dict__.get(name) if isinstance(module, Module) else None
        if not isinstance(module, Module):
            raise AttributeError(f"get_submodule: {type(self).__name__} has no module {target!r}")
        return module

    def get_parameter(self, target: str) -> Parameter:
        """Find a parameter by its path, such as "layers.3.attn.weight"."""
        path, _, name = target.rpartition(".")
        value = self.get_submodule(path).__dict__.get(name)
        if not isinstance(value, Parameter):
            raise AttributeError(f"get_parameter: {type(self).__name__} has no parameter {target!r}")
        return value

    # State

    def state_dict(self, *, prefix: str = "", keep_vars: bool = False) -> dict[str, Any]:
        """Gather parameters and persistent buffers by name; they share memory with the module.

        Detached from the graph, unless keep_vars is set.
        """
        state: dict[str, Any] = {}
        for path, module in self.named_modules(remove_duplicate=False):
            start = f"{prefix}{path}." if path else prefix
            buffers = [(name, value) for name, value in module._own_buffers() if module._buffers[name]]
            for name, value in module._own_parameters() + buffers:
                state[start + name] = value if keep_vars else value.detach()
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True) -> IncompatibleKeys:
        """Copy values by name into parameters and buffers; nothing is changed if any of them does not fit.

        Raises: ValueError with every missing key, unexpected key and wrong shape. strict=False forgives
            missing and unexpected keys, and returns them; a wrong shape is never forgiven.
        """
        targets = self.state_dict(keep_vars=True)
        missing = [key for key in targets if key not in state_dict]
        unexpected = [key for key in state_dict if key not in targets]
        faults = []
        if strict and missing:
            faults.append("missing " + ", ".join(missing))
        if strict and unexpected:
            faults.append("unexpected " + ", ".join(unexpected))
        pairs = [(key, target, state_dict[key]) for key, target in targets.items() if key in state_dict]
        for key, target, value in pairs:
            if not isinstance(value, Tensor):
                faults.append(f"{key} is a {type(value).__name__}, not a tensor")
            elif tuple(value.shape) != tuple(target.shape):
                faults.append(f"{key} has shape {list(value.shape)} where {list(target.shape)} is needed")
        if faults:
            raise errors.ValueError(
                f"load_state_dict: the state does not fit {type(self).__name__}: {'; '.join(faults)}; "
                f"the names and shapes of its own state_dict() are needed"
                + (" (help: strict=False loads only the keys that match)" if strict else "")
            )
        with bs.no_grad():
            for _, target, value in pairs:
                target.copy_(value)
        return IncompatibleKeys(missing, unexpected)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the path: a copy hangs somewhere else."""
        return {**self.__dict__, "_path": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over a state, and book its buffers as such."""
        self.__dict__.update(state)
        for name in self._buffers:
            self._set_buffer(name, state[name])

    # Changing all at once

    def apply(self, fn: Callable[[Module], object]) -> Self:
        """Call fn on every module, children first, and return this one."""
        for child in self.children():
            child.apply(fn)
        fn(self)
        return self

    def _convert(self, convert: Callable[[Tensor], Tensor]) -> Self:
        # In place, so that an optimizer made before goes on with the same parameters.
        for parameter in self.parameters():
            value = parameter.detach()
            converted = convert(value)
            if converted is value:
                continue
            requires_grad, grad = parameter.requires_grad, parameter.grad
            parameter._become(converted)
            parameter._category = "parameter"
            parameter.requires_grad_(requires_grad)
            if grad is not None:
                parameter.grad = convert(grad.detach())
        for module in self.modules():
            for name, value in module._own_buffers():
                module._set_buffer(name, convert(value))
        return self

    def to(self, *args: Any, device: str | None = None, dtype: Any = None) -> Self:
        """Move to a device and convert floating-point parameters and buffers to a dtype, in place.

        Example:
            >>> net = nn.Linear(2, 1).to("cpu", bs.float64)
        """
        for arg in args:
            if isinstance(arg, str):
                device = arg
            elif isinstance(arg, Tensor):
                device, dtype = arg.device, arg.dtype
            elif arg is not None:
                dtype = arg

        def convert(tensor: Tensor) -> Tensor:
            if device is not None:
                tensor = tensor.to(device=device)
            if dtype is not None and tensor.is_floating_point():
                tensor = tensor.to(dtype=dtype)
            return tensor

        return self._convert(convert)

    def float(self) -> Self:
        """Convert floating-point parameters and buffers to float32."""
        return self.to(dtype=bs.float32)

    def double(self) -> Self:
        """Convert floating-point parameters and buffers to float64."""
        return self.to(dtype=bs.float64)

    def half(self) -> Self:
        """Convert floating-point parameters and buffers to float16."""
        return self.to(dtype=bs.float16)

    def bfloat16(self) -> Self:
        """Convert floating-point parameters and buffers to bfloat16."""
        return self.to(dtype=bs.bfloat16)

    def train(self, mode: bool = True) -> Self:
        """Set training mode, which dropout and batch norm look at, here and below."""
        self.training = mode
        for child in self.children():
            child.train(mode)
        return self

    def eval(self) -> Self:
        """Set evaluation mode, here and below."""
        return self.train(False)

    def requires_grad_(self, requires_grad: bool = True) -> Self:
        """Train the parameters, or freeze them."""
        for parameter in self.parameters():
            parameter.requires_grad_(requires_grad)
        return self

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parameters, or fill them with zeros."""
        zero_grads(self.parameters(), set_to_none)

    # Text

    def extra_repr(self) -> str:
        """Say what `repr` shows between the brackets."""
        return ""

    def __repr__(self) -> str:
        """Show the tree, as PyTorch does."""
        lines = [
            f"({name}): " + repr(child).replace("\n", "\n  ")
            for name in self._slots
            if isinstance(child := self.__dict__[name], Module)
        ]
        extra = self.extra_repr()
        if not lines:
            return f"{type(self).__name__}({extra})"
        body = "\n  ".join(([extra] if extra else []) + lines)
        return f"{type(self).__name__}(\n  {body}\n)"


def _forward_is_missing(self: Module, *args: Any, **kwargs: Any) -> Any:
    """What the module computes; a subclass defines it, and calling the module runs it."""
    raise NotImplementedError(f"{type(self).__name__}: forward is missing; define forward(self, ...)")


# A signature of its own would be the rule for every subclass; a module's forward takes what it likes.
Module.forward = _forward_is_missing


def zero_grads(parameters: Iterable[Tensor], set_to_none: bool) -> None:
    """Drop gradients, or fill them with zeros."""
    if set_to_none:
        _core.drop_gradients(parameters)
        return
    for parameter in parameters:
        grad = parameter.grad
        if grad is not None:
            # Detached first: a gradient made with create_graph must not drag its graph into the next step.
            parameter.grad = grad.detach().zero_()
