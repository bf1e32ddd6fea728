"""The engine's own tests, from the same command: units, the graph at its limits, and the laws at each SIMD level."""

from __future__ import annotations

import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

import backsweep as bs

ROOT = Path(__file__).parents[2]
SIMD = str(bs.cpu_info()["simd"])
LEVELS = ("plain", "neon") if SIMD == "neon" else ("plain", "avx2", "avx512")
LEVELS_HERE = LEVELS[: LEVELS.index(SIMD) + 1]


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


EVERY_OP, HALVES = "every_op_with_a_kernel_agrees_with_the_cpu", "halves_agree_with_the_cpu"


@pytest.fixture(scope="module")
def runs() -> Iterator[dict[str, Future[str]]]:
    """What each command printed. As many run at a time as there are processors, those that take longest first."""
    cargo("--no-run")
    targets = {target["name"] for target in tomllib.loads((ROOT / "Cargo.toml").read_text())["test"]}
    core = [word for name in sorted(targets - {"gpu", "laws"}) for word in ("--test", name)]
    commands: dict[str, tuple[list[str], dict[str, str]]] = {
        "gpu": (["--test", "gpu", "--", "--skip", EVERY_OP, "--skip", HALVES], {}),
        "halves": (["--test", "gpu", HALVES], {}),
        "core": (["--lib", *core], {}),
        "every op": (["--test", "gpu", EVERY_OP], {}),
        **{level: (["--test", "laws", "--", "--nocapture"], {"BACKSWEEP_SIMD": level}) for level in LEVELS_HERE},
    }
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield {name: pool.submit(cargo, *arguments, **values) for name, (arguments, values) in commands.items()}
        pool.shutdown(cancel_futures=True)


def test_the_core_passes_its_own_tests(runs: dict[str, Future[str]]) -> None:
    output = "".join(runs[name].result() for name in ("core", "gpu", "halves", "every op"))
    passed = [int(n) for n in re.findall(r"test result: ok\. (\d+) passed; 0 failed; 0 ignored", output)]
    # Four programs and thrice the one of the GPU; some of their tests start another.
    assert len(passed) >= 7 and min(passed) > 0 and sum(passed) > 100, output[-2000:]


@pytest.mark.parametrize("level", LEVELS_HERE)
def test_every_op_keeps_the_laws(level: str, runs: dict[str, Future[str]], laws: list[str]) -> None:
    output = runs[level].result()
    counts = re.findall(r"law ([\w ]+): (\d+) ops, (\d+) (\w+)", output)
    assert {law for law, *_ in counts} >= {"value", "vjp", "second derivative", "layouts", "replay", "ledger"}
    laws.append(f"{level}: {counts[0][1]} ops: " + ", ".join(f"{law} {n} {unit}" for law, _, n, unit in sorted(counts)))
