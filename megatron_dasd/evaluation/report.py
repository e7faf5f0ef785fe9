"""Stage report: what a run gave, as ``report.json`` and ``report.html``.

Most figures stand in the manifests of the stages that it rests on; the held-out negative
log-likelihood and the samples are read from the records.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from megatron_dasd.artifacts import StageFolder, write_atomic
from megatron_dasd.config.evaluation import Report
from megatron_dasd.evaluation import charts
from megatron_dasd.evaluation.exposure import exposure_figures
from megatron_dasd.evaluation.heldout import heldout_figures
from megatron_dasd.evaluation.samples import mixed_policy_example, side_by_side
from megatron_dasd.json_values import require
from megatron_dasd.manifests import LOGS, METRICS, Manifest, model_folder, read_manifest
from megatron_dasd.pages.charts import class_chart, gap_chart
from megatron_dasd.pages.render import render as render_page
from megatron_dasd.records import ScoredResponse
from megatron_dasd.records_io import read_records


def run(settings: Report, inputs: Mapping[str, Path], folder: StageFolder) -> dict[str, Any]:
    """Write both files; the figures are the headline ones."""
    found = ((name, read_manifest(path)) for name, path in inputs.items())
    manifests = {name: manifest for name, manifest in found if manifest}
    figures = collect_figures(settings, inputs, manifests)
    folder.write_json("report.json", figures)
    write_atomic(folder.path / "report.html", render(settings, inputs, manifests, figures).encode())
    for line in [*heldout_lines(figures), *exposure_lines(figures)]:
        print(f"    {line}", flush=True)
    told = ("heldout_nll", "heldout_nll_change", "exposure_bias", "accuracy")
    return {name: figures[name] for name in told}


def collect_figures(
    settings: Report, inputs: Mapping[str, Path], manifests: Mapping[str, Manifest]
) -> dict[str, Any]:
    """The content of ``report.json``; seconds are of wall time, losses in nats per token."""
    scores = {
        name: read_records(inputs[reference], ScoredResponse)
        for name, reference in settings.heldout_scores.items()
    }
    select = manifests[settings.select].figures
    seconds = {name: manifest.seconds for name, manifest in manifests.items()}
    return {
        "title": settings.title,
        **heldout_figures(scores),
        "exposure_bias": _exposure(settings, inputs),
        "accuracy": _figures(manifests, settings.evaluate).get("models", {}),
        "sentence_classes": select["sentence_classes"],
        "sentence_classes_by_temperature": select["sentence_classes_by_temperature"],
        "sentence_classes_kept": select["sentence_classes_kept"],
        "count_differs_from_longest": select["count_differs_from_longest"],
        "count_exceeds_longest": select["count_exceeds_longest"],
        "kept_share": {
            name: manifests[name].figures.get("kept_share") for name in settings.filters
        },
        "counts": {
            name: manifest.counts for name, manifest in manifests.items() if manifest.counts
        },
        "loss_curves": {name: loss_curves(inputs[name]) for name in settings.train},
        "rollouts": _figures(manifests, settings.rollouts),
        "tokens_per_second": tokens_per_second(
            manifests, (settings.sample, settings.rollouts, settings.continuations)
        ),
        "conversion": _figures(manifests, settings.verify),
        "seconds": seconds,
        "seconds_total": round(sum(seconds.values()), 3),
        "export_dir": str(model_folder(inputs[settings.export])),
    }


def _exposure(settings: Report, inputs: Mapping[str, Path]) -> dict[str, Any]:
    def scored(references: Mapping[str, str]) -> dict[str, Iterator[ScoredResponse]]:
        return {
            name: read_records(inputs[references[name]], ScoredResponse)
            for name in settings.exposure_scores
        }

    return exposure_figures(scored(settings.exposure_scores), scored(settings.heldout_scores))


def exposure_lines(figures: Mapping[str, Any]) -> list[str]:
    """Exposure bias in words, a line for each student."""
    lines = []
    for name, bias in figures["exposure_bias"].items():
        spread = "" if bias["spread"] is None else f" ± {bias['spread']:.4f}"
        draws = f"{bias['num_draws']} draws, {bias['num_continuations']} continuations"
        lines.append(f"exposure bias {name}: {bias['mean']:+.4f}{spread} nats/token ({draws})")
    return lines


_CURVES = {"train": "loss", "heldout": "heldout_loss", "continuation": "continuation_loss"}


def tokens_per_second(
    manifests: Mapping[str, Manifest], stages: Iterable[str | None]
) -> dict[str, float]:
    """What models wrote in some stages, by stage: wall time, what precedes the first text too."""
    return {
        name: manifests[name].counts["generated tokens"] / max(manifests[name].seconds, 1e-3)
        for name in stages
        if name and manifests[name].counts.get("generated tokens")
    }


def loss_curves(train_folder: Path) -> dict[str, list[list[float]]]:
    """``train``, ``heldout`` and maybe ``continuation`` as (iteration, loss), in order.

    The loss of what the teacher wrote behind the student's own prefixes, beside that of all, tells
    of exposure bias as training goes on.

    After a kill some iterations are run again; what was written last is what the weights come from.
    """
    curves: dict[str, dict[int, float]] = {"train": {}, "heldout": {}}
    path = train_folder / LOGS / METRICS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for line in lines:
        try:
            row = json.loads(line)
        except json.JSONDecodeError:  # a line that a kill cut off
            continue
        for name, key in _CURVES.items():
            if key in row:
                curves.setdefault(name, {})[row["iteration"]] = row[key]
    return {name: [list(point) for point in sorted(c.items())] for name, c in curves.items()}


def heldout_lines(figures: Mapping[str, Any]) -> list[str]:
    """The held-out negative log-likelihood in words, a line for each stage."""
    lines = []
    for name, value in figures["heldout_nll"].items():
        line = f"held-out NLL {name}: {value:.4f} nats/token"
        if change := figures["heldout_nll_change"].get(name):
            line += f", {change['mean']:+.4f}"
            if change["stderr"] is not None:
                line += f" ± {change['stderr']:.4f}"
        lines.append(line)
    return lines


def render(
    settings: Report,
    inputs: Mapping[str, Path],
    manifests: Mapping[str, Manifest],
    figures: Mapping[str, Any],
) -> str:
    """The content of ``report.html``: one file that needs nothing else."""
    select = manifests[settings.select]
    classes = {
        "all candidates": figures["sentence_classes"],
        **{f"T = {t}": c for t, c in figures["sentence_classes_by_temperature"].items()},
        "selected": figures["sentence_classes_kept"],
    }
    return render_page(
        "evaluation",
        "report.html.j2",
        report=figures,
        stages=manifests,
        colours=figures["sentence_classes"],
        selection=select.settings,
        heldout_chart=charts.heldout_chart(figures["heldout_nll"], figures["heldout_nll_stderr"]),
        loss_chart=charts.loss_chart(figures["loss_curves"]) if settings.train else "",
        class_chart=class_chart(classes),
        gap_chart=gap_chart(
            cast("Mapping[str, Sequence[float]]", select.figures["gap_histogram"]),
            require(select.settings, "beta", float),
        ),
        cut_off_chart=(
            charts.cut_off_chart(figures["rollouts"]["by_length"])
            if figures["rollouts"].get("by_length")
            else ""
        ),
        time_chart=charts.time_chart(figures["seconds"]),
        examples=select.figures["examples"],
        samples=side_by_side(settings, inputs),
        mixed=mixed_policy_example([inputs[name] for name in settings.filters]),
    )


def _figures(manifests: Mapping[str, Manifest], stage: str | None) -> dict[str, Any]:
    return manifests[stage].figures if stage else {}
