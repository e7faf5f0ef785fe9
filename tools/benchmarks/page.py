"""``bench/index.html``: every figure beside its limit or peer, and what has changed."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure

from benchmarks.figures import Row
from benchmarks.history import Change
from megatron_dasd.artifacts import write_atomic
from megatron_dasd.pages.charts import ACCENT, SECOND, STYLE, svg
from megatron_dasd.pages.render import render


def write_page(
    path: Path,
    rows: Sequence[Row],
    found: Sequence[Change],
    histories: Mapping[str, list[float]],
    machine: str,
) -> None:
    """Write the page.

    Args:
        path: of the page.
        rows: the figures of this run.
        found: those that have changed.
        histories: values over the commits, by figure.
        machine: CPU model and cores.
    """
    drawn = {name: values for name, values in histories.items() if len(values) > 1}
    page = render(
        "pages",
        "bench.html.j2",
        rows=rows,
        changes=found,
        machine=machine,
        chart=bar_chart(rows),
        lines={name: history_chart(values) for name, values in drawn.items()},
    )
    write_atomic(path, page.encode())


@matplotlib.rc_context(STYLE)
def bar_chart(rows: Sequence[Row]) -> Markup:
    """Each ratio on a logarithmic scale; a bar that does not hold has another colour."""
    figure = Figure(figsize=(9.0, 0.8 + 0.26 * len(rows)), layout="constrained")
    axes = figure.subplots()
    names = [row["name"][:90] for row in rows][::-1]
    colours = [ACCENT if row["holds"] else SECOND for row in rows][::-1]
    values = [row["value"] for row in rows][::-1]
    axes.barh(range(len(rows)), values, color=colours, height=0.65)
    axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.set_xscale("log")
    axes.axvline(1, color="#27313b", linewidth=0.8)
    axes.set_xlabel("own over limit or peer")
    axes.grid(axis="y", visible=False)
    return svg(figure)


@matplotlib.rc_context(STYLE)
def history_chart(values: Sequence[float]) -> Markup:
    """One figure over the commits."""
    figure = Figure(figsize=(2.2, 0.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(len(values)), values, "o-", color=ACCENT, markersize=2.5, linewidth=1)
    axes.set_xticks([])
    axes.tick_params(labelsize=6)
    return svg(figure)
