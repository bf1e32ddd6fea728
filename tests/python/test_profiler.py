"""The profiler: its capture against the ledger, its reasons against small graphs, its files against their readers."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import backsweep as bs
import backsweep.nn.functional as F
from backsweep import _core, nn, optim
from backsweep.profiler import Profile, capture, groups, profile
from backsweep.profiler.capture import Capture
from backsweep.profiler.treemap import squarify

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
        assert tables.unknown[i] == 0
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
    for by in groups.GROUPS:
        rows = prof.peak(by)
        assert sum(row["bytes"] for row in rows) == summary["peak_bytes"]
        assert rows == sorted(rows, key=lambda row: -row["bytes"])
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
    trace = perfetto_events(prof)
    assert any(e["name"] == "recompute exp" and e["cat"] == "replay" for e in trace if e["ph"] == "X")


def perfetto_events(prof: Profile) -> list[dict[str, Any]]:
    from backsweep.profiler.export import perfetto

    return list(perfetto(prof.tables)["traceEvents"])


def test_perfetto_counters_end_at_the_live_bytes(prof: profile) -> None:
    last: dict[str, int] = {}
    for event in perfetto_events(prof):
        if event["ph"] == "C":
            last[event["name"]] = event["args"]["bytes"]
    assert sum(last.values()) == prof.tables.total[-1]


def test_a_step_is_the_callers_when_asked() -> None:
    with profile(steps="manual") as prof:
        train(2)
        prof.step()
        prof.attach("run", {"learning_rate": 0.5})
    assert len(prof.steps()) == 1
    assert prof.summary()["facts"]["run"] == {"learning_rate": 0.5}
    assert prof.pareto() == [] and "pareto" not in prof.to_dict()
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
    for name in ("p.svg", "p.treemap.svg", "p.pareto.svg"):
        assert ElementTree.fromstring(export(name)).tag.endswith("svg")
    for name, height in (("p.png", 720), ("p.treemap.png", 840), ("p.pareto.png", 720)):
        data = export(name)
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        assert (int.from_bytes(data[16:20]), int.from_bytes(data[20:24])) == (2000, height)
        rows = zlib.decompress(data[data.index(b"IDAT") + 4 : data.index(b"IEND") - 8])
        assert len(rows) == height * (2000 * 3 + 1)
    with pytest.raises(ValueError, match="format 'gif'; one of html, json"):
        export("p.gif")
    assert "<svg" in prof._repr_html_() and "kept for backward" in prof._repr_html_()


@pytest.mark.parametrize("unit", [1, 30, 1000])
def test_a_peak_of_very_large_and_very_small_modules_is_drawn(unit: int, tmp_path: Path) -> None:
    # Fields from a whole picture down to less than a point, and blocks of no bytes at all.
    layers = [nn.Linear(4, unit * 4**n) for n in range(6)] + [nn.Linear(4, 1) for _ in range(40)]
    with profile() as prof:
        x = bs.ones(2, 4)
        kept = [layer(x[:rows]) for layer in layers for rows in (0, 2)]
    for name in ("p.treemap.svg", "p.treemap.png", "p.html"):
        assert prof.export(tmp_path / name).stat().st_size > 1000
    del kept


@settings(deadline=None, max_examples=200, derandomize=True)
@given(
    st.lists(st.one_of(st.just(0.0), st.floats(1.0, 1e9)), max_size=40),
    st.floats(0.01, 1e4),
    st.floats(0.01, 1e4),
)
def test_rectangles_have_the_areas_asked_for_and_stay_inside(sizes: list[float], width: float, height: float) -> None:
    sizes = sorted(sizes, reverse=True)
    rectangles = squarify(sizes, 5.0, 7.0, width, height)
    assert len(rectangles) == (len(sizes) if sum(sizes) else 0)
    room = 0.1 + 1e-6 * (width + height)
    for size, (x, y, w, h) in zip(sizes, rectangles, strict=False):
        assert w >= 0 and h >= 0 and x >= 5 - room and y >= 7 - room
        assert x + w <= 5 + width + room and y + h <= 7 + height + room
        assert w * h == pytest.approx(size / sum(sizes) * width * height, rel=1e-6, abs=1e-9 * width * height)


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
