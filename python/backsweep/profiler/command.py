"""`backsweep profile`: capture an unchanged script, forecast one, or look at a capture.

The first word decides: the name of a view, or a script. After a script, this command's own options are taken wherever they
stand; the rest goes to the script, and all that follows a bare `--` does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from ..memory import parse_bytes
from . import export, report
from .capture import SCHEMA
from .drawing import picture_format
from .foresee import foresee
from .groups import GROUPS, difference
from .limits import broken_limits, parse_share
from .record import MOST_EVENTS, Profile, profile
from .script import Script

_HELP = {
    "summary": "The run on one screen.",
    "peak": "Every block alive at the peak: what, whose, why alive, bytes, and the cost of making it again.",
    "layers": "One row a module: bytes, seconds, FLOPs.",
    "saved": "What the graph keeps for the sweep, when that is most.",
    "timeline": "Live bytes over time.",
    "replays": "Values brought back by running their op again.",
    "steps": "One row a step.",
    "pareto": "What each budget would cost, planned and measured, beside other methods.",
    "explain": "The allocation that was refused, all that was alive then, and ways out.",
    "diff": "Two runs side by side.",
    "check": "Exit with 1 when the run exceeds a limit.",
    "export": f"Write the capture as {', '.join(export.FORMATS)}.",
    "forecast": "Say what memory a script will need, before it runs.",
}
VIEWS = tuple(_HELP)


def main(arguments: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    if arguments and arguments[0] == "forecast":
        return _forecast(arguments[1:])
    if arguments and arguments[0] in VIEWS:
        return _view(arguments[0], arguments[1:])
    return _profile(arguments)


# Scripts

def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="backsweep profile",
        usage="backsweep profile [options] SCRIPT [arguments]\n"
        "       backsweep profile [options] -m MODULE [arguments]\n"
        "       backsweep profile VIEW CAPTURE [options]\n"
        "       backsweep profile forecast [options] SCRIPT [arguments]",
        description="Capture every block and op of an unchanged script, and say where its memory went.",
        epilog=f"views: {', '.join(VIEWS)}; each with --json and --help",
        allow_abbrev=False,
    )
    parser.add_argument("--out", metavar="FILE", help="the capture (default: the script's name with .capture)")
    parser.add_argument("--html", metavar="FILE", help="also write the report, one file that needs no network; with --pareto")
    parser.add_argument("--png", metavar="FILE", help="also draw the timeline")
    parser.add_argument(
        "--pareto",
        action=argparse.BooleanOptionalAction,
        help="take the third step down for the planner, and run the 25 after it under budgets, to the same bits",
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON; the script prints to stderr")
    parser.add_argument("--most-events", type=int, default=MOST_EVENTS, metavar="N", help="then only steps are noted")
    return parser


def _profile(arguments: Sequence[str]) -> int:
    parser = _parser()
    options, script = _script(parser, arguments)
    capture = Path(options.out or f"{script.stem}.capture").absolute()
    html, png = (Path(p).absolute() if p else None for p in (options.html, options.png))
    pareto = html is not None if options.pareto is None else options.pareto
    try:
        prof = profile(capture, pareto=pareto, most_events=options.most_events)
        with redirect_stdout(sys.stderr if options.json else sys.stdout):
            status = script.status(lambda: _captured(prof, script))
        summary = prof.summary()
    except OSError as error:
        print(f"backsweep profile: {error}", file=sys.stderr)
        return 2
    if options.json:
        _print_json({**summary, "capture": str(capture), "status": status})
    else:
        print(f"\n{report.summary(summary)}\n\ncapture: {os.path.relpath(capture)}")
    for path, format in ((html, "html"), (png, "png")):
        if path is not None:
            prof.export(path, format)
            print(f"{format}: {os.path.relpath(path)}", file=sys.stderr if options.json else sys.stdout)
    return status


def _captured(prof: profile, script: Script) -> None:
    with prof:
        prof.attach("command", [script.name, *script.arguments])
        script.run()


def _script(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> tuple[argparse.Namespace, Script]:
    """This command's options, and the script with its own arguments."""
    given = list(arguments)
    cut = given.index("--") if "--" in given else len(given)
    # What follows -m and a name is the module's, as Python has it.
    module = given.index("-m", 0, cut) if "-m" in given[:cut] else None
    if module is not None and any(not a.startswith("-") and a.endswith(".py") for a in given[:module]):
        module = None
    if module is not None:
        options, stray = parser.parse_known_args(given[:module])
        rest = [a for a in given[module + 1 :] if a != "--"]
        if stray:
            parser.error(f"{stray[0]} is no option of this command; -m and a module stand after its options")
    else:
        options, rest = parser.parse_known_args(given[:cut])
        rest += given[cut + 1 :]
    if not rest:
        parser.error("a script is needed, or one of the views" if module is None else "-m: the name of a module is needed")
    if rest[0].startswith("-"):
        parser.error(f"{rest[0]} is no option of this command; options of the script stand after its name")
    script = Script(rest[0], rest[1:], module=module is not None)
    if (wrong := script.missing()) is not None:
        parser.error(f"{wrong}; a file, -m and a module, or one of {', '.join(VIEWS)} is needed")
    return options, script


