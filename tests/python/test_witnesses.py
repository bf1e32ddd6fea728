"""Who keeps watch besides us: pytest's markers in users' own tests, bit-identical gradients, and memray."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import backsweep as bs
from backsweep import nn

# A process in another folder finds the same package.
OUTSIDE = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, map(os.path.abspath, sys.path)))}


def test_markers_fail_a_test_that_exceeds_its_limit(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    pytester.makepyfile(
        test_limits="""
        import backsweep as bs, pytest
        from backsweep import nn

        @pytest.mark.limit_peak_memory("1 MiB")
        @pytest.mark.limit_recompute("10%")
        def test_small():
            bs.ones(100, 100)

        @pytest.mark.limit_peak_memory("20 KiB")
        def test_peak():
            bs.ones(100, 100)

        @pytest.mark.limit_activation_memory("1 KiB")
        def test_kept():
            nn.Linear(64, 64)(bs.ones(64, 64)).tanh().sum().backward()

        @pytest.mark.limit_recompute("1%")
        def test_recomputed():
            layers = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.Tanh()) for _ in range(4)))
            bs.checkpoint(layers, bs.ones(256, 64)).sum().backward()

        @pytest.mark.limit_recompute("lots")
        def test_nonsense():
            pass

        @pytest.mark.limit_peak_memory("1 KiB", "2 KiB")
        def test_two_limits():
            pass

        @pytest.mark.limit_peak_memory("20 KiB")
        def test_own_failure():
            assert len(bs.ones(100, 100)) == 7

        @pytest.mark.limit_peak_memory("20 KiB")
        class TestClass:
            def test_method(self):
                bs.ones(10)
        """
    )
    # Loaded by name, whether or not the package is installed and announces its plugin.
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    result = pytester.runpytest_inprocess("-p", "backsweep.pytest_plugin", "--strict-markers")
    result.assert_outcomes(passed=2, failed=6)
    out = result.stdout.str()
    assert "peak 39.1 KiB exceeds the limit of 20.0 KiB by 19.1 KiB" in out
    assert "exceed the limit of 1.0 KiB" in out and "vjp of tanh" in out
    assert "exceeds the limit of 1.0 %" in out
    assert "'lots' is no share" in out and "limit_peak_memory: 2 values; one is needed" in out
    assert "assert 100 == 7" in out


def test_an_assertion_on_gradients_is_one_line_of_a_users_test(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makepyfile(
        test_same_under_budget="""
        import backsweep as bs, pytest
        from backsweep import nn
        from backsweep.testing import assert_same_under_budget

        model = nn.Sequential(*(nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Dropout(0.1)) for _ in range(8)))
        x = bs.randn(512, 64)

        def test_same():
            assert_same_under_budget(lambda: model(x).sum().backward(), model.parameters(), ratio=0.7)

        def test_impossible():
            with pytest.raises(bs.OutOfMemoryError):
                assert_same_under_budget(lambda: model(x).sum().backward(), model.parameters(), budget="1 KiB")
        """
    )
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.runpytest_inprocess("-p", "backsweep.pytest_plugin").assert_outcomes(passed=2)


def test_gradients_under_a_budget_are_compared_bit_by_bit() -> None:
    from backsweep.testing import assert_same_under_budget

    bs.manual_seed(0)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(32, 32), nn.Tanh(), nn.Dropout(0.1)) for _ in range(8)))
    x = bs.randn(256, 32)
    bs.memory.reset_peak()
    live = bs.memory.stats()["live"]
    model(x).square().sum().backward()
    budget = live + int(0.8 * (bs.memory.stats()["peak"] - live))
    peak = assert_same_under_budget(lambda: model(x).square().sum().backward(), model.parameters(), budget=budget)
    assert peak <= budget
    calls = []

    def changing() -> None:
        calls.append(0)
        (model(x) * float(len(calls))).sum().backward()

    with pytest.raises(AssertionError, match="the gradient of parameter 0 differs under a budget"):
        assert_same_under_budget(changing, model.parameters(), ratio=1.0)


@pytest.mark.skipif(sys.platform == "win32", reason="memray runs on Linux and macOS")
def test_memray_sees_the_same_peak(tmp_path: Path, laws: list[str]) -> None:
    import memray

    (tmp_path / "witness.py").write_text(
        """
import json
import memray
import backsweep as bs
import backsweep.nn.functional as F
from backsweep import nn, optim

bs.manual_seed(0)
with memray.Tracker("witness.bin"):
    model = nn.Sequential(nn.Linear(1024, 2048), nn.GELU(), nn.Linear(2048, 1024), nn.ReLU(), nn.Linear(1024, 10))
    optimizer = optim.AdamW(model.parameters())
    for _ in range(3):
        loss = F.cross_entropy(model(bs.randn(512, 1024)), bs.zeros(512, dtype=bs.int64))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
print(bs.memory.stats()["peak"])
"""
    )
    environment = OUTSIDE | {"BACKSWEEP_ARENA": "system"}
    command = [sys.executable, "witness.py"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    ours = int(result.stdout)
    theirs = memray.FileReader(str(tmp_path / "witness.bin")).metadata.peak_memory
    laws.append(f"memray: peak {theirs:,} bytes, ours {ours:,} ({100 * (theirs - ours) / ours:+.2f} %)")
    # Theirs has Python's own objects too; ours may not be more.
    assert 0 <= theirs - ours <= 0.01 * ours
