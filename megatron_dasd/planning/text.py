"""The plan in text, at most 80 columns wide: tables, and a picture of the time line."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from textwrap import wrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from megatron_dasd.planning.report import MemoryFigures, PlanFigures, StageFigures

WIDTH = 80
_NAME = 18
"""Columns of a stage's name; a longer one has a line of its own."""
_BAR = 30


def plan_text(figures: "PlanFigures") -> Iterator[str]:
    """Yield the lines of a plan."""
    given = figures["assumptions"]
    gpu = f"{given['gpu']} of {given['gpu_memory_gb']:g} GB"
    yield f"{figures['name']}: {gpu}, MFU {given['mfu']:g}"
    yield ""
    yield from _stages(figures)
    yield ""
    yield from _time_line(figures)
    if figures["memory"]:
        yield ""
        yield from _memory(figures)
        yield ""
        yield from _growth(figures)


def _wrapped(text: str, indent: str = "  ") -> list[str]:
    return wrap(
        text, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _named(stage: str, rest: str, width: int = _NAME) -> Iterator[str]:
    """A line that begins with a stage's name; two lines, where the name is longer than others."""
    if len(stage) > width:
        yield stage
        stage = ""
    yield f"{stage:{width}}{rest}".rstrip()


def _stages(figures: "PlanFigures") -> Iterator[str]:
    yield from _named(
        "stage",
        f"{'GPUs':>6}{'cores':>7}{'tokens':>10}{'per s':>9}{'hours':>8}{'GPU h':>8}{'disk GB':>9}",
    )
    for row in figures["stages"]:
        yield from _named(row["stage"], _figures(row))
    total = f"{figures['gpu_hours']:,.0f}"
    yield from _named("total", f"{'':40}{total:>8}{figures['disk_gb']:>9,.0f}")
    if figures["price"]:
        yield f"{figures['price']:,.0f} at the stated price"


def _figures(row: "StageFigures") -> str:
    tokens = f"{row['tokens'] / 1e6:,.0f} M" if row["tokens"] else "-"
    per_second = row["tokens_per_second"]
    rate = f"{per_second / 1e6:,.0f} M" if per_second >= 1e7 else f"{per_second / 1e3:,.0f} K"
    rate = rate if per_second else "-"
    hours = "-"
    if row["hours"]:
        hours = f"{row['hours']:,.1f}" if row["hours"] >= 0.1 else f"{row['hours']:.3f}"
    gpu_hours = f"{row['gpu_hours']:,.0f}" if row["gpus"] else "-"
    disk = f"{row['disk_gb']:,.0f}" if row["disk_gb"] >= 0.5 else "-"
    return (
        f"{row['gpus'] or '-':>6}{row['cores'] or '-':>7}{tokens:>10}{rate:>9}{hours:>8}"
        f"{gpu_hours:>8}{disk:>9}"
    )


def _time_line(figures: "PlanFigures") -> Iterator[str]:
    whole = figures["hours"]
    yield f"Time line: {whole:,.1f} hours from first to last; * a stage that the whole waits for"
    yield from _named("  stage", f"{'start':>8}{'end':>8}{'slack':>8}", 2 + _NAME)
    for step in figures["time_line"]:
        mark = "* " if step["critical"] else "  "
        first, after = (round(_BAR * hours / whole) for hours in (step["start"], step["end"]))
        first = min(first, _BAR - 1)
        bar = " " * first + ("#" if step["critical"] else "-") * max(1, after - first)
        slack = "" if step["critical"] else f"{step['slack']:,.1f}"
        ends = f"{step['start']:>8,.1f}{step['end']:>8,.1f}{slack:>8}"
        yield from _named(mark + step["stage"], f"{ends}  |{bar:{_BAR}}|", 2 + _NAME)
    yield from _wrapped(f"At most {figures['most_gpus']:,} GPUs are at work at a time.")
    if figures["side_by_side"]:
        groups = "; ".join(" and ".join(group) for group in figures["side_by_side"])
        yield from _wrapped(f"Side by side: {groups}.")
    for stream in figures["streams"]:
        yield from _wrapped(
            f"Part by part: {', '.join(stream['stages'])} take {stream['hours']:,.1f} hours one "
            f"after the other; each could begin on the parts that the one before has finished, "
            f"and with GPUs for all of them they would take {stream['hours_as_stream']:,.1f} at "
            "least."
        )


def _memory(figures: "PlanFigures") -> Iterator[str]:
    yield "Memory of the fullest rank, GB"
    rows = sorted(figures["memory"].items(), key=lambda item: str(item[1]))
    for _, group in groupby(rows, key=lambda item: item[1]):
        same = list(group)
        row = same[0][1]
        names = ", ".join(name for name, _ in same)
        fits = "" if row["fits"] else ", DOES NOT FIT"
        yield from _wrapped(f"{names}: {row['layout']}, {row['gb']['total']:.1f}{fits}")
        parts = [f"{part} {gb:.1f}" for part, gb in row["gb"].items() if part != "total"]
        yield from _wrapped(f"  {', '.join(parts)}", "    ")
        yield from _host(row)
        yield from _others(row)


def _host(row: "MemoryFigures") -> Iterator[str]:
    host = row["host_gb"]
    text = (
        f"  host of a node: {host['interim']:.0f} GB to save on the way, {host['last']:.0f} GB "
        "for the last save and to gather a checkpoint"
    )
    yield from _wrapped(text, "    ")


def _others(row: "MemoryFigures") -> Iterator[str]:
    plainest = "; ".join(f"{other['layout']} {other['gb']:.0f}" for other in row["plainest"])
    text = f"  {row['num_fitting']} layouts of as many GPUs fit"
    yield from _wrapped(f"{text}, the plainest first: {plainest}" if plainest else text, "    ")


def _growth(figures: "PlanFigures") -> Iterator[str]:
    yield "Hours by GPUs: with all exchange behind computing, to none"
    stages = list(figures["growth"])
    gpus = list(figures["growth"][stages[0]])
    for some in _in_rows(stages):
        yield f"{'GPUs':>6}" + "".join(f"{stage:>18}" for stage in some)
        for number in gpus:
            cells = (figures["growth"][stage][number] for stage in some)
            texts = (
                f"{both[0]:,.1f} to {both[1]:,.1f}" if both else "does not fit" for both in cells
            )
            yield f"{number:>6,}" + "".join(f"{text:>18}" for text in texts)


def _in_rows(stages: Sequence[str], most: int = 4) -> Iterator[Sequence[str]]:
    for first in range(0, len(stages), most):
        yield stages[first : first + most]
