"""The stub of the native module says what the module has: every name, every parameter."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from pathlib import Path

import pytest

from backsweep import _core

WRITER = Path(__file__).parents[1] / "stub.py"
TREE = ast.parse(Path(_core.__file__).with_name("_core.pyi").read_text())
# What every class has from object, and what the interpreter adds.
INHERITED = {"__doc__", "__module__", "__new__", "__dict__", "__weakref__", "__reduce__", "__array_ufunc__"}


def declared(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    names: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names[node.name] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names[node.target.id] = node
    return names


def test_the_attached_methods_are_those_in_the_stub() -> None:
    spec = importlib.util.spec_from_file_location("stub", WRITER)
    assert spec is not None and spec.loader is not None
    writer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(writer)
    assert writer.STUB.read_text() == writer.stub(), "run: python tests/stub.py"


def test_every_native_name_is_declared_and_no_other() -> None:
    native = {n for n in vars(_core) if not n.startswith("__") or n == "__version__"}
    assert native == {*declared(TREE.body)}


@pytest.mark.parametrize("name", ["Tensor", "dtype"])
def test_every_member_of_a_class_is_declared_and_no_other(name: str) -> None:
    native = {*vars(getattr(_core, name))} - INHERITED
    node = declared(TREE.body)[name]
    assert isinstance(node, ast.ClassDef)
    assert native == {*declared(node.body)} - INHERITED


def test_native_functions_have_the_declared_parameters() -> None:
    for name, node in declared(TREE.body).items():
        if isinstance(node, ast.FunctionDef):
            a = node.args
            written = [x.arg for x in [*a.posonlyargs, *a.args, *([a.vararg] if a.vararg else []), *a.kwonlyargs]]
            assert written == [*inspect.signature(getattr(_core, name)).parameters], name
