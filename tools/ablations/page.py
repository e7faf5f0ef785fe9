"""The page of the ablation, made from kept results alone."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NotRequired, TypedDict

import matplotlib
from matplotlib.figure import Figure
from pydantic import TypeAdapter

from ablations.arms import ArmResult, read_result
from megatron_dasd.artifacts import write_atomic
from megatron_dasd.config.yaml_files import parse_yaml
from megatron_dasd.errors import UserError
from megatron_dasd.evaluation.contrasts import (
    ContrastFigures,
    accuracy_table,
    contrast,
    holm,
)
from megatron_dasd.evaluation.statistics import IntervalFigures, mean_interval
from megatron_dasd.pages.charts import ACCENT, FAINT, STYLE, svg

_PICTURE = "ablation.svg"
_NONE = "n/a"


class Wanted(TypedDict):
    """A comparison, decided beforehand."""

    group: str
    arm: str
    control: str
    report: str
    """What the report measured for the nearest comparison of its own."""
    primary: NotRequired[bool]


class Compared(TypedDict):
    """A comparison, made."""

    wanted: Wanted
    figures: ContrastFigures
    corrected: float | None
    """The p-value, by Holm's method over those that are not primary; of primary ones their own."""


def write_page(example: Path, results: Path, docs: Path) -> Path:
    """Write ``ablation.md`` and its picture.

    Raises:
        UserError: there is no result yet.
    """
    wanted = TypeAdapter(list[Wanted]).validate_python(
        parse_yaml((example / "contrasts.yaml").read_text())
    )
    arms = list(dict.fromkeys(arm for one in wanted for arm in (one["control"], one["arm"])))
    kept = {arm: found for arm in arms if (found := read_result(results, arm))}
    if not kept:
        raise UserError(f"{results}: no result is kept yet; run tools/ablation.py run")
    compared = compare(wanted, kept)
    plan = json.loads((results / "plan.json").read_bytes())
    (docs / "pictures").mkdir(parents=True, exist_ok=True)
    write_atomic(docs / "pictures" / _PICTURE, chart(compared).encode())
    page = docs / "ablation.md"
    write_atomic(page, text(kept, compared, plan).encode())
    return page


def compare(wanted: Sequence[Wanted], kept: Mapping[str, ArmResult]) -> list[Compared]:
    """Make every comparison whose two arms share a seed."""
    found: list[Compared] = []
    for one in wanted:
        if one["arm"] not in kept or one["control"] not in kept:
            continue
        arm, control = kept[one["arm"]]["seeds"], kept[one["control"]]["seeds"]
        shared = sorted(arm.keys() & control.keys(), key=int)
        if shared:
            tables = [
                accuracy_table(
                    [side[seed]["right"] for seed in shared], side[shared[0]]["num_samples"]
                )
                for side in (arm, control)
            ]
            found.append({"wanted": one, "figures": contrast(*tables), "corrected": None})
    names = {str(number): one for number, one in enumerate(found)}
    others = {
        name: p
        for name, one in names.items()
        if not one["wanted"].get("primary") and (p := one["figures"]["p"]) is not None
    }
    for name, made in names.items():
        made["corrected"] = holm(others)[name] if name in others else made["figures"]["p"]
    return found


def text(
    kept: Mapping[str, ArmResult], compared: Sequence[Compared], plan: Mapping[str, float]
) -> str:
    """The page."""
    commits = sorted({seed["commit"] for arm in kept.values() for seed in arm["seeds"].values()})
    lines = [
        "# What each part of the method does, in miniature",
        "",
        "Sums of three-digit numbers, a teacher of 0.86 M parameters, a student of 0.37 M that has",
        "seen sums without a carry alone (`examples/ablation`). All arms take their data from one",
        "pool of eight responses a prompt, temperature and seed, and train as many steps of packed",
        f"rows. Made by `make ablation`; commits {', '.join(commits)}.",
        "",
        f"Planned: {plan['num_seeds']} seeds, {plan['num_problems']} problems, "
        f"{plan['num_samples']} answers each. Computed beforehand from an assumed accuracy of "
        f"{plan['assumed_accuracy']:.0%} and an assumed standard deviation of "
        f"{100 * plan['assumed_between_seeds']:.0f} points between seeds: a true difference of "
        f"{100 * plan['smallest_effect']:.1f} points is seen with a probability of 80 %.",
        "",
        "## Arms",
        "",
        "| arm | seeds | % right | 95 % over seeds | in form | held-out nats / token | "
        "exposure bias, before → after |",
        "|---|---|---|---|---|---|---|",
        *(_arm_line(arm) for arm in kept.values()),
        "",
        "## Differences",
        "",
        "Paired by seed and problem, in points; the variance has seeds and problems as clusters.",
        "One comparison a group is primary, the p-values of the others are Holm's.",
        "",
        f"![Differences with their 95 % intervals](pictures/{_PICTURE})",
        "",
        "| group | comparison | difference | 95 % | p | seeds | the report's |",
        "|---|---|---|---|---|---|---|",
        *(_contrast_line(one) for one in compared),
        "",
    ]
    return "\n".join(lines)


def _arm_line(arm: ArmResult) -> str:
    seeds = list(arm["seeds"].values())
    shares = [sum(one["right"]) / len(one["right"]) / one["num_samples"] for one in seeds]
    found = mean_interval(shares)
    form = sum(one["answered"] for one in seeds) / len(seeds)
    nll = sum(one["heldout_nll"] for one in seeds) / len(seeds)
    exposure = _NONE
    if all(one["exposure"] for one in seeds):
        means = [
            sum(one["exposure"][name] for one in seeds) / len(seeds) for name in ("before", "after")
        ]
        exposure = f"{means[0]:+.3f} → {means[1]:+.3f}"
    return (
        f"| {arm['arm']} | {len(seeds)} | {100 * found['mean']:.1f} | {_bounds(found)} | "
        f"{100 * form:.0f} % | {nll:.4f} | {exposure} |"
    )


def _contrast_line(one: Compared) -> str:
    wanted, figures = one["wanted"], one["figures"]
    p = _NONE if one["corrected"] is None else f"{one['corrected']:.3f}"
    primary = " (primary)" if wanted.get("primary") else ""
    return (
        f"| {wanted['group']}{primary} | {wanted['arm']} less {wanted['control']} | "
        f"{100 * figures['difference']['mean']:+.1f} | {_bounds(figures['difference'])} | {p} | "
        f"{figures['num_seeds']} | {wanted['report']} |"
    )


def _bounds(found: IntervalFigures) -> str:
    low, high = found["low"], found["high"]
    return _NONE if low is None or high is None else f"{100 * low:.1f} to {100 * high:.1f}"


@matplotlib.rc_context(STYLE)
def chart(compared: Sequence[Compared]) -> str:
    """Differences with their intervals, the primary ones in colour."""
    figure = Figure(figsize=(6.4, 0.8 + 0.34 * len(compared)), layout="constrained")
    axes = figure.subplots()
    for place, one in enumerate(reversed(compared)):
        found = one["figures"]["difference"]
        half = 0.0 if found["low"] is None else 100 * (found["mean"] - found["low"])
        colour = ACCENT if one["wanted"].get("primary") else "#66727f"
        axes.errorbar([100 * found["mean"]], [place], xerr=[half], fmt="o", color=colour, capsize=4)
    names = [f"{one['wanted']['arm']} less {one['wanted']['control']}" for one in compared]
    axes.set_yticks(range(len(names)), names[::-1])
    axes.axvline(0, color=FAINT)
    axes.set_xlabel("difference of accuracy, points")
    return str(svg(figure))
