"""Tables as text for a terminal. The only module that formats numbers for people; the HTML report has its own in script."""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from ..memory import format_bytes as size

Row = dict[str, Any]
_BAR = 30


def seconds(value: float | None) -> str:
    """0.0123 → 12.3 ms"""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    for unit, scale in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if value * scale >= 1 or unit == "µs":
            return f"{value * scale:.3g} {unit}" if value * scale < 1000 else f"{value * scale:.0f} {unit}"
    return ""


def flops(value: float) -> str:
    """1.2e9 → 1.2 GFLOP"""
    step = min(int(math.log10(value) // 3), 5) if value >= 1 else 0
    return f"{value / 1000**step:.3g} {' kMGTP'[step].strip()}FLOP"


def width() -> int | None:
    """Columns of the terminal, or what COLUMNS says; None where text goes to a file or a pipe and may be as wide as it is."""
    if not (sys.stdout.isatty() or os.environ.get("COLUMNS")):
        return None
    return shutil.get_terminal_size().columns


def table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1, less: Sequence[str] = ()) -> str:
    """Columns under their heads; the last `left` columns stand left, the others right.

    In a terminal too narrow for them, the columns of the heads in `less` are left out, the first one first, and then what
    stands left is cut short.
    """
    columns = [[name, *(row[i] for row in rows)] for i, name in enumerate(head)]
    aside = [i >= len(head) - left for i in range(len(head))]
    most = width() or sys.maxsize

    def wide() -> int:
        return sum(max(map(len, c)) + 2 for c in columns) - 2

    for name in less:
        if wide() > most and name in head:
            at = next(i for i, column in enumerate(columns) if column[0] == name)
            del columns[at], aside[at]
    while wide() > most:
        widest = max((i for i, text in enumerate(aside) if text), key=lambda i: max(map(len, columns[i])), default=None)
        if widest is None or (longest := max(map(len, columns[widest]))) <= 8:
            break
        cut = max(longest - max(wide() - most, 1), 8)
        columns[widest] = [c if len(c) <= cut else f"{c[: cut - 1]}…" for c in columns[widest]]
    widths = [max(map(len, column)) for column in columns]
    lines = []
    cells = [list(row) for row in zip(*columns, strict=True)]
    for row in [cells[0], ["─" * w for w in widths], *cells[1:]]:
        shown = [c.ljust(w) if a else c.rjust(w) for c, w, a in zip(row, widths, aside, strict=True)]
        lines.append("  ".join(shown).rstrip())
    return "\n".join(lines)


def _bars(by_category: dict[str, int], total: int) -> list[str]:
    lines = []
    for name, amount in sorted(by_category.items(), key=lambda item: -item[1]):
        if amount:
            # In a damaged capture a part may be larger than the whole.
            bar = "█" * min(max(round(_BAR * amount / max(total, 1)), 1), _BAR)
            lines.append(f"  {name:11} {size(amount):>10} {100 * amount / max(total, 1):5.1f} %  {bar}")
    return lines


def summary(s: Row) -> str:
    """The run on one screen."""
    where = s["peak_where"]
    lines = [f"peak {size(s['peak_bytes'])} ({s['peak_bytes']:,} bytes){_on(s)}"]
    others = {name: peak for name, peak in s["device_peaks"].items() if name != s["device"]}
    if others:
        lines.append("  " + ", ".join(f"{name} {size(peak)}" for name, peak in others.items()) + " besides (--device)")
    if where:
        place = " ".join(filter(None, [where["op"], where["module"] and f"in {where['module']}", where["line"] and f"at {where['line']}"]))
        lines.append(f"  in step {where['step']}{_phase(where)}: {place or 'outside any op'}")
    if s["limit_bytes"]:
        lines.append(f"  limit {size(s['limit_bytes'])}, {100 * s['peak_bytes'] / s['limit_bytes']:.1f} % of it used")
    lines += _bars(s["peak_by_category"], sum(s["peak_by_category"].values()))
    if s["peak_bytes"] > sum(s["peak_by_category"].values()):
        lines.append("  a later step, after the last event kept, rose higher than what is taken apart here")
    lines += ["", f"kept for backward, at most {size(s['saved_bytes'])}; alive at the end {size(s['end_bytes'])}; unknown {size(s['unknown_bytes'])}"]
    lines += _times(s)
    if not s["events"] or not (s["steps"] or s["peak_bytes"]):
        lines.append("nothing was allocated: the run used no tensors while it was captured")
    if s["modules"]:
        lines += ["", "at the peak, by module"]
        lines += [f"  {size(r['bytes']):>10}  {r['module'] or '(no module)'}" for r in s["modules"]]
    if s["budgets"]:
        lines += ["", f"budgets for a step like the one taken down, of {size(s['budgets'][0]['of_bytes'])}"]
        lines += [f"  {size(r['budget_bytes']):>10}  {_more(r['overhead'])} time{_measured(r)}" for r in s["budgets"]]
    if (refused := s["out_of_memory"]) is not None:
        lines += ["", out_of_memory_line(refused)]
    if not s["whole"]:
        lines += ["", "the capture is cut short: the script was killed, or its last events were not written"]
    if "error" in s["facts"]:
        lines += ["", f"the run ended with {s['facts']['error'].splitlines()[0]}"]
    return "\n".join(lines)


def _on(row: Row) -> str:
    return "" if row["device"] == "cpu" else f" on {row['device']}"


def _times(s: Row) -> list[str]:
    step = s["step"] or s
    parts = [f"{name} {seconds(step[f'{name}_seconds'])}" for name in ("forward", "backward", "replay", "optimizer")]
    if s["step"] is None:
        lines = ["no step of an optimizer; in total"]
    else:
        lines = [f"{s['steps']} step{'s' * (s['steps'] != 1)}, the usual one {seconds(step['seconds'])}"]
    lines.append(f"  {', '.join(parts)}")
    if s["times_of"] != "cpu":
        lines.append(f"  by the clock of {s['times_of']}; copies are not timed")
    elif s["device"] != "cpu":
        lines.append(f"  by the CPU's clock, of recording: {s['device']} told no times")
    if s["replay_seconds"]:
        lines.append(f"  recomputation adds {100 * s['recompute_share']:.1f} % to the work")
    if s["trial_steps"]:
        lines.append(f"  {s['trial_steps']} more steps were used for measuring budgets, and are not counted here")
    return lines


def _more(share: float | None) -> str:
    """0.041 → +4.1 %"""
    return "–" if share is None else f"{'+' if share >= 0 else '−'}{abs(100 * share):.1f} %"


def _measured(row: Row) -> str:
    return "" if row["measured_overhead"] is None else f" planned, {_more(row['measured_overhead'])} measured"


def out_of_memory_line(refused: Row) -> str:
    """One sentence about a refused allocation."""
    cap = f" under a limit of {size(refused['limit_bytes'])}" if refused["limit_bytes"] else ""
    place = " ".join(filter(None, [refused["module"] and f"in {refused['module']}", refused["line"] and f"at {refused['line']}"]))
    return (
        f"out of memory in step {refused['step']}{_phase(refused)}: {refused['op'] or 'an allocation'} {place} asked for "
        f"{size(refused['asked_bytes'])} with {size(refused['live_bytes'])} live{cap}"
    ).replace("  ", " ")


def _phase(moment: Row) -> str:
    return "" if moment["phase"] == "none" else f", {moment['phase']}"


def blocks(rows: list[Row], most: int = 30) -> str:
    """Rows of peak() or saved(), block by block: a line each, or two where a terminal is narrow."""
    columns = width()
    if columns is not None and columns < 110:
        lines = "\n".join(_in_two_lines(r) for r in rows[:most]).splitlines()
        return "\n".join(c if len(c) <= columns else f"{c[: columns - 1]}…" for c in lines) + _rest(rows, most)
    cells = []
    for r in rows[:most]:
        away = "–" if r.get("ops_away") is None else str(r["ops_away"])
        again = "–" if r["recompute_seconds"] is None else seconds(r["recompute_seconds"])
        what = f"{r['category']} of {r['op'] or '-'}"
        cells.append([size(r["bytes"]), again, away, what, r["module"] or "–", r["line"] or "–", r["why"]])
    return table(["bytes", "make again", "ops away", "what", "module", "line", "why alive"], cells, left=4) + _rest(rows, most)


def _in_two_lines(r: Row) -> str:
    place = "".join([f" in {r['module']}" * bool(r["module"]), f" at {r['line']}" * bool(r["line"])])
    away = f", {r['ops_away']} ops away" if r.get("ops_away") is not None else ""
    again = f"; {seconds(r['recompute_seconds'])} to make again" if r["recompute_seconds"] is not None else ""
    return f"{size(r['bytes']):>10}  {r['category']} of {r['op'] or '-'}{place}\n            {r['why']}{away}{again}"


def groups(rows: list[Row], most: int = 30) -> str:
    """Rows summed by a column."""
    by = next(iter(rows[0])) if rows else "group"
    total = sum(r["bytes"] for r in rows)
    cells = [
        [
            size(r["bytes"]),
            f"{100 * r['bytes'] / max(total, 1):.1f} %",
            str(r["blocks"]),
            seconds(r["recompute_seconds"] or None),
            r[by] or "–",
        ]
        for r in rows[:most]
    ]
    return table(["bytes", "share", "blocks", "make again", by], cells, less=("blocks",)) + _rest(rows, most)


def _rest(rows: list[Row], most: int) -> str:
    rest = rows[most:]
    left = f"\n… and {len(rest)} more, {size(sum(r['bytes'] for r in rest))}" if rest else ""
    return f"{left}\ntotal {size(sum(r['bytes'] for r in rows))}"


def layers(rows: list[Row]) -> str:
    """One line a module."""
    cells = [
        [
            size(r["parameter_bytes"]),
            size(r["gradient_bytes"]),
            size(r["optimizer_bytes"]),
            size(r["saved_bytes"]),
            size(r["saved_inclusive_bytes"]),
            seconds(r["forward_seconds"]),
            seconds(r["backward_seconds"]),
            seconds(r["replay_seconds"]),
            flops(r["forward_flops"]),
            r["module"] or "(no module)",
        ]
        for r in rows
    ]
    head = ["params", "grads", "optimizer", "kept", "kept incl.", "forward", "backward", "replay", "FLOPs", "module"]
    return table(head, cells, less=("FLOPs", "optimizer", "grads", "replay", "kept"))


def timeline(rows: list[Row]) -> str:
    """Live bytes over time, a line a moment."""
    if not rows:
        return "nothing was captured"
    most = max(r["live"] for r in rows)
    bar = min((width() or 100) - 36, 60)
    cells = [
        [seconds(r["seconds"]), size(r["live"]), r["phase"], "█" * min(round(bar * r["live"] / max(most, 1)), bar)] for r in rows
    ]
    return table(["time", "live", "phase", ""], cells, left=2)


def replays(rows: list[Row]) -> str:
    """Values brought back by running their op again."""
    if not rows:
        return "nothing was computed twice in this run"
    cells = [
        [seconds(r["seconds"]), str(r["count"]), flops(r["flops"]), r["op"], r["module"] or "–", r["line"] or "–"] for r in rows
    ]
    return table(["time", "times", "FLOPs", "op", "module", "line"], cells, left=3)


def steps(rows: list[Row]) -> str:
    """One line a step; those on trial, that the profiler set budgets, are marked."""
    if not rows:
        return "no step ended in this run: a step ends with an optimizer's step()"
    clocks = ("forward_seconds", "backward_seconds", "replay_seconds", "optimizer_seconds")
    cells = [
        [str(r["step"]), size(r["peak_bytes"]), *(seconds(r[name]) for name in clocks), "on trial" if r["trial"] else ""]
        for r in rows
    ]
    return table(["step", "peak", "forward", "backward", "replay", "optimizer", ""], cells)


def explain(refused: Row | None, most: int = 30) -> str:
    """What was wanted, what was alive and why, and what can be done."""
    if refused is None:
        return "no allocation was refused in this capture"
    lines = [out_of_memory_line(refused), "", "alive then", blocks(refused["rows"], most), "", "ways out"]
    lines += [f"  {way}" for way in refused["ways_out"]]
    lines += [f"    {size(r['budget_bytes']):>10}  {_more(r['overhead'])} time" for r in refused["budgets"]]
    return "\n".join(lines)


def pareto(t: Row | None) -> str:
    """One line a budget: what it would cost, and did."""
    if t is None:
        return "this capture knows no step for the planner; take it with --pareto, or profile(pareto=True)"
    head = ["budget", "peak", "planned", "measured", "√n", "DTR", "peak measured", ""]
    cells = []
    for i, r in enumerate(t["rows"]):
        gone = r["measured_peak_bytes"]
        # To the byte, where it is not what was foretold.
        found = "–" if gone is None else "as planned" if gone == r["planned_peak_bytes"] else f"{gone - (r['planned_peak_bytes'] or 0):+} B"
        note = "keep all" if r["keep_all"] is not None else "knee" if i == t["knee"] else "least" if i == len(t["rows"]) - 1 else ""
        costs = [_more(r[name]) for name in ("overhead", "measured_overhead", "every_sqrt", "dtr")]
        cells.append([size(r["budget_bytes"]), size(r["peak_bytes"]), *costs, found, note])
    bound = f"without a budget the run rises to {size(t['run_peak_bytes'])}: what costs next to nothing to make again is not kept\n"
    bound += f"no plan can go below {size(t['bound_bytes'])}; alive before the step {size(t['step_base_bytes'])}"
    step = "" if t["step_seconds"] is None else f" of {seconds(t['step_seconds'])}"
    return f"time added to a step{step}, by budget\n{table(head, cells, less=('peak', 'peak measured'))}\n{bound}"


def forecast(f: Row) -> str:
    """What a script will need."""
    lines = [f"peak {size(f['peak_bytes'])} ({f['peak_bytes']:,} bytes){_on(f)}, forecast from shapes over {f['steps']} step{'s' * (f['steps'] != 1)}"]
    lines += _bars(f["peak_by_category"], f["peak_bytes"])
    if f["unknown_numbers"]:
        lines.append(f"it read {f['unknown_numbers']} unknown numbers, as NaN; a branch on one may go another way")
    lines.append("the largest holders")
    for r in f["largest"]:
        place = "".join([f" in {r['module']}" * bool(r["module"]), f" at {r['line']}" * bool(r["line"])])
        lines.append(f"  {size(r['bytes']):>10}  {r['category']} of {r['op'] or '-'}{place}")
    if f["fits"] is not None:
        lines.append(f"{'fits' if f['fits'] else 'does not fit'} {size(f['fits_bytes'])}")
    if f["least_bytes"] is not None and not f["budgets"]:
        lines.append("no budget would lower that: nothing that is alive then could be dropped")
    if f["budgets"]:
        lines.append(f"budgets, from the least feasible one, {size(f['least_bytes'])}, up")
        lines += [f"  {size(r['budget_bytes']):>10}  {_more(r['overhead'])} time" for r in f["budgets"]]
    return "\n".join(lines)


def forecasts(name: str, rows: list[Row]) -> str:
    """One line a value of an option."""
    names = ("activation", "parameter", "optimizer", "gradient")
    cells = [
        [
            r["value"],
            size(r["peak_bytes"]),
            *(size(r["peak_by_category"][c]) for c in names),
            "–" if r["least_bytes"] is None else size(r["least_bytes"]),
            "" if r["fits"] is None else "fits" if r["fits"] else "does not fit",
        ]
        for r in rows
    ]
    head = [name, "peak", *(f"{c}s" if c != "optimizer" else c for c in names), "least budget", ""]
    return table(head, cells, less=("gradients", "parameters", "optimizer"))


def difference(d: Row, most: int = 30) -> str:
    """Two runs side by side."""
    a, b = d["before"], d["after"]
    change = b["peak_bytes"] - a["peak_bytes"]
    lines = [f"peak {size(a['peak_bytes'])} → {size(b['peak_bytes'])} ({_signed(change)})"]
    for name in a["peak_by_category"]:
        before, after = a["peak_by_category"][name], b["peak_by_category"][name]
        if before or after:
            lines.append(f"  {name:11} {size(before):>10} → {size(after):>10}  {_signed(after - before)}")
    cells = [
        [_signed(r["change_bytes"]), size(r["before_bytes"]), size(r["after_bytes"]), f"{r['category']} of {r['op'] or '-'}", r["module"] or "–"]
        for r in d["rows"][:most]
        if r["change_bytes"]
    ]
    if not cells:
        return "\n".join([*lines, "the same holders at both peaks"])
    return "\n".join([*lines, "", table(["change", "before", "after", "what", "module"], cells, left=2)])


def _signed(amount: int) -> str:
    return f"{'+' if amount > 0 else '−' if amount < 0 else '±'}{size(abs(amount))}"
