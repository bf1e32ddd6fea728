"""`backsweep profile`: capture an unchanged script, or look at a capture.

The first word decides: the name of a view, or a script. After a script, this command's own options are taken wherever they
stand; the rest goes to the script, and all that follows a bare `--` does.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from ..memory import parse_bytes
from . import compare, export, report
from .compare import SCHEMA, Comparison
from .record import MOST_EVENTS, Profile, profile

VIEWS = ("summary", "peak", "layers", "saved", "timeline", "replays", "steps", "explain", "diff", "check", "export")


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    if arguments and arguments[0] in VIEWS:
        return _view(arguments[0], arguments[1:])
    return _script(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="backsweep profile",
        usage="backsweep profile [options] SCRIPT [arguments]\n       backsweep profile VIEW CAPTURE [options]",
        description="Capture every block and op of an unchanged script, and say where its memory went.",
        epilog=f"views of a saved capture: {', '.join(VIEWS)}; each with --json and --help",
        allow_abbrev=False,
    )
    parser.add_argument("--out", metavar="FILE", help="the capture (default: the script's name with .capture)")
    parser.add_argument("--html", metavar="FILE", help="also write the report, one file that needs no network")
    parser.add_argument("--png", metavar="FILE", help="also draw the timeline")
    parser.add_argument("--json", action="store_true", help="print the summary as JSON; the script prints to stderr")
    parser.add_argument("--most-events", type=int, default=MOST_EVENTS, metavar="N", help="then only steps are noted")
    return parser


def _script(arguments: Sequence[str]) -> int:
    given = list(arguments)
    cut = given.index("--") if "--" in given else len(given)
    parser = _parser()
    options, rest = parser.parse_known_args(given[:cut])
    rest += given[cut + 1 :]
    if not rest:
        parser.error("a script is needed, or one of the views")
    if rest[0].startswith("-"):
        parser.error(f"{rest[0]} is no option of this command; options of the script stand after its name")
    script = Path(rest[0])
    if not script.is_file():
        parser.error(f"there is no script '{script}'; a file or one of {', '.join(VIEWS)} is needed")
    capture = Path(options.out or f"{script.stem}.capture").absolute()
    html, png = (Path(p).absolute() if p else None for p in (options.html, options.png))
    prof = profile(capture, most_events=options.most_events)
    with redirect_stdout(sys.stderr if options.json else sys.stdout):
        status = _run(script, rest, prof)
    summary = prof.summary()
    if options.json:
        _print_json({**summary, "capture": str(capture), "status": status})
    else:
        print(f"\n{report.summary(summary)}\n\ncapture: {os.path.relpath(capture)}")
    for path, format in ((html, "html"), (png, "png")):
        if path is not None:
            prof.export(path, format)
            print(f"{format}: {os.path.relpath(path)}", file=sys.stderr if options.json else sys.stdout)
    return status


def _run(script: Path, argv: list[str], prof: profile) -> int:
    """Run the script as `python SCRIPT` would; its exit status."""
    before = sys.argv, sys.path[:]
    sys.argv = argv
    sys.path[0:1] = [str(script.absolute().parent)]
    try:
        with prof:
            runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except BaseException as error:
        # The frames of this command say nothing about the script.
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != str(script):
            trace = trace.tb_next
        traceback.print_exception(type(error), error, trace or error.__traceback__)
        return 130 if isinstance(error, KeyboardInterrupt) else 1
    finally:
        sys.argv, sys.path[:] = before
    return 0


def _print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=1, default=str)
    print()


def _view(view: str, arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog=f"backsweep profile {view}", description=_HELP[view], allow_abbrev=False)
    parser.add_argument("capture", metavar="CAPTURE", help="a file that 'backsweep profile SCRIPT' wrote")
    if view == "diff":
        parser.add_argument("other", metavar="CAPTURE", help="the later run")
    parser.add_argument("--json", action="store_true", help=f"as JSON, schema {SCHEMA}")
    if view in ("peak", "saved"):
        parser.add_argument("--group-by", choices=compare.GROUPS, help="sum the blocks by this column")
    if view in ("peak", "saved", "diff"):
        parser.add_argument("--rows", type=int, default=30, metavar="N", help="rows of text (default 30)")
    if view == "timeline":
        parser.add_argument("--bins", type=int, default=40, metavar="N", help="moments (default 40)")
        parser.add_argument("--out", metavar="FILE", help="draw it: .svg or .png")
    if view == "export":
        parser.add_argument("out", metavar="FILE", help="where to")
        parser.add_argument("--format", choices=export.FORMATS, help="by the ending when not given")
    if view == "check":
        parser.add_argument("--max-peak", metavar="BYTES", help='the most live bytes, such as "2 GiB"')
        parser.add_argument("--max-activation", metavar="BYTES", help="the most bytes kept for backward")
        parser.add_argument("--max-recompute", metavar="SHARE", help='replayed work over the rest, such as "10%%"')
    options = parser.parse_args(arguments)
    try:
        prof = Profile.read(options.capture)
        if view == "check":
            return _check(prof, options)
        if view == "diff":
            result = compare.difference(prof.tables, Profile.read(options.other).tables)
            _show(options.json, result, lambda: report.difference(result, options.rows))
            return 0
        if view == "export":
            print(prof.export(options.out, options.format))
            return 0
    except (OSError, ValueError) as error:
        print(f"backsweep profile {view}: {error}", file=sys.stderr)
        return 2
    _tables(view, prof, options)
    return 0


def _tables(view: str, prof: Profile, options: argparse.Namespace) -> None:
    if view == "summary":
        summary = prof.summary()
        _show(options.json, summary, lambda: report.summary(summary))
        return
    if view == "explain":
        refused = prof.explain()
        _show(options.json, {"schema": SCHEMA, "view": view, "refused": refused}, lambda: report.explain(refused))
        return
    if view in ("peak", "saved"):
        rows = getattr(prof, view)(options.group_by)
        show = report.groups if options.group_by else report.blocks
        text: Callable[[], str] = lambda: show(rows, options.rows)  # noqa: E731
    elif view == "timeline":
        if options.out:
            print(prof.export(options.out))
            return
        start, end, name = prof.tables.window()
        rows = prof.tables.timeline(options.bins, (start, end))
        text = lambda: f"{name}\n{report.timeline(rows)}"  # noqa: E731
    else:
        rows = getattr(prof, view)()
        text = lambda: getattr(report, view)(rows)  # noqa: E731
    _show(options.json, {"schema": SCHEMA, "view": view, "rows": rows}, text)


def _show(as_json: bool, value: Any, text: Callable[[], str]) -> None:
    if as_json:
        _print_json(value)
    else:
        print(text())


def parse_share(text: str | float) -> float:
    """"10%" → 0.1, 0.1 → 0.1

    Raises: ValueError when it is neither, or below 0.
    """
    try:
        value = float(text[:-1]) / 100 if isinstance(text, str) and text.endswith("%") else float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise ValueError(f"'{text}' is no share; a number from 0 on or a text such as '10%' is needed")
    return value


def broken_limits(
    tables: Comparison,
    peak: int | None = None,
    activation: int | None = None,
    recompute: float | None = None,
    uncounted: int = 0,
) -> list[str]:
    """What a capture exceeds, in words; `uncounted` bytes of the peak do not count."""
    messages = []
    highest = tables.peak_bytes - uncounted
    if peak is not None and highest > peak:
        rest = f" ({report.size(uncounted)} alive before are not counted)" if uncounted else ""
        over = report.size(highest - peak)
        messages.append(f"peak {report.size(highest)} exceeds the limit of {report.size(peak)} by {over}{rest}")
    kept = tables.summary()["saved_bytes"]
    if activation is not None and kept > activation:
        over = report.size(kept - activation)
        messages.append(f"activations of {report.size(kept)} exceed the limit of {report.size(activation)} by {over}")
    share = tables.work()["recompute_share"]
    if recompute is not None and share > recompute:
        messages.append(f"recomputation of {100 * share:.1f} % exceeds the limit of {100 * recompute:.1f} %")
    return messages


def _check(prof: Profile, options: argparse.Namespace) -> int:
    peak = parse_bytes(options.max_peak) if options.max_peak else None
    activation = parse_bytes(options.max_activation) if options.max_activation else None
    recompute = parse_share(options.max_recompute) if options.max_recompute else None
    broken = broken_limits(prof.tables, peak, activation, recompute)
    summary = prof.summary()
    picked = {name: summary[name] for name in ("peak_bytes", "saved_bytes", "recompute_share")}
    result = {"schema": SCHEMA, "view": "check", "ok": not broken, "broken": broken, **picked}
    if options.json:
        _print_json(result)
    elif broken:
        print("\n".join([*broken, "", "the peak, by module", report.groups(prof.peak("module"), 12)]))
    else:
        print(f"ok: peak {report.size(picked['peak_bytes'])}, kept for backward {report.size(picked['saved_bytes'])}, "
              f"recomputation {100 * picked['recompute_share']:.1f} %")
    return 1 if broken else 0


_HELP = {
    "summary": "The run on one screen.",
    "peak": "Every block alive at the peak: what, whose, why alive, bytes, and the cost of making it again.",
    "layers": "One row a module: bytes, seconds, FLOPs.",
    "saved": "What the graph keeps for the sweep, when that is most.",
    "timeline": "Live bytes over time.",
    "replays": "Values brought back by running their op again.",
    "steps": "One row a step.",
    "explain": "The allocation that was refused, and all that was alive then.",
    "diff": "Two runs side by side.",
    "check": "Exit with 1 when the run exceeds a limit.",
    "export": f"Write the capture as {', '.join(export.FORMATS)}.",
}
