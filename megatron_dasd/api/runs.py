"""Pipelines and stages started from Python, and their figures as Arrow tables."""

import json
from collections.abc import Collection, Mapping, Sequence
from os import PathLike
from pathlib import Path

import pyarrow as pa

from megatron_dasd.config.pipeline import load_pipeline
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import LOGS, METRICS, Manifest, read_manifest
from megatron_dasd.pipeline.alone import run_alone
from megatron_dasd.pipeline.runner import choose_stages, run_stages


def run(
    pipeline: str | PathLike[str],
    *,
    run_dir: str | PathLike[str] | None = None,
    overrides: Sequence[str] = (),
    only: Collection[str] = (),
) -> dict[str, Manifest]:
    """Run a pipeline: every stage that is not up to date, in order.

    Args:
        pipeline: the pipeline file.
        run_dir: in place of the file's own.
        overrides: ``stage.setting=value`` or ``recipe.field=value``, values in YAML.
        only: stages to run; empty: all.

    Returns:
        The manifest of each stage that was run or was up to date, by its name.

    Raises:
        UserError: the file is wrong, or a stage fails.
    """
    place = None if run_dir is None else Path(run_dir)
    loaded = load_pipeline(Path(pipeline), place, overrides)
    outcomes = run_stages(loaded, choose_stages(loaded, only=only))
    return {outcome.stage: outcome.manifest for outcome in outcomes}


def run_stage(kind: str, out: str | PathLike[str], settings: Mapping[str, object]) -> Manifest:
    """Run one stage on files and folders, without a pipeline file.

    What an earlier run with the same settings and inputs finished is kept.

    Args:
        kind: of the stage, e.g. ``preprocess_data``; ``dasd settings`` lists them.
        out: the stage's folder; the next stage takes it as an input.
        settings: as in a pipeline file; paths are relative to the working directory.

    Returns:
        The stage's manifest: counts, figures, files.

    Raises:
        UserError: a setting is wrong, an input is missing, or the stage fails.
    """
    return run_alone(kind, settings, Path(out)).manifest


def open_run(run_dir: str | PathLike[str]) -> dict[str, pa.Table]:
    """Read the figures of a run, also of one that is still running.

    Args:
        run_dir: the run's folder.

    Returns:
        ``stages``: ``stage``, ``kind``, ``seconds`` of every finished stage.  ``counts``:
        ``stage``, ``name``, ``count``, e.g. of records under each drop reason.  ``metrics``:
        ``stage`` and all that training wrote at each step, null where a line lacks it.

    Raises:
        UserError: the folder holds no stage.

    Example:
        >>> import tempfile
        >>> open_run(tempfile.mkdtemp())
        Traceback (most recent call last):
        ...
        megatron_dasd.errors.UserError: ...: no stage has finished or trained here
    """
    folder = Path(run_dir)
    stages: list[dict[str, object]] = []
    counts: list[dict[str, object]] = []
    metrics: list[dict[str, object]] = []
    for place in sorted(folder.glob("[!.]*")):
        manifest = read_manifest(place)
        if manifest is not None:
            stages.append({"stage": place.name, "kind": manifest.kind, "seconds": manifest.seconds})
            counts += (
                {"stage": place.name, "name": name, "count": count}
                for name, count in manifest.counts.items()
            )
        metrics += ({"stage": place.name, **line} for line in _metrics(place / LOGS / METRICS))
    if not stages and not metrics:
        raise UserError(f"{folder}: no stage has finished or trained here")
    names = list(dict.fromkeys(name for line in metrics for name in line))
    columns = {name: [line.get(name) for line in metrics] for name in names}
    return {
        "stages": pa.Table.from_pylist(stages, _STAGES),
        "counts": pa.Table.from_pylist(counts, _COUNTS),
        "metrics": pa.table(columns),
    }


_STAGES = pa.schema([("stage", pa.string()), ("kind", pa.string()), ("seconds", pa.float64())])
_COUNTS = pa.schema([("stage", pa.string()), ("name", pa.string()), ("count", pa.int64())])


def _metrics(path: Path) -> list[dict[str, object]]:
    """The whole lines of a training's metrics; the last one may be torn while it trains."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]
