"""Runs the self-test: the stages of ``selftest.plan``, each result beside the known one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

import torch
from pydantic import TypeAdapter

import megatron_dasd
from megatron_dasd.artifacts import write_atomic
from megatron_dasd.checkpoint import tracker
from megatron_dasd.checkpoint.artifact import CHECKPOINT_FOLDER
from megatron_dasd.config.pipeline import Pipeline, load_pipeline
from megatron_dasd.device import cpu_adapter
from megatron_dasd.device.doctor import Finding
from megatron_dasd.errors import UserError
from megatron_dasd.json_values import JsonObject
from megatron_dasd.manifests import LOGS, METRICS
from megatron_dasd.models.program import engine_installed
from megatron_dasd.pipeline.runner import run_stages
from megatron_dasd.planning.estimate import recipe_of
from megatron_dasd.planning.memory import highest
from megatron_dasd.precision.requirements import refusal
from megatron_dasd.selftest import verdicts
from megatron_dasd.selftest.golden import losses_of, mean_logprob, read_golden
from megatron_dasd.selftest.loss_forms import time_loss_forms
from megatron_dasd.selftest.plan import (
    KILLED,
    PIPELINE,
    PRECISIONS,
    PREPARATION,
    SAVE_INTERVAL,
    Training,
    trainings,
    write_pipeline,
)
from megatron_dasd.selftest.verdicts import Verdict
from megatron_dasd.training.metrics_file import StepLine, last_step

REPORT = "selftest.json"
_CPU_RANKS = 2
_POLL_SECONDS = 0.02


def self_test(folder: Path, machine: list[Finding]) -> list[Verdict]:
    """Run everything in a folder, and write the report there.

    Args:
        folder: a new one, or an earlier self-test's, whose content is removed.
        machine: what the doctor has found, for the report.

    Raises:
        UserError: the folder holds something else, or the preparations failed.
    """
    _clear(folder)
    refused = {precision: refusal(precision) for precision in PRECISIONS}
    num_devices = _CPU_RANKS if cpu_adapter.needed() else torch.cuda.device_count()
    planned = [
        training
        for precision, reason in refused.items()
        if reason is None
        for training in trainings(precision, num_devices)
    ]
    pipeline = load_pipeline(write_pipeline(folder, planned))
    run_stages(pipeline, PREPARATION)
    golden = read_golden()
    found = [Verdict(f"train {p}", "skipped", why) for p, why in refused.items() if why]
    for training in planned:
        found += _train(pipeline, training, golden.losses[training.precision])
    found += _attempt("killed and resumed", lambda: _killed(pipeline, golden.losses["bf16"]))
    for dtype, known in golden.logprobs.items():
        found += _attempt(f"score {dtype}", partial(_score, pipeline, dtype, known))
    found += _attempt("export", lambda: _export(pipeline))
    found += _attempt("loss", _loss_forms)
    _write_report(pipeline, planned, machine, found)
    return found


def _clear(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()) and not (folder / PIPELINE).exists():
        raise UserError(f"{folder}: is not empty and no earlier self-test's; name another folder")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


def _attempt(check: str, work: Callable[[], Iterator[Verdict]]) -> list[Verdict]:
    """Verdicts of some work; where it fails, one that says why, and the others go on."""
    try:
        return list(work())
    except (UserError, torch.OutOfMemoryError) as error:
        return [Verdict(check, "failed", str(error))]


def _train(pipeline: Pipeline, training: Training, known: list[float]) -> list[Verdict]:
    check = f"train {training.precision}, {training.layout}"

    def work() -> Iterator[Verdict]:
        run_stages(pipeline, [training.stage])
        place = pipeline.stage_dir(training.stage)
        lines = _steps(place)
        verdict = verdicts.of_losses(check, training.precision, losses_of(place), known)
        yield replace(verdict, found=f"{verdict.found}; {verdicts.speed(lines)}")
        recipe = recipe_of(pipeline, training.stage)
        if training.precision == "fp32" or cpu_adapter.needed() or not engine_installed():
            recipe = replace(recipe, layers="local")
        yield verdicts.of_memory(f"memory {check.split(' ', 1)[1]}", lines, highest(recipe))

    return _attempt(check, work)


def _steps(stage: Path) -> list[StepLine]:
    lines = (stage / LOGS / METRICS).read_text().splitlines()
    return [StepLine.model_validate_json(line) for line in lines]


def _killed(pipeline: Pipeline, known: list[float]) -> Iterator[Verdict]:
    """Kill a training after its first save, with everything that it has started; resume it."""
    place = pipeline.stage_dir(KILLED)
    log = place.with_name(f"{KILLED}.log")
    command = [sys.executable, "-m", "megatron_dasd.pipeline", str(pipeline.path), "--only", KILLED]
    with log.open("w") as output:
        running = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            while running.poll() is None and not _is_past_the_save(place):
                time.sleep(_POLL_SECONDS)
        finally:
            with suppress(ProcessLookupError):  # it has ended by itself
                os.killpg(running.pid, signal.SIGKILL)
            running.wait()
    line = last_step(place / LOGS / METRICS)
    if running.returncode != -signal.SIGKILL or line is None:
        raise UserError(f"the training ended before it was killed (log: {log})")
    run_stages(pipeline, [KILLED])
    verdict = verdicts.of_losses("killed and resumed", "bf16", losses_of(place), known)
    how = f"killed after step {line.iteration}, resumed from {SAVE_INTERVAL}"
    yield replace(verdict, found=f"{how}; {verdict.found}")


def _is_past_the_save(stage: Path) -> bool:
    line = last_step(stage / LOGS / METRICS)
    saved = tracker.read(stage / CHECKPOINT_FOLDER)
    return line is not None and line.iteration > SAVE_INTERVAL and saved >= SAVE_INTERVAL


def _score(pipeline: Pipeline, dtype: str, known: float) -> Iterator[Verdict]:
    stage = f"score_{dtype}"
    run_stages(pipeline, [stage])
    found = mean_logprob(pipeline.stage_dir(stage))
    yield verdicts.of_logprob(f"score {dtype}", dtype, found, known)


def _export(pipeline: Pipeline) -> Iterator[Verdict]:
    outcomes = run_stages(pipeline, ["export", "verify"])
    figures = outcomes[-1].manifest.figures
    text = f"every tensor equal; largest difference of a logit {figures['max_difference']:.1e}"
    yield Verdict("export", "passed", text)


def _loss_forms() -> Iterator[Verdict]:
    shape, timings = time_loss_forms()
    for timing in timings:
        yield verdicts.of_loss_form(shape, timing)


def _write_report(
    pipeline: Pipeline, planned: list[Training], machine: list[Finding], found: list[Verdict]
) -> None:
    places = {t.stage: pipeline.stage_dir(t.stage) / LOGS / METRICS for t in planned}
    report: JsonObject = {
        "version": megatron_dasd.__version__,
        "machine": TypeAdapter(list[Finding]).dump_python(machine),
        "verdicts": [asdict(verdict) for verdict in found],
        "steps": {
            stage: [json.loads(line) for line in path.read_text().splitlines()]
            for stage, path in places.items()
            if path.exists()
        },
    }
    write_atomic(pipeline.run_dir / REPORT, json.dumps(report, indent=1).encode())
