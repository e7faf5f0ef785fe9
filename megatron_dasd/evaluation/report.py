"""Stage report: the results of a run, as ``report.json`` and ``report.html``.

Most figures come from the manifests of the stages before it; the held-out negative log-likelihood
and the samples are read from the records.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypedDict, cast

from megatron_dasd.artifacts import StageFolder, write_atomic
from megatron_dasd.config.evaluation import Report
from megatron_dasd.evaluation import charts
from megatron_dasd.evaluation.accuracy import (
    TEACHER,
    AccuracyFigures,
    GainFigures,
    accuracies,
    gain_figures,
    right_marks,
)
from megatron_dasd.evaluation.exposure import ExposureFigures, exposure_figures
from megatron_dasd.evaluation.heldout import HeldoutFigures, heldout_figures
from megatron_dasd.evaluation.samples import mixed_policy_example, side_by_side
from megatron_dasd.json_values import require
from megatron_dasd.manifests import LOGS, METRICS, Manifest, model_folder, read_manifest
from megatron_dasd.pages.charts import class_chart, gap_chart
from megatron_dasd.pages.figures import ClassCounts, SelectionFigures
from megatron_dasd.pages.render import render as render_page
from megatron_dasd.printing import say
from megatron_dasd.records import Graded, ScoredResponse
from megatron_dasd.records_io import read_records


class RolloutFigures(TypedDict, total=False):
    """Figures of ``roll_out_student`` that the report draws; absent without rollouts."""

    mean_teacher_tokens: float
    mean_rollout_tokens: float
    cut_off: float
    """Share of the rollouts that their cap cut off."""
    by_length: list[dict[str, float]]
    """By ranges of the teacher's length: ``from``, ``to``, ``num_rollouts``, ``cut_off``,
    ``ratio``."""


class AnswerFigures(GainFigures):
    """Figures of graded answers."""

    accuracy: dict[str, AccuracyFigures]
    """By model: the teacher, then students as they were trained, then others."""
    accuracy_base: str | None
    """Model to which the differences are taken."""


class RunFigures(HeldoutFigures, AnswerFigures):
    """Content of ``report.json``; losses are in nats per token."""

    title: str
    exposure_bias: dict[str, ExposureFigures]
    sentence_classes: ClassCounts
    sentence_classes_by_temperature: dict[str, ClassCounts]
    sentence_classes_kept: ClassCounts
    count_differs_from_longest: float | None
    count_exceeds_longest: float | None
    kept_share: dict[str, object]
    """By filter stage."""
    overlap: dict[str, object]
    """Of evaluated benchmarks with the responses of each filter stage, none of which it keeps."""
    counts: dict[str, dict[str, int]]
    """By stage."""
    loss_curves: dict[str, dict[str, list[list[float]]]]
    """By training stage, see :func:`loss_curves`."""
    accuracy_curves: dict[str, dict[str, list[list[float]]]]
    """By training stage whose checkpoints were evaluated, and by benchmark, as (iteration, share
    of right answers)."""
    rollouts: RolloutFigures
    tokens_per_second: dict[str, float]
    """By stage that generates text."""
    conversion: Mapping[str, object]
    """Of ``verify_conversion``."""
    seconds: dict[str, float]
    """Wall time by stage."""
    seconds_total: float
    export_dir: str


def run(settings: Report, inputs: Mapping[str, Path], folder: StageFolder) -> dict[str, object]:
    """Write both files; returns the headline figures."""
    found = ((name, read_manifest(path)) for name, path in inputs.items())
    manifests = {name: manifest for name, manifest in found if manifest}
    figures = collect_figures(settings, inputs, manifests)
    folder.write_json("report.json", figures)
    write_atomic(folder.path / "report.html", render(settings, inputs, manifests, figures).encode())
    for line in [*accuracy_lines(figures), *heldout_lines(figures), *exposure_lines(figures)]:
        say(f"    {line}")
    return {
        "heldout_nll": figures["heldout_nll"],
        "heldout_nll_change": figures["heldout_nll_change"],
        "exposure_bias": figures["exposure_bias"],
        "accuracy": figures["accuracy"],
        "gain": figures["gain"],
    }


def collect_figures(
    settings: Report, inputs: Mapping[str, Path], manifests: Mapping[str, Manifest]
) -> RunFigures:
    """Collect the content of ``report.json``."""
    scores = {
        name: read_records(inputs[reference], ScoredResponse)
        for name, reference in settings.heldout_scores.items()
    }
    select = _selection(settings, manifests)
    seconds = {name: manifest.seconds for name, manifest in manifests.items()}
    return {
        "title": settings.title,
        **heldout_figures(scores),
        "exposure_bias": _exposure(settings, inputs),
        **_accuracy(settings, inputs),
        "sentence_classes": select["sentence_classes"],
        "sentence_classes_by_temperature": select["sentence_classes_by_temperature"],
        "sentence_classes_kept": select["sentence_classes_kept"],
        "count_differs_from_longest": select["count_differs_from_longest"],
        "count_exceeds_longest": select["count_exceeds_longest"],
        "kept_share": {
            name: manifests[name].figures.get("kept_share") for name in settings.filters
        },
        "overlap": {
            name: found
            for name in settings.filters
            if (found := manifests[name].figures.get("overlap"))
        },
        "counts": {
            name: manifest.counts for name, manifest in manifests.items() if manifest.counts
        },
        "loss_curves": {name: loss_curves(inputs[name]) for name in settings.train},
        "accuracy_curves": accuracy_curves(manifests, settings.train),
        "rollouts": cast(RolloutFigures, _figures(manifests, settings.rollouts)),
        "tokens_per_second": tokens_per_second(
            manifests, (settings.sample, settings.rollouts, settings.continuations)
        ),
        "conversion": _figures(manifests, settings.verify),
        "seconds": seconds,
        "seconds_total": round(sum(seconds.values()), 3),
        "export_dir": str(model_folder(inputs[settings.export])),
    }


def _accuracy(settings: Report, inputs: Mapping[str, Path]) -> AnswerFigures:
    if settings.evaluate is None:
        return {"accuracy": {}, "accuracy_base": None, "gain": None, "stage_gains": {}}
    graded = inputs[settings.evaluate]
    models = accuracies(read_records(graded, Graded))
    order = [TEACHER, *settings.heldout_scores, *models]
    marks = right_marks(read_records(graded, Graded))
    return {
        "accuracy": {name: models[name] for name in dict.fromkeys(order) if name in models},
        "accuracy_base": next(iter(models), None),
        **gain_figures(marks, list(settings.heldout_scores)),
    }


def _exposure(settings: Report, inputs: Mapping[str, Path]) -> dict[str, ExposureFigures]:
    def scored(references: Mapping[str, str]) -> dict[str, Iterator[ScoredResponse]]:
        return {
            name: read_records(inputs[references[name]], ScoredResponse)
            for name in settings.exposure_scores
        }

    return exposure_figures(scored(settings.exposure_scores), scored(settings.heldout_scores))


def accuracy_lines(figures: RunFigures) -> list[str]:
    """Write the accuracy as text, a line for each model."""
    lines = []
    for name, model in figures["accuracy"].items():
        estimate = model["accuracy"]
        error = "" if estimate["stderr"] is None else f" ± {100 * estimate['stderr']:.1f}"
        right = f"{100 * estimate['mean']:.1f}{error} % right"
        lines.append(f"accuracy {name}: {right}, {100 * model['answered']:.1f} % in form")
    return lines


def exposure_lines(figures: RunFigures) -> list[str]:
    """Write the exposure bias as text, a line for each student."""
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
    """Generated tokens per second of wall time, start-up included, by stage."""
    return {
        name: manifests[name].counts["generated tokens"] / max(manifests[name].seconds, 1e-3)
        for name in stages
        if name and manifests[name].counts.get("generated tokens")
    }


def accuracy_curves(
    manifests: Mapping[str, Manifest], stages: Iterable[str]
) -> dict[str, dict[str, list[list[float]]]]:
    """Collect the accuracies of the checkpoints of training stages."""
    curves: dict[str, dict[str, list[list[float]]]] = {}
    for stage in stages:
        found = manifests[stage].figures.get("evaluations")
        for iteration, accuracy in found.items() if isinstance(found, dict) else ():
            for name, share in accuracy.items():
                points = curves.setdefault(stage, {}).setdefault(name, [])
                points.append([int(iteration), share])
    return curves


def loss_curves(train_folder: Path) -> dict[str, list[list[float]]]:
    """Read ``train``, ``heldout`` and, if logged, ``continuation`` as ordered (iteration, loss).

    ``continuation`` is the loss of what the teacher wrote after the student's own prefixes; beside
    the loss of all tokens it shows the exposure bias during training.

    After a kill some iterations run again; the last line of each belongs to the final weights.
    """
    curves: dict[str, dict[int, float]] = {"train": {}, "heldout": {}}
    path = train_folder / LOGS / METRICS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # truncated by a kill
            continue
        for name, key in _CURVES.items():
            if key in row:
                curves.setdefault(name, {})[row["iteration"]] = row[key]
    return {name: [list(point) for point in sorted(c.items())] for name, c in curves.items()}


def heldout_lines(figures: RunFigures) -> list[str]:
    """Write the held-out negative log-likelihood as text, a line for each stage."""
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
    figures: RunFigures,
) -> str:
    """Render ``report.html``, a self-contained file."""
    select, chosen = _selection(settings, manifests), manifests[settings.select].settings
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
        selection=chosen,
        accuracy_chart=charts.accuracy_chart(figures["accuracy"]) if figures["accuracy"] else "",
        heldout_chart=charts.heldout_chart(figures["heldout_nll"], figures["heldout_nll_stderr"]),
        loss_chart=charts.loss_chart(figures["loss_curves"]) if settings.train else "",
        accuracy_curve_chart=(
            charts.accuracy_curve_chart(figures["accuracy_curves"])
            if figures["accuracy_curves"]
            else ""
        ),
        class_chart=class_chart(classes),
        gap_chart=gap_chart(select["gap_histogram"], require(chosen, "beta", float)),
        cut_off_chart=(
            charts.cut_off_chart(figures["rollouts"]["by_length"])
            if figures["rollouts"].get("by_length")
            else ""
        ),
        time_chart=charts.time_chart(figures["seconds"]),
        examples=select["examples"],
        samples=side_by_side(settings, inputs),
        mixed=mixed_policy_example([inputs[name] for name in settings.filters]),
    )


def _selection(settings: Report, manifests: Mapping[str, Manifest]) -> SelectionFigures:
    return cast(SelectionFigures, manifests[settings.select].figures)


def _figures(manifests: Mapping[str, Manifest], stage: str | None) -> Mapping[str, object]:
    return manifests[stage].figures if stage else {}
