"""The code in README, docs and docstrings runs, and so do the commands in `sh` blocks; what is public says what it is."""

from __future__ import annotations

import doctest
import importlib
import inspect
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import backsweep as bs
from backsweep import nn, optim

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.S | re.M)


def commands(page: Path) -> list[tuple[str, int]]:
    """Command lines, each with the status that it is said to exit with."""
    lines = "".join(re.findall(r"^```sh\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.S | re.M)).splitlines()
    parted = [line.partition("#") for line in lines if line.strip()]
    return [(line.strip(), int(re.sub(r"\D", "", note) or 0)) for line, _, note in parted]


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda p: p.name)
def test_the_commands_of_a_page_run(page: Path, tmp_path: Path) -> None:
    # A block of Python with a name is a file beside them.
    for name, text in re.findall(r"^```python (\S+)\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.S | re.M):
        (tmp_path / name).write_text(text, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, map(os.path.abspath, sys.path)))}
    for line, status in commands(page):
        program, *arguments = shlex.split(line)
        assert program == "backsweep", line
        command = [sys.executable, "-m", program, *arguments]
        run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert run.returncode == status, f"{line}\n{run.stdout}\n{run.stderr}"


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: p.name)
def test_the_code_of_a_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), names)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


MODULES = [bs, *(importlib.import_module(m.name) for m in pkgutil.walk_packages(bs.__path__, "backsweep."))]
MODULES = [module for module in MODULES if not module.__name__.endswith(("__main__", "_core"))]


@pytest.mark.parametrize("module", MODULES, ids=lambda m: m.__name__)
def test_the_examples_of_docstrings_say_the_truth(module: ModuleType) -> None:
    names = {**vars(module), "bs": bs, "nn": nn, "optim": optim, "F": nn.functional}
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, extraglobs=names):
        bs.manual_seed(0)
        report: list[str] = []
        runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
        runner.run(test, out=report.append)
        assert not runner.failures, "".join(report)


def undocumented(owner: object, prefix: str) -> list[str]:
    """The public functions, classes and members without a docstring."""
    found = []
    for name, member in vars(owner).items():
        if name.startswith("_") or isinstance(member, ModuleType | bs.dtype):
            continue
        ours = getattr(member, "__module__", "backsweep").startswith("backsweep")
        documented = bool(inspect.getdoc(member))
        if ours and (callable(member) or isinstance(member, property)) and not documented:
            found.append(f"{prefix}.{name}")
        if ours and inspect.isclass(member):
            found += undocumented(member, f"{prefix}.{name}")
    return found


def test_whatever_has_a_public_name_says_what_it_is() -> None:
    surface = [
        bs, bs.autograd, bs.data, bs.memory, bs.profiler, nn, nn.functional, nn.init, nn.utils, optim, optim.lr_scheduler
    ]  # fmt: skip
    assert [name for module in surface for name in undocumented(module, module.__name__)] == []
