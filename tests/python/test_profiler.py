"""The profiler: its capture against the ledger, its reasons against small graphs, its files against their readers."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import backsweep as bs
import backsweep.nn.functional as F
from backsweep import _core, nn, optim
from backsweep.profiler import Profile, capture, compare, profile
from backsweep.profiler.capture import Capture

EXAMPLES = Path(__file__).parents[2] / "examples"
# A process in another folder finds the same package.
OUTSIDE = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, map(os.path.abspath, sys.path)))}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Linear(32, 64), nn.Linear(64, 8)

    def forward(self, x: bs.Tensor) -> bs.Tensor:
        return self.narrow(F.gelu(self.wide(x)))


def train(steps: int = 3) -> Net:
    bs.manual_seed(0)
    model = Net()
    optimizer = optim.AdamW(model.parameters())
    for _ in range(steps):
        loss = F.cross_entropy(model(bs.randn(16, 32)), bs.zeros(16, dtype=bs.int64))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


@pytest.fixture(scope="module")
def prof() -> profile:
    with profile() as prof:
        train()
    return prof


def run(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=OUTSIDE | environment, capture_output=True, text=True, timeout=120)


# The bill

def test_categories_sum_to_the_live_bytes_at_every_event() -> None:
    bs.memory.reset_peak()
    with profile() as prof:
        model = train()
        stats = bs.memory.stats()
    tables = prof.tables
    assert (tables.live >= 0).all()
    # A second way to the same figure: blocks one by one, as the ledger would.
    blocks: dict[int, list[int]] = {}
    live = [0] * 8
    for i, event in enumerate(tables.events):
        kind, code, number = int(event["kind"]), int(event["code"]), int(event["number"])
        block = int(event["id"])
        if kind in (capture.ALLOC, capture.PRESENT):
            blocks[block] = [number, code]
            live[code] += number
        elif kind == capture.FREE:
            size, category = blocks.pop(block)
            live[category] -= size
        elif kind == capture.RETAG:
            size, category = blocks[block]
            live[category] -= size
            live[code] += size
            blocks[block][1] = code
        assert tables.live[i].tolist() == live
        assert sum(size for size, _ in blocks.values()) == tables.total[i]
    assert tables.peak_bytes == stats["peak"]
    assert tables.total[-1] == stats["live"] == bs.memory.stats()["live"]
    del model


def test_the_rows_of_the_peak_sum_to_it_and_nothing_is_unknown(prof: profile) -> None:
    rows, summary = prof.peak(), prof.summary()
    assert sum(row["bytes"] for row in rows) == summary["peak_bytes"] == prof.tables.total.max()
    by_category = dict.fromkeys(bs.memory.CATEGORIES, 0)
    for row in rows:
        by_category[row["category"]] += row["bytes"]
        # An optimizer makes its state natively, in no line of the program.
        assert row["op"] and row["why"] and (row["line"] or (row["category"] == "optimizer" and row["module"]))
    assert by_category == summary["peak_by_category"]
    assert summary["unknown_bytes"] == 0
    for by in compare.GROUPS:
        groups = prof.peak(by)
        assert sum(row["bytes"] for row in groups) == summary["peak_bytes"]
        assert groups == sorted(groups, key=lambda row: -row["bytes"])
    with pytest.raises(ValueError, match="group_by 'shape'; one of module, op"):
        prof.peak("shape")


def test_a_kept_value_knows_which_vjp_needs_it_and_how_far_away_that_is(prof: profile) -> None:
    saved = {(row["op"], row["module"]): row for row in prof.saved() if row["category"] == "activation" and row["bytes"] > 1000}
    wide = saved["linear", "wide"]
    assert (wide["needed_by"], wide["needed_module"], wide["why"]) == ("gelu", "Net", "vjp of gelu in Net")
    hidden = saved["gelu", "Net"]
    assert (hidden["needed_by"], hidden["needed_module"]) == ("linear", "narrow")
    # The sweep comes to narrow's vjp right before gelu's.
    assert wide["ops_away"] == hidden["ops_away"] + 1
    assert wide["recompute_seconds"] > 0 and wide["recompute_flops"] >= 2 * 16 * 32 * 64
    assert wide["until"] > wide["since"]


def test_values_of_a_graph_dropped_without_a_sweep_are_needed_no_more() -> None:
    weight = nn.Parameter(bs.ones(64, 64))
    with profile() as prof:
        y = (weight * 2).exp()
        held = y.detach()
        del y
        bs.ones(256, 256)
    tables = prof.tables
    end = tables.alive(len(tables.events) - 1)
    exp = next(row for row in end if row["op"] == "exp")
    assert exp["needs"] == 0 and exp["category"] == "temporary"
    assert any(row["op"] == "exp" and row["needs"] == 1 for row in tables.saved())
    del held


def test_parameters_and_optimizer_state_belong_to_their_module(prof: profile) -> None:
    layers = {row["module"]: row for row in prof.layers()}
    for name, module in (("wide", nn.Linear(32, 64)), ("narrow", nn.Linear(64, 8))):
        size = sum(4 * p.numel() for p in module.parameters())
        assert layers[name]["parameter_bytes"] == size
        assert layers[name]["optimizer_bytes"] == 2 * size
        assert layers[name]["forward_seconds"] > 0 and layers[name]["backward_seconds"] > 0
    assert layers["Net"]["saved_bytes"] > 0


def test_steps_and_phases_follow_the_training_loop(prof: profile) -> None:
    assert [row["step"] for row in prof.steps()] == [1, 2, 3]
    assert all(row["forward_seconds"] > 0 and row["optimizer_seconds"] > 0 for row in prof.steps())
    wanted = ["forward", "backward", "optimizer"] * 3
    found = [p["phase"] for p in prof.tables.phases]
    # Initialisation and the optimizer's zeros come before.
    assert found[-len(wanted) :] == wanted
    assert max(row["peak_bytes"] for row in prof.steps()) == prof.summary()["peak_bytes"]
    assert prof.summary()["end_bytes"] == prof.tables.total[-1]


def test_replays_are_told_from_forwards() -> None:
    before = _core.set_replayable(True)
    try:
        with profile() as prof:
            x = nn.Parameter(bs.full((64, 64), 0.5))
            y = ((x * 2).exp() * 3).exp().sum()
            _core.drop_saved(y)
            y.backward()
    finally:
        _core.set_replayable(before)
    rows, work = prof.replays(), prof.summary()
    assert {row["op"] for row in rows} >= {"exp", "mul"}
    assert work["replay_seconds"] > 0 and work["recompute_share"] > 0 and work["replay_flops"] > 0
    trace = compare_perfetto(prof)
    assert any(e["name"] == "recompute exp" and e["cat"] == "replay" for e in trace if e["ph"] == "X")


def compare_perfetto(prof: Profile) -> list[dict[str, Any]]:
    from backsweep.profiler.export import perfetto

    return list(perfetto(prof.tables)["traceEvents"])


def test_perfetto_counters_end_at_the_live_bytes(prof: profile) -> None:
    last: dict[str, int] = {}
    for event in compare_perfetto(prof):
        if event["ph"] == "C":
            last[event["name"]] = event["args"]["bytes"]
    assert sum(last.values()) == prof.tables.total[-1]


def test_a_step_is_the_callers_when_asked() -> None:
    with profile(steps="manual") as prof:
        train(2)
        prof.step()
        prof.attach("pareto", [{"budget_bytes": 10, "overhead": 0.5}])
    assert len(prof.steps()) == 1
    assert prof.pareto() == prof.to_dict()["pareto"] == [{"budget_bytes": 10, "overhead": 0.5}]
    with pytest.raises(ValueError, match="steps='auto'; 'optimizer' or 'manual'"):
        profile(steps="auto")


def test_one_capture_at_a_time_and_none_before_its_end() -> None:
    with profile() as prof:
        with pytest.raises(RuntimeError, match="the capture has not ended"):
            prof.summary()
        with pytest.raises(RuntimeError, match="running already"), profile():
            pass
    assert prof.summary()["events"] > 0


def test_after_the_most_events_steps_still_know_their_peak() -> None:
    with profile(most_events=50) as prof:
        bs.ones(4)
        train(3)
    # Blocks alive before count as well, and the steps beyond.
    assert len(prof.capture.events) <= 50 + 3 + (prof.capture.events["kind"] == capture.PRESENT).sum()
    assert [row["step"] for row in prof.steps()] == [1, 2, 3]
    with profile() as whole:
        train(3)
    grown = [row["peak_bytes"] - p.tables.present_bytes for p in (prof, whole) for row in p.steps()]
    assert grown[:3] == grown[3:] or abs(grown[0] - grown[3]) <= 64


def test_explain_says_what_was_wanted_and_why_the_rest_is_alive() -> None:
    model = Net()
    with profile() as prof, bs.memory.limit(bs.memory.stats()["live"] + 40_000), pytest.raises(bs.OutOfMemoryError):
        model(bs.randn(512, 32)).sum().backward()
    refused = prof.explain()
    assert refused is not None and refused["limit_bytes"] is not None
    assert refused["asked_bytes"] + refused["live_bytes"] > refused["limit_bytes"]
    assert sum(row["bytes"] for row in refused["rows"]) == refused["live_bytes"]
    assert "out of memory in step 1" in str(prof)
    with profile() as fine:
        bs.ones(3)
    assert fine.explain() is None


def test_explain_works_without_a_capture() -> None:
    model = Net()
    y = model(bs.randn(16, 32))
    rows = bs.profiler.explain()
    assert sum(row["bytes"] for row in rows) == bs.memory.stats()["live"]
    gelu = next(row for row in rows if row["op"] == "gelu" and row["needed_by"] == "linear")
    assert gelu["why"] == "vjp of linear in narrow" and gelu["visits_away"] == 0
    assert bs.profiler.explain("module")[0]["bytes"] > 0
    del y


# Files

def test_every_format_is_written_and_can_be_read(prof: profile, tmp_path: Path) -> None:
    def export(name: str, format: str | None = None) -> bytes:
        return prof.export(tmp_path / name, format).read_bytes()

    assert json.loads(export("p.json"))["schema"] == "backsweep.profile/1"
    assert json.loads(export("p.perfetto.json"))["traceEvents"]
    assert export("p.csv").decode().splitlines()[0].startswith("bytes,category,op,module,line")
    for name in ("p.svg", "p.treemap.svg"):
        assert ElementTree.fromstring(export(name)).tag.endswith("svg")
    for name, height in (("p.png", 720), ("p.treemap.png", 840)):
        data = export(name)
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        assert (int.from_bytes(data[16:20]), int.from_bytes(data[20:24])) == (2000, height)
        rows = zlib.decompress(data[data.index(b"IDAT") + 4 : data.index(b"IEND") - 8])
        assert len(rows) == height * (2000 * 3 + 1)
    with pytest.raises(ValueError, match="format 'gif'; one of html, json"):
        export("p.gif")
    assert "<svg" in prof._repr_html_() and "kept for backward" in prof._repr_html_()


def test_the_report_needs_no_network(prof: profile, tmp_path: Path) -> None:
    text = prof.html(tmp_path / "report.html").read_text()
    assert set(re.findall(r"https?://[^\\\\\"' <]*", text)) <= {"http://www.w3.org/2000/svg"}
    assert "/*DATA*/null" not in text and text.count("</script>") == 1


def test_a_million_events_stay_a_small_page() -> None:
    count = 1_000_000
    events = np.zeros(count, capture.EVENT)
    events["nanos"] = np.arange(count) * 1000
    events["number"] = 4096
    events["id"] = (np.arange(count) // 2) % 50
    events["kind"] = np.where(np.arange(count) % 2 == 0, capture.ALLOC, capture.FREE)
    events["code"] = bs.memory.CATEGORIES.index("activation")
    prof = Profile(Capture(events, [""], {}, True))
    begin = time.perf_counter()
    from backsweep.profiler import html

    page = html.page(prof.tables)
    assert time.perf_counter() - begin < 20
    assert len(page) < 8_000_000
    assert prof.summary()["peak_bytes"] == 4096


def test_a_file_cut_short_is_read_to_its_last_whole_chunk(tmp_path: Path) -> None:
    path = tmp_path / "run.capture"
    with profile(path) as prof:
        train(4)
    data = path.read_bytes()
    (tmp_path / "cut").write_bytes(data[: len(data) * 3 // 4])
    cut = Profile.read(tmp_path / "cut")
    assert not cut.capture.whole and prof.capture.whole
    assert 0 < len(cut.capture.events) < len(prof.capture.events)
    assert cut.peak() and "cut short" in str(cut)
    (tmp_path / "other").write_bytes(b"\x89PNG and more")
    with pytest.raises(ValueError, match="so it is no capture"):
        Profile.read(tmp_path / "other")


def test_tables_are_data_frames() -> None:
    with profile() as prof:
        train(1)
    # What pandas.DataFrame(rows) makes columns of: rows with the same names and plain values.
    for rows in (prof.peak(), prof.layers(), prof.saved(), prof.timeline(10), prof.steps()):
        assert rows and all(row.keys() == rows[0].keys() for row in rows)
        assert all(isinstance(value, (str, int, float, type(None))) for row in rows for value in row.values())


# The command

SCRIPT = """
import sys
import numpy as np
import backsweep as bs
from backsweep import nn, optim

model = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 8))
optimizer = optim.SGD(model.parameters(), lr=0.1)
for step in range(int(sys.argv[1])):
    optimizer.zero_grad()
    model(bs.randn(16, 32)).square().sum().backward()
    optimizer.step()
print("trained", sys.argv[1:])
{end}
"""


@pytest.fixture(scope="module")
def captured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captured")
    (folder / "train.py").write_text(SCRIPT.format(end=""))
    result = run("backsweep", "profile", "train.py", "2", "--html", "r.html", "--json", "--", "--out", cwd=folder)
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert (summary["schema"], summary["steps"], summary["status"]) == ("backsweep.profile/1", 2, 0)
    # What the script prints is not in the JSON's way, and what follows -- is the script's.
    assert "trained ['2', '--out']" in result.stderr
    assert (folder / "r.html").stat().st_size > 10_000
    return folder


def test_views_of_a_saved_capture(captured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from backsweep.cli import main

    file = str(captured / "train.capture")
    for view in ("summary", "peak", "layers", "saved", "timeline", "replays", "steps", "explain", "check"):
        assert main(["profile", view, file]) == 0
        assert capsys.readouterr().out
        assert main(["profile", view, file, "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["schema"] == "backsweep.profile/1"
    assert main(["profile", "diff", file, file, "--json"]) == 0
    diff = json.loads(capsys.readouterr().out)
    assert diff["rows"] and not any(row["change_bytes"] for row in diff["rows"])
    assert main(["profile", "diff", file, file]) == 0
    assert "the same holders" in capsys.readouterr().out
    assert main(["profile", "peak", file, "--group-by", "module"]) == 0
    assert "total" in capsys.readouterr().out
    assert main(["profile", "timeline", file, "--out", str(captured / "t.png")]) == 0
    assert main(["profile", "export", file, str(captured / "t.perfetto.json")]) == 0
    assert main(["profile", "summary", str(captured / "train.py")]) == 2
    assert "so it is no capture" in capsys.readouterr().err
    assert main(["profile", "summary", str(captured / "none.capture")]) == 2


def test_check_is_a_gate(captured: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from backsweep.cli import main

    file = str(captured / "train.capture")
    assert main(["profile", "check", file, "--max-peak", "1 GiB", "--max-recompute", "10%"]) == 0
    assert main(["profile", "check", file, "--max-peak", "1 KiB", "--max-activation", "16"]) == 1
    out = capsys.readouterr().out
    assert "exceeds the limit of 1.0 KiB" in out and "by module" in out
    assert main(["profile", "check", file, "--max-peak", "lots"]) == 2
    assert "'lots' is no size" in capsys.readouterr().err


def test_a_script_that_raises_leaves_its_capture(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text(SCRIPT.format(end="raise KeyError('no such thing')"))
    result = run("backsweep", "profile", "bad.py", "1", cwd=tmp_path)
    assert result.returncode == 1
    assert "KeyError: 'no such thing'" in result.stderr and "runpy" not in result.stderr
    assert "the run ended with KeyError" in result.stdout
    assert Profile.read(tmp_path / "bad.capture").summary()["steps"] == 1


def test_a_script_that_is_killed_leaves_what_was_written(tmp_path: Path) -> None:
    (tmp_path / "killed.py").write_text(SCRIPT.format(end=f"import os; os.kill(os.getpid(), {int(signal.SIGTERM)})"))
    result = run("backsweep", "profile", "killed.py", "3", cwd=tmp_path)
    assert result.returncode != 0
    assert len(Profile.read(tmp_path / "killed.capture").steps()) == 3


def test_a_status_of_the_script_is_the_commands(tmp_path: Path) -> None:
    (tmp_path / "leaves.py").write_text(SCRIPT.format(end="sys.exit(7)"))
    assert run("backsweep", "profile", "leaves.py", "1", cwd=tmp_path).returncode == 7
    missing = run("backsweep", "profile", "none.py", cwd=tmp_path)
    assert missing.returncode == 2 and "there is no script 'none.py'" in missing.stderr


# Other people's tools

def test_markers_fail_a_test_that_exceeds_its_limit(tmp_path: Path) -> None:
    (tmp_path / "test_limits.py").write_text(
        """
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

@pytest.mark.limit_recompute("lots")
def test_nonsense():
    pass

@pytest.mark.limit_peak_memory("20 KiB")
def test_own_failure():
    assert len(bs.ones(100, 100)) == 7
"""
    )
    # Loaded by name, whether or not the package is installed and announces its plugin.
    command = ("pytest", "-p", "backsweep.pytest_plugin", "-q", "--strict-markers", "test_limits.py")
    result = run(*command, cwd=tmp_path, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    out = result.stdout
    assert "4 failed, 1 passed" in out, out
    assert "peak 39.1 KiB exceeds the limit of 20.0 KiB by 19.1 KiB" in out
    assert "exceed the limit of 1.0 KiB" in out and "vjp of tanh" in out
    assert "'lots' is no share" in out
    assert "assert 100 == 7" in out


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


def test_the_example_is_profiled_as_the_readme_says(tmp_path: Path) -> None:
    result = run("backsweep", "profile", EXAMPLES / "char_gpt.py", "--steps", "3", "--html", "report.html", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "unknown 0 B" in result.stdout and "3 steps" in result.stdout
    assert (tmp_path / "report.html").stat().st_size > 10_000
