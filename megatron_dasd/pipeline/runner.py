"""Runs the stages of a pipeline one after the other in this process.

A stage that has finished with the same settings and inputs is skipped.  Inputs are compared by
digest, so a stage that runs again with the same result leaves the stages after it up to date.
"""

import gc
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from megatron_dasd.artifacts import StageFolder, write_atomic
from megatron_dasd.config.pipeline import Pipeline, references
from megatron_dasd.config.stages import stage_kinds
from megatron_dasd.engines.clients import share_among_clients
from megatron_dasd.errors import UserError
from megatron_dasd.json_values import Figures
from megatron_dasd.last_net import working_on
from megatron_dasd.manifests import (
    LOGS,
    MANIFEST,
    Manifest,
    check_files,
    file_sha256,
    fingerprint_of,
    input_digest,
    read_manifest,
)
from megatron_dasd.pipeline.given import check_given
from megatron_dasd.printing import say
from megatron_dasd.progress import at_work
from megatron_dasd.replaced import delete_replaced, restore
from megatron_dasd.verification import verify_stages

StageFunction = Callable[..., Figures]
"""``run(settings, inputs, folder)``: paths by reference in, figures of the manifest out."""
ROLLOUT_WORKER = "megatron_dasd.pipeline.rollout_worker"
"""Module of the program that runs the inner stages of a training, beside it."""
EVALUATION_WORKER = "megatron_dasd.pipeline.evaluation_worker"
"""Module of the program that exports and evaluates a training's checkpoints, beside it."""
WORKERS = {"worker_program": ROLLOUT_WORKER, "evaluation_program": EVALUATION_WORKER}
EXTRAS = {"gguf": "eval", "math_verify": "eval", "reasoning_gym": "eval"}
"""The extra that installs a package that only some stages need."""
REPORT_FILES = ("report.html", "report.json")
"""Files of a report stage that are copied to the run's folder too."""


@dataclass(frozen=True)
class Outcome:
    """How one stage ended in this run."""

    stage: str
    manifest: Manifest
    skipped: bool
    seconds: float
    """Wall time in this run."""


def choose_stages(
    pipeline: Pipeline,
    first: str | None = None,
    last: str | None = None,
    only: Collection[str] = (),
) -> list[str]:
    """The stages to run, in order: from ``first`` to ``last`` (both included), or ``only`` these.

    Raises:
        UserError: a name is no stage of the pipeline, or ``first`` comes after ``last``.
    """
    names = list(pipeline.stages)
    for name in [*filter(None, (first, last)), *only]:
        if name not in names:
            raise UserError(f"{pipeline.path}: no stage {name} (stages: {', '.join(names)})")
    if only:
        return [name for name in names if name in only]
    begin = names.index(first) if first else 0
    end = names.index(last) if last else len(names) - 1
    if begin > end:
        raise UserError(f"{pipeline.path}: stage {first} comes after {last}")
    return names[begin : end + 1]


def stages_to_run(pipeline: Pipeline, stages: Collection[str]) -> list[str]:
    """The stages among some, in order, that are not up to date or read one that is not."""
    found: list[str] = []
    for stage in stages:
        reads = {*pipeline.upstream(stage)}
        if pipeline.stages[stage].stage.describes_run:
            reads |= {*pipeline.ancestors(stage)}
        if reads & {*found} or not _is_current(pipeline, stage):
            found.append(stage)
    return found


def _is_current(pipeline: Pipeline, stage: str) -> bool:
    settings, manifest = pipeline.stages[stage], read_manifest(pipeline.stage_dir(stage))
    if manifest is None:
        return False
    try:
        digests = _input_digests(pipeline, stage)
    except UserError:  # an input has not finished
        return False
    return manifest.fingerprint == fingerprint_of(settings.kind, settings.identity(), digests)


def stage_function(kind: str) -> StageFunction:
    """The function that does the work of a stage kind; imports its module."""
    run: StageFunction = import_module(stage_kinds()[kind].stage.module).run
    return run


