"""Write the part of `_core.pyi` that lists the methods Python attaches to Tensor: `python tests/stub.py`.

The rest of the stub is written by hand; tests/python/test_stub.py compares both with the module itself.
"""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import backsweep as bs
from backsweep import _core

STUB = Path(bs.__file__).with_name("_core.pyi")
MARK = "    # Attached by Python; written by tests/stub.py.\n"
# Inside the class these names are methods.
SHADOWED = re.compile(r"(?<![\w.])(int|float|bool)(?![\w.])")


def annotation(text: object) -> str:
    return SHADOWED.sub(r"_\1", str(text))


def parameter(p: inspect.Parameter) -> str:
    name = {p.VAR_POSITIONAL: "*", p.VAR_KEYWORD: "**"}.get(p.kind, "") + p.name
    if p.annotation is not p.empty:
        name += f": {annotation(p.annotation)}"
    if p.default is p.empty:
        return name
    default = repr(p.default) if isinstance(p.default, (int, float, str, type(None))) else "..."
    return f"{name} = {default}" if p.annotation is not p.empty else f"{name}={default}"


def function(name: str, f: object, *, is_property: bool = False) -> str:
    signature = inspect.signature(f)  # type: ignore[arg-type]
    parameters: list[str] = []
    for i, p in enumerate(signature.parameters.values()):
        kinds = [q.kind for q in list(signature.parameters.values())[:i]]
        if p.kind is p.KEYWORD_ONLY and not {p.KEYWORD_ONLY, p.VAR_POSITIONAL} & {*kinds}:
            parameters.append("*")
        parameters.append("self" if i == 0 else parameter(p))
    returns = annotation(signature.return_annotation)
    returns = "Any" if signature.return_annotation is signature.empty else returns
    # object declares __format__ with any value, and __pow__ takes a modulus that **= does not have.
    ignored = {"__format__": "  # type: ignore[override]", "__ipow__": "  # type: ignore[misc]"}.get(name, "")
    head = "    @property\n" if is_property else ""
    return f"{head}    def {name}({', '.join(parameters)}) -> {returns}: ...{ignored}\n"


def attached() -> str:
    text = ""
    for name, member in sorted(vars(_core.Tensor).items()):
        if isinstance(member, property):
            if inspect.isfunction(member.fget):
                text += function(name, member.fget, is_property=True)
            else:
                text += f"    @property\n    def {name}(self) -> _int: ...\n"
        elif inspect.isfunction(member):
            text += function(name, member)
    return text


def stub() -> str:
    head, mark, _ = STUB.read_text().partition(MARK)
    assert mark, "the stub has lost its mark"
    return head + mark + attached()


if __name__ == "__main__":
    STUB.write_text(stub())