def _forecast(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="backsweep profile forecast",
        usage="backsweep profile forecast [options] SCRIPT [arguments]",
        description=f"{_HELP['forecast']} Its first two steps run on shapes alone: no kernel, and no data-sized memory. "
        "What the script does besides, such as reading and writing files, it does; what it prints goes to stderr.",
        allow_abbrev=False,
    )
    parser.add_argument("--fits", metavar="BYTES", help="exit with 1 when the peak is above this, and say what would fit")
    parser.add_argument("--budgets", action="store_true", help="say what budgets below the peak would cost")
    parser.add_argument("--vary", metavar="NAME=A,B,…", help="once for each value of an option of the script, such as --batch=8,16")
    parser.add_argument("--json", action="store_true", help=f"as JSON, schema {SCHEMA}")
    options, script = _script(parser, arguments)
    try:
        fits = parse_bytes(options.fits) if options.fits else None
        name, _, values = (options.vary or "").partition("=")
        if options.vary and not (name and values):
            raise ValueError(f"'{options.vary}' names no values; --vary=--batch=8,16,32 would be right")
    except ValueError as error:
        print(f"backsweep profile forecast: {error}", file=sys.stderr)
        return 2
    rows, status = [], 0
    for value in values.split(",") if values else [None]:
        extra = [] if value is None else [name, value]
        one = Script(script.name, [*script.arguments, *extra], module=script.module)

        def forecast(one: Script = one, value: str | None = value) -> None:
            row = foresee(one.run, budgets=options.budgets, fits=fits)
            rows.append(row if value is None else {**row, "value": value})

        with redirect_stdout(sys.stderr):
            status = one.status(forecast)
        if status:
            return status
    result = rows[0] if not values else {"schema": SCHEMA, "view": "forecast", "vary": name, "rows": rows}
    _show(options.json, result, lambda: report.forecast(rows[0]) if not values else report.forecasts(name, rows))
    return 1 if any(row["fits"] is False for row in rows) else 0


# Captures

def _view(view: str, arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog=f"backsweep profile {view}", description=_HELP[view], allow_abbrev=False)
    parser.add_argument("capture", metavar="CAPTURE", help="a file that 'backsweep profile SCRIPT' wrote")
    if view == "diff":
        parser.add_argument("other", metavar="CAPTURE", help="the later run")
    parser.add_argument("--json", action="store_true", help=f"as JSON, schema {SCHEMA}")
    parser.add_argument("--device", metavar="NAME", help="whose memory (default: where most bytes were asked for)")
    if view in ("peak", "saved"):
        parser.add_argument("--group-by", choices=GROUPS, help="sum the blocks by this column")
    if view in ("peak", "saved", "diff", "explain"):
        parser.add_argument("--rows", type=int, default=30, metavar="N", help="rows of text (default 30)")
    if view == "timeline":
        parser.add_argument("--bins", type=int, default=40, metavar="N", help="moments (default 40)")
    if view in ("timeline", "peak", "pareto"):
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
        prof = _read(options.capture, options.device)
        if view == "check":
            return _check(prof, options)
        if view == "diff":
            result = difference(prof.tables, _read(options.other, options.device).tables)
            _show(options.json, result, lambda: report.difference(result, options.rows))
        elif view == "export":
            print(prof.export(options.out, options.format))
        elif getattr(options, "out", None):
            print(prof.export(options.out, picture_format(view, options.out)))
        else:
            _show(options.json, *_result(view, prof, options))
    except OSError as error:
        print(f"backsweep profile {view}: '{error.filename}' cannot be used: {error.strerror}", file=sys.stderr)
        return 2
    except ValueError as error:
        print(f"backsweep profile {view}: {error}", file=sys.stderr)
        return 2
    return 0


def _read(path: str, device: str | None) -> Profile:
    prof = Profile.read(path)
    return prof if device is None else prof.on(device)


def _result(view: str, prof: Profile, options: argparse.Namespace) -> tuple[Any, Callable[[], str]]:
    """A view as data, and how it is put in words."""
    tables = prof.tables
    if view == "summary":
        summary = prof.summary()
        return summary, lambda: report.summary(summary)
    if view == "explain":
        refused = prof.explain()
        return {"schema": SCHEMA, "view": view, "refused": refused}, lambda: report.explain(refused, options.rows)
    if view == "pareto":
        found = None if tables.trade_off is None else tables.trade_off.to_dict()
        return {"schema": SCHEMA, "view": view, **(found or {"rows": []})}, lambda: report.pareto(found)
    if view in ("peak", "saved"):
        rows = getattr(prof, view)(options.group_by)
        show = report.groups if options.group_by else report.blocks
        text: Callable[[], str] = lambda: show(rows, options.rows)  # noqa: E731
    elif view == "timeline":
        start, end, name = tables.window()
        rows = tables.timeline(options.bins, (start, end))
        text = lambda: f"{name}\n{report.timeline(rows)}"  # noqa: E731
    else:
        rows = getattr(prof, view)()
        text = lambda: getattr(report, view)(rows)  # noqa: E731
    return {"schema": SCHEMA, "view": view, "rows": rows}, text


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


def _show(as_json: bool, value: Any, text: Callable[[], str]) -> None:
    if as_json:
        _print_json(value)
    else:
        print(text())


def _print_json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=1, default=str)
    print()
