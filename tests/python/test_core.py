"""The engine's own tests, from the same command: units, the graph at its limits, and the laws at each SIMD level."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

import backsweep as bs

ROOT = Path(__file__).parents[2]
LEVELS = ("plain", "avx2", "avx512")


def cargo(*arguments: str, **environment: str) -> str:
    run = subprocess.run(
        ["cargo", "test", "--quiet", "--locked", "--features", "gpu", *arguments],
        cwd=ROOT,
        env={**os.environ, "CARGO_TERM_COLOR": "never", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-20_000:]
    return run.stdout


def test_the_core_passes_its_own_tests() -> None:
    output = cargo()
    passed = [int(n) for n in re.findall(r"test result: ok\. (\d+) passed; 0 failed; 0 ignored", output)]
    assert len(passed) >= 4 and sum(passed) > 100, output[-2000:]


@pytest.mark.parametrize("level", LEVELS[: LEVELS.index(str(bs.cpu_info()["simd"])) + 1])
def test_every_op_keeps_the_laws(level: str, laws: list[str]) -> None:
    output = cargo("--test", "laws", "--", "--nocapture", BACKSWEEP_SIMD=level)
    counts = re.findall(r"law ([\w ]+): (\d+) ops, (\d+) (\w+)", output)
    assert {law for law, *_ in counts} >= {"value", "vjp", "second derivative", "layouts", "replay", "ledger"}
    laws.append(f"{level}: {counts[0][1]} ops: " + ", ".join(f"{law} {n} {unit}" for law, _, n, unit in sorted(counts)))
