"""The code in README and docs runs, block after block, and so do the commands in its `sh` blocks."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

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
