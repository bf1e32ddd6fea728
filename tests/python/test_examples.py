"""Each example runs, and learns."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_digits_are_read() -> None:
    assert example("digits_cnn").main(["--epochs", "3"]) > 0.9


@pytest.mark.parametrize(
    ("name", "steps", "loss"), [("char_gpt", "30", 3.6), ("lstm_keywords", "60", 2.9), ("custom_function", "150", 0.5)]
)
def test_the_loss_falls(name: str, steps: str, loss: float) -> None:
    assert example(name).main(["--steps", steps]) < loss


def test_every_example_is_run() -> None:
    assert {p.stem for p in EXAMPLES.glob("*.py")} == {"digits_cnn", "char_gpt", "lstm_keywords", "custom_function"}
