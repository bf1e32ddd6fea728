"""`backsweep profile`: unchanged scripts of all kinds, views of their captures, and clear words where something is wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backsweep.cli import main
from backsweep.profiler import Profile, capture, report

EXAMPLES = Path(__file__).parents[2] / "examples"
DOCS = Path(__file__).parents[2] / "docs"
# A process in another folder finds the same package.
OUTSIDE = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, map(os.path.abspath, sys.path)))}


def run(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=OUTSIDE | environment, capture_output=True, text=True, timeout=120)


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
    file = str(captured / "train.capture")
    for view in ("summary", "peak", "layers", "saved", "timeline", "replays", "steps", "pareto", "explain", "check"):
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


# The third step's forward and half a backward have run when these end.
ENDINGS = {
    "killed": f"os.kill(os.getpid(), {int(getattr(signal, 'SIGKILL', signal.SIGTERM))})",
    "terminated": f"os.kill(os.getpid(), {int(signal.SIGTERM)})",
    "exits": "os._exit(3)",
    "aborts": "os.abort()",
}


@pytest.mark.parametrize("end", ENDINGS)
def test_a_script_that_is_cut_off_leaves_what_it_did_up_to_then(end: str, tmp_path: Path) -> None:
    (tmp_path / "cut.py").write_text(
        SCRIPT.format(end="import os\nmodel(bs.randn(4096, 32)).tanh().exp().sum().backward()\n" + ENDINGS[end])
    )
    result = run("backsweep", "profile", "cut.py", "3", cwd=tmp_path)
    assert result.returncode != 0
    prof = Profile.read(tmp_path / "cut.capture")
    assert len(prof.steps()) == 3
    # What came after the last step is there as well, but for the last hundred events.
    assert prof.summary()["peak_where"]["step"] == 4 and prof.summary()["unknown_bytes"] == 0
    shown = run("backsweep", "profile", "summary", "cut.capture", cwd=tmp_path)
    assert shown.returncode == 0 and "3 steps" in shown.stdout


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_writes_nothing_into_the_capture(tmp_path: Path) -> None:
    (tmp_path / "forks.py").write_text(
        SCRIPT.format(
            end="import os, warnings\nwarnings.simplefilter('ignore')\nif (child := os.fork()) == 0:\n"
            "    for _ in range(500): bs.ones(4)\n    os._exit(0)\nos.waitpid(child, 0)\n"
        )
    )
    assert run("backsweep", "profile", "forks.py", "2", cwd=tmp_path).returncode == 0
    prof = Profile.read(tmp_path / "forks.capture")
    assert prof.capture.whole and len(prof.steps()) == 2
    assert not any(row["line"].startswith("forks.py:17") for row in prof.tables.alive(len(prof.capture.events) - 1))


def test_a_status_of_the_script_is_the_commands(tmp_path: Path) -> None:
    (tmp_path / "leaves.py").write_text(SCRIPT.format(end="sys.exit(7)"))
    assert run("backsweep", "profile", "leaves.py", "1", cwd=tmp_path).returncode == 7
    (tmp_path / "speaks.py").write_text("import sys; sys.exit('no data')")
    spoken = run("backsweep", "profile", "speaks.py", cwd=tmp_path)
    assert spoken.returncode == 1 and "no data" in spoken.stderr


def test_a_script_is_run_as_python_would(tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("WORD = 'found'")
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").write_text("")
    (tmp_path / "pack" / "near.py").write_text("WORD = 'near'")
    (tmp_path / "pack" / "train.py").write_text("from .near import WORD\nimport sys\nprint(WORD, __name__, sys.argv[1:])")
    (tmp_path / "plain.py").write_text(
        "import sys\nfrom beside import WORD\nif __name__ == '__main__':\n    print(WORD, sys.argv, __file__)\n"
    )
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    plain = run("backsweep", "profile", "../plain.py", "--rate", "0.1", "-v", cwd=elsewhere)
    assert plain.returncode == 0, plain.stderr
    assert "found ['../plain.py', '--rate', '0.1', '-v'] ../plain.py" in plain.stdout
    # It does not train at all: there is a capture all the same, and it says so.
    assert "nothing was allocated" in plain.stdout
    assert Profile.read(elsewhere / "plain.capture").summary()["steps"] == 0
    module = run("backsweep", "profile", "--out", "m.capture", "-m", "pack.train", "-m", "--json", cwd=tmp_path)
    assert "near __main__ ['-m', '--json']" in module.stdout, module.stderr
    assert (tmp_path / "m.capture").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("none.py",), "there is no script 'none.py'; a file, -m and a module, or one of summary"),
        (("folder",), "'folder' is a folder; a file is needed, or -m and the name of a module"),
        (("--fast", "x.py"), "--fast is no option of this command; options of the script stand after its name"),
        ((), "a script is needed, or one of the views"),
        (("-m",), "-m: the name of a module is needed"),
        (("--fast", "-m", "x"), "--fast is no option of this command; -m and a module stand after its options"),
        (("summary", "none.capture"), "'none.capture' cannot be used: No such file or directory"),
        (("summary", "folder"), "'folder' cannot be used: Is a directory"),
        (("summary", "empty"), "profile: empty is empty, so it is no capture; a file written by 'backsweep profile"),
        (("peak", "text.py"), "profile: text.py begins with b'print(1)', so it is no capture"),
        (("timeline", "good.capture", "--out", "x.gif"), "'x.gif' is no picture's name; one that ends with .svg or .png"),
        (("export", "good.capture", "x.gif"), "format 'gif'; one of html, json"),
        (("export", "good.capture", "none/x.svg"), "'none/x.svg' cannot be used: No such file or directory"),
        (("forecast", "--fits", "lots", "text.py"), "'lots' is no size; an int or a text such as '512 MiB' is needed"),
        (("forecast", "--vary", "--batch", "text.py"), "--vary: expected one argument"),
        (("forecast", "--vary=--batch", "text.py"), "'--batch' names no values; --vary=--batch=8,16,32 would be right"),
    ],
)
def test_what_is_wrong_is_said_in_words(
    arguments: tuple[str, ...], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "empty").write_text("")
    (tmp_path / "text.py").write_text("print(1)\n")
    (tmp_path / "good.capture").write_bytes(capture.MAGIC)
    try:
        status = main(["profile", *arguments])
    except SystemExit as end:
        status = end.code
    assert status == 2
    # Argparse breaks lines.
    assert words in " ".join(capsys.readouterr().err.split())


def test_captures_of_other_versions_and_damaged_ones(captured: Path, tmp_path: Path) -> None:
    log = (captured / "train.capture").read_bytes()
    with pytest.raises(ValueError, match=r"has log version 00, and this version reads 01; take the capture again"):
        capture.Capture.parse(b"BSWEEP00" + log[8:], "old")
    assert b"backsweep.profile/1" in log
    older = log.replace(b"backsweep.profile/1", b"backsweep.profile/0")
    with pytest.raises(ValueError, match=r"has schema backsweep.profile/0, and this version reads backsweep.profile/1; .* read it with backsweep \d"):
        capture.Capture.parse(older, "old")
    whole = capture.Capture.parse(log)
    random = np.random.default_rng(0)
    for at in random.integers(8, len(log), 200).tolist():
        # A flipped byte is noticed, or changes a number; what is read can always be shown.
        try:
            damaged = capture.Capture.parse(log[:at] + bytes([log[at] ^ 0x55]) + log[at + 1 :])
        except ValueError as error:
            assert "has schema" in str(error)
            continue
        assert len(damaged.events) <= len(whole.events) and str(Profile(damaged))
    for cut in random.integers(8, len(log), 20).tolist():
        part = Profile(capture.Capture.parse(log[:cut]))
        assert str(part) and part.peak() is not None and part.to_dict()


def keys_of(value: Any) -> set[str]:
    if isinstance(value, dict):
        # Names of options and of categories are data.
        inner = [keys_of(v) for k, v in value.items() if k not in ("facts", "categories")]
        return {k for k in value if re.fullmatch(r"[a-z_]+", k)}.union(*inner)
    return set().union(*map(keys_of, value)) if isinstance(value, list) else set()


def test_every_name_of_the_json_is_documented(
    captured: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(SCRIPT.format(end=""))
    text = (DOCS / "profiler.md").read_text(encoding="utf-8")
    assert main(["profile", "train.py", "12", "--pareto", "--json"]) == 0
    names = keys_of(json.loads(capsys.readouterr().out))
    for view in ("peak", "layers", "saved", "timeline", "replays", "steps", "pareto", "explain", "check"):
        main(["profile", view, "train.capture", "--json"])
        names |= keys_of(json.loads(capsys.readouterr().out))
    main(["profile", "diff", "train.capture", "train.capture", "--json"])
    names |= keys_of(json.loads(capsys.readouterr().out))
    main(["profile", "export", "train.capture", "all.json"])
    names |= keys_of(json.loads((tmp_path / "all.json").read_text()))
    capsys.readouterr()
    main(["profile", "forecast", "--budgets", "--json", "train.py", "2"])
    names |= keys_of(json.loads(capsys.readouterr().out))
    assert sorted(name for name in names if f"`{name}`" not in text) == []


@pytest.mark.parametrize("columns", [72, 80, 120])
def test_text_fits_the_terminal(
    columns: int, captured: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    file = str(captured / "train.capture")
    for view in (("summary",), ("peak",), ("peak", "--group-by", "why"), ("layers",), ("saved",), ("timeline",), ("replays",), ("steps",)):
        assert main(["profile", view[0], file, *view[1:]]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= columns, max(lines, key=len)


def test_a_forecast_of_a_script_is_its_peak(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT.format(end=""))
    told = run("backsweep", "profile", "forecast", "--budgets", "--json", "train.py", "5", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    forecast = json.loads(told.stdout)
    real = run("backsweep", "profile", "--json", "train.py", "5", cwd=tmp_path)
    assert forecast["steps"] == 2
    assert forecast["peak_bytes"] == json.loads(real.stdout)["peak_bytes"]
    # Parameters and gradients are the most of it.
    assert forecast["budgets"] == [] and forecast["least_bytes"] >= forecast["peak_bytes"]
    small = run("backsweep", "profile", "forecast", "--fits", "1 KiB", "train.py", "5", cwd=tmp_path)
    assert small.returncode == 1 and "does not fit 1.0 KiB" in small.stdout and "no budget would lower that" in small.stdout
    # A script that prints its loss prints NaN, and is foretold all the same.
    text = SCRIPT.format(end="").replace("    model(", "    loss = model(").replace(".sum().backward()", ".sum()\n    loss.backward()\n    print(f'{loss.item():.3f}', float(loss))\n    del loss")
    (tmp_path / "looks.py").write_text(text)
    looks = run("backsweep", "profile", "forecast", "--json", "looks.py", "5", cwd=tmp_path)
    assert "nan nan" in looks.stderr, looks.stderr
    assert json.loads(looks.stdout) == {**forecast, "unknown_numbers": 4, "budgets": [], "least_bytes": None, "largest": json.loads(looks.stdout)["largest"]}
    (tmp_path / "early.py").write_text("import backsweep as bs\nprint(bs.ones(1).numpy())")
    early = run("backsweep", "profile", "forecast", "early.py", cwd=tmp_path)
    assert early.returncode == 1 and "a forecast has shapes and no numbers" in early.stderr


def test_a_forecast_over_values_of_an_option(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT.format(end="").replace("bs.randn(16, 32)", "bs.randn(int(sys.argv[3]), 32)"))
    command = ("backsweep", "profile", "forecast", "--vary=--batch=8,64,512", "--fits", "100 KiB", "train.py", "3")
    text = run(*command, cwd=tmp_path)
    assert text.returncode == 1 and "does not fit" in text.stdout and "--batch" in text.stdout
    rows = json.loads(run(*command[:3], "--json", *command[3:], cwd=tmp_path).stdout)["rows"]
    assert [row["value"] for row in rows] == ["8", "64", "512"]
    peaks = [row["peak_bytes"] for row in rows]
    assert peaks == sorted(peaks) and [row["fits"] for row in rows] == [True, True, False]


def test_the_example_is_profiled_as_the_readme_says(tmp_path: Path) -> None:
    result = run("backsweep", "profile", EXAMPLES / "char_gpt.py", "--steps", "6", "--html", "report.html", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "unknown 0 B" in result.stdout and "\n2 steps" in result.stdout and "budgets for a step" in result.stdout
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_a_part_larger_than_the_whole_draws_no_endless_bar() -> None:
    lines = report._bars({"parameter": 10**18, "gradient": 5 - 10**18}, 5)
    assert len(lines) == 2 and max(map(len, lines)) < 120