def run_stages(pipeline: Pipeline, stages: Collection[str]) -> list[Outcome]:
    """Run stages in the order given, each announced by a line; those up to date are skipped.

    Raises:
        UserError: a stage raises it, or an input has not finished with the pipeline's settings.
    """
    for stage in stages:
        check_given(pipeline, stage)
    outcomes = []
    for number, stage in enumerate(stages, start=1):
        say(f"[{number}/{len(stages)}] {stage} ({pipeline.stages[stage].kind})")
        try:
            with working_on(stage, pipeline.stage_dir(stage) / LOGS), at_work(stage):
                outcome = _run_stage(pipeline, stage)
        except UserError as error:
            raise type(error)(f"stage {stage}: {error}") from None
        except ModuleNotFoundError as error:
            if error.name not in EXTRAS:
                raise
            install = f"pip install 'megatron_dasd[{EXTRAS[error.name]}]'"
            raise UserError(f"stage {stage}: needs the package {error.name}: {install}") from None
        outcomes.append(outcome)
        say(f"    {describe(outcome)}")
    return outcomes


def describe(outcome: Outcome) -> str:
    """One line on how a stage ended."""
    how = "unchanged, skipped" if outcome.skipped else f"{outcome.seconds:.1f} s"
    counts = ", ".join(f"{name} {count:,}" for name, count in outcome.manifest.outcomes.items())
    return f"{how}: {counts}" if counts else how


def _run_stage(pipeline: Pipeline, stage: str) -> Outcome:
    started = time.monotonic()
    settings = pipeline.stages[stage]
    given = settings.identity()
    digests = _input_digests(pipeline, stage)
    path = pipeline.stage_dir(stage)
    fingerprint = fingerprint_of(settings.kind, given, digests)
    if restore(path, fingerprint):
        say("    the settings of the kept result are back, and so is that result")
    manifest = read_manifest(path)
    skipped = manifest is not None and manifest.fingerprint == fingerprint
    if manifest is not None and skipped:
        check_files(path, manifest)
        delete_replaced(path)
    else:
        if pipeline.verify_inputs:  # first of all: what a stage has saved is never made again
            # other stages that a report describes are read by their manifests alone
            verify_stages(pipeline.resolve(ref) for ref in references(settings))
        with StageFolder(path, stage, settings.kind, given, digests) as folder:
            run = stage_function(settings.kind)
            gc.freeze()  # imported modules live to the end: collections need not traverse them
            more = WORKERS if settings.stage.has_workers else {}
            share_among_clients(settings, pipeline.input_paths(stage), folder)
            figures = run(settings, pipeline.input_paths(stage), folder, **more)
            manifest = folder.finish(figures=figures)
        gc.collect()  # frees this stage's models before the next stage loads its own
    if settings.kind == "report":
        _publish(path, pipeline.run_dir)
    return Outcome(stage, manifest, skipped, time.monotonic() - started)


def _input_digests(pipeline: Pipeline, stage: str) -> dict[str, str]:
    """Identity of every input, by reference.

    A stage that describes the run depends on the manifests as they are, wall times included.
    """
    digests = {}
    for ref, path in pipeline.input_paths(stage).items():
        if ref in pipeline.stages:
            _require_current(pipeline, ref)
        by_manifest = pipeline.stages[stage].stage.describes_run and ref in pipeline.stages
        digests[ref] = file_sha256(path / MANIFEST) if by_manifest else input_digest(path)
    return digests


def _require_current(pipeline: Pipeline, stage: str) -> None:
    """Check that an input stage has finished with the settings that the pipeline gives."""
    manifest = read_manifest(pipeline.stage_dir(stage))
    if manifest is None:
        raise UserError(f"its input {stage} has not finished; run that stage first")
    if manifest.settings != pipeline.stages[stage].identity():
        raise UserError(
            f"its input {stage} has finished with other settings than the pipeline's; "
            "run that stage first"
        )


def _publish(folder: Path, run_dir: Path) -> None:
    for name in REPORT_FILES:
        content, copy = (folder / name).read_bytes(), run_dir / name
        if not copy.exists() or copy.read_bytes() != content:
            write_atomic(copy, content)
