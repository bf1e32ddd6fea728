"""Modules that hold modules or parameters, in a row or under names."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self, overload

from .. import errors
from .._core import Tensor
from .module import Module, Parameter


class _Row(Module):
    """Child modules in a row, each an attribute whose name is its place."""

    def _rows(self) -> list[Module]:
        values = self.__dict__
        return [value for name in self._slots if isinstance(value := values[name], Module)]

    def _names(self) -> list[str]:
        return [name for name in self._slots if isinstance(self.__dict__[name], Module)]

    def _replace(self, modules: Iterable[Module]) -> None:
        modules = list(modules)
        for name in self._names():
            delattr(self, name)
        self.extend(modules)

    def _index(self, index: int) -> int:
        size = len(self)
        if not -size <= index < size:
            raise errors.IndexError(
                f"{type(self).__name__}: index {index} is out of range for {size} modules; "
                + (f"valid indices are {-size} to {size - 1}" if size else "there are none")
            )
        return index % size

    def __len__(self) -> int:
        """Count the modules."""
        return len(self._rows())

    def __iter__(self) -> Iterator[Module]:
        """Go through the modules in order."""
        return iter(self._rows())

    @overload
    def __getitem__(self, index: slice) -> Self: ...
    @overload
    def __getitem__(self, index: int) -> Any: ...
    def __getitem__(self, index: int | slice) -> Any:
        """Take one module, or a part of the row as a new one."""
        if isinstance(index, slice):
            return type(self)._of(self, index)
        return self._rows()[self._index(index)]

    def _of(self, index: slice) -> Module:
        return type(self)(self._rows()[index])  # type: ignore[call-arg]

    def __setitem__(self, index: int, module: Module) -> None:
        """Put another module in a place."""
        setattr(self, self._names()[self._index(index)], module)

    def __delitem__(self, index: int | slice) -> None:
        """Take out one module or several; those behind move up."""
        rows = self._rows()
        del rows[index if isinstance(index, slice) else self._index(index)]
        self._replace(rows)

    def append(self, module: Module) -> Self:
        """Add a module at the end."""
        self.add_module(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Module]) -> Self:
        """Add modules at the end."""
        for module in modules:
            self.append(module)
        return self

    def insert(self, index: int, module: Module) -> Self:
        """Put a module before a place."""
        rows = self._rows()
        rows.insert(index, module)
        self._replace(rows)
        return self

    def pop(self, index: int = -1) -> Module:
        """Take out a module and return it."""
        module: Module = self[index]
        del self[index]
        return module


class Sequential(_Row):
    """Modules called one after the other, each on the output of the one before.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1))
        >>> net(bs.ones(5, 2)).shape
        (5, 1)
    """

    def __init__(self, *args: Module | Mapping[str, Module]) -> None:
        """Take the modules in order, or one mapping from names to modules."""
        super().__init__()
        first = args[0] if len(args) == 1 else None
        named: Iterable[tuple[str, Any]] = (
            first.items()
            if isinstance(first, Mapping)
            else zip(map(str, itertools.count()), args, strict=False)
        )
        for name, module in named:
            self.add_module(name, module)

    def forward(self, input: Any) -> Any:
        """Call the modules in order."""
        values = self.__dict__
        for name in self._slots:
            module = values[name]
            if isinstance(module, Module):
                input = module(input)
        return input

    def _of(self, index: slice) -> Module:
        names = self._names()[index]
        return type(self)({name: self.__dict__[name] for name in names})

    def __delitem__(self, index: int | slice) -> None:
        """Take out one module or several; places that are numbers are counted anew."""
        names = self._names()
        if all(name.isdigit() for name in names):
            super().__delitem__(index)
        else:
            for name in names[index] if isinstance(index, slice) else [names[self._index(index)]]:
                delattr(self, name)


class ModuleList(_Row):
    """Modules in a list; it has no forward of its own.

    Example:
        >>> layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        >>> len(layers)
        3
    """

    def __init__(self, modules: Iterable[Module] = ()) -> None:
        """Take the modules in order."""
        super().__init__()
        self.extend(modules)

    def __iadd__(self, modules: Iterable[Module]) -> Self:
        """Add modules at the end."""
        return self.extend(modules)

    def __add__(self, other: Iterable[Module]) -> ModuleList:
        """Make a list of the modules of both."""
        return ModuleList([*self, *other])


class _Table(Module):
    """Registered attributes, seen as a dict."""

    _kind: type

    def _table(self) -> dict[str, Any]:
        values = self.__dict__
        return {name: value for name in self._slots if isinstance(value := values[name], self._kind)}

    def __getitem__(self, key: str) -> Any:
        """Take the entry under a key."""
        return self._table()[key]

    def __delitem__(self, key: str) -> None:
        """Take out the entry under a key."""
        self._table()[key]
        delattr(self, key)

    def __len__(self) -> int:
        """Count the entries."""
        return len(self._table())

    def __iter__(self) -> Iterator[str]:
        """Go through the keys in order of insertion."""
        return iter(self._table())

    def __contains__(self, key: object) -> bool:
        """Say whether there is an entry under a key."""
        return key in self._table()

    def keys(self) -> Iterable[str]:
        """Give the keys."""
        return self._table().keys()

    def items(self) -> Iterable[tuple[str, Any]]:
        """Give the keys and entries."""
        return self._table().items()

    def values(self) -> Iterable[Any]:
        """Give the entries."""
        return self._table().values()

    def pop(self, key: str) -> Any:
        """Take out the entry under a key and return it."""
        value = self[key]
        del self[key]
        return value


class ModuleDict(_Table):
    """Modules under names of your choice; it has no forward of its own."""

    _kind = Module

    def __init__(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]] = ()) -> None:
        """Take the modules, in order."""
        super().__init__()
        self.update(modules)

    def __setitem__(self, key: str, module: Module) -> None:
        """Put a module under a key."""
        self.add_module(key, module)

    def update(self, modules: Mapping[str, Module] | Iterable[tuple[str, Module]]) -> None:
        """Put several modules under their keys."""
        for key, module in dict(modules).items():
            self[key] = module


class ParameterDict(_Table):
    """Parameters under names of your choice; a plain tensor becomes a parameter."""

    _kind = Parameter

    def __init__(self, parameters: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]] = ()) -> None:
        """Take the parameters, in order."""
        super().__init__()
        self.update(parameters)

    def __setitem__(self, key: str, parameter: Tensor) -> None:
        """Put a parameter under a key."""
        self.register_parameter(key, _as_parameter(parameter))

    def update(self, parameters: Mapping[str, Tensor] | Iterable[tuple[str, Tensor]]) -> None:
        """Put several parameters under their keys."""
        for key, parameter in dict(parameters).items():
            self[key] = parameter

    def extra_repr(self) -> str:
        """Say which parameters there are."""
        return ", ".join(f"{key}: {list(value.shape)}" for key, value in self.items())


class ParameterList(Module):
    """Parameters in a list; a plain tensor becomes a parameter."""

    def __init__(self, values: Iterable[Tensor] = ()) -> None:
        """Take the parameters, in order."""
        super().__init__()
        self.extend(values)

    def _rows(self) -> list[Any]:
        return [value for _, value in self._own_parameters()]

    def __len__(self) -> int:
        """Count the parameters."""
        return len(self._rows())

    def __iter__(self) -> Iterator[Parameter]:
        """Go through the parameters in order."""
        return iter(self._rows())

    @overload
    def __getitem__(self, index: slice) -> ParameterList: ...
    @overload
    def __getitem__(self, index: int) -> Parameter: ...
    def __getitem__(self, index: int | slice) -> ParameterList | Parameter:
        """Take one parameter, or a part of the list as a new one."""
        rows = self._rows()
        return ParameterList(rows[index]) if isinstance(index, slice) else rows[index]

    def __setitem__(self, index: int, parameter: Tensor) -> None:
        """Put another parameter in a place."""
        setattr(self, str(range(len(self))[index]), _as_parameter(parameter))

    def append(self, parameter: Tensor) -> Self:
        """Add a parameter at the end."""
        self.register_parameter(str(len(self)), _as_parameter(parameter))
        return self

    def extend(self, parameters: Iterable[Tensor]) -> Self:
        """Add parameters at the end."""
        for parameter in parameters:
            self.append(parameter)
        return self

    def extra_repr(self) -> str:
        """Say which parameters there are."""
        return ", ".join(f"{place}: {list(value.shape)}" for place, value in enumerate(self._rows()))


def _as_parameter(value: Tensor) -> Parameter:
    return value if isinstance(value, Parameter) else Parameter(value)
