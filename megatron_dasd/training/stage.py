"""Stage train: settings and data to a training job, its ranks started, its progress shown."""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.checkpoint import interim, tracker
from megatron_dasd.checkpoint.artifact import CHECKPOINT_FOLDER, remember_source
from megatron_dasd.config.data import PreprocessData
from megatron_dasd.config.training import Train
from megatron_dasd.data.meta import DataMeta, read_meta
from megatron_dasd.device import gpus
from megatron_dasd.device.launch import launch
from megatron_dasd.errors import Stopped, UserError
from megatron_dasd.manifests import LOGS, METRICS, model_folder
from megatron_dasd.precision.recipes import RECIPES, weights_dtype, where_fp8_runs
from megatron_dasd.printing import say
from megatron_dasd.progress import progress
from megatron_dasd.training.evaluations import EvaluationPayload, Evaluations
from megatron_dasd.training.exchange import Exchange, WorkerPayload
from megatron_dasd.training.gathering import gather_if_needed
from megatron_dasd.training.job import LossSettings, OnPolicyRows, TrainingJob
from megatron_dasd.training.ledger import read_ledger
from megatron_dasd.training.metrics_file import StepLine, forget_after, last_step
from megatron_dasd.training.stage_flags import stage_flags
from megatron_dasd.training.worker_process import WorkerProcess


def run(
    settings: Train,
    inputs: Mapping[str, Path],
    folder: StageFolder,
    worker_program: str | None = None,
    evaluation_program: str | None = None,
) -> dict[str, object]:
    """Train; resumes from this stage's own last checkpoint if there is one.

    Args:
        worker_program: module that runs the inner stages of ``on_policy``, beside the training.
            Whoever runs stages names it, since it runs stages too.
        evaluation_program: likewise the module that exports and evaluates checkpoints.

    Raises:
        UserError: a rank failed, or training ended where it should not have.
        Stopped: training was stopped before its last iteration, and has saved.
    """
    data = read_meta(inputs[settings.data])
    more = read_meta(inputs[settings.ramp_data]).num_packs if settings.ramp_data else 0
    num_samples = samples_of(settings, data.num_packs + more)
    iterations = math.ceil(num_samples / settings.global_batch_size)
    saves = folder.path / CHECKPOINT_FOLDER
    job = training_job(settings, inputs, folder.path, num_samples)
    fp8 = _where_fp8_runs(settings)
    interim.adopt_gathered(saves)
    done = tracker.repair(saves)
    assert job.metrics is not None
    forget_after(job.metrics, done)
    exchange = Exchange(folder.path)
    if settings.on_policy:
        exchange.make()
        tracker.repair(exchange.weights)
    evaluator = _evaluator(settings, inputs, folder, evaluation_program, iterations)
    with evaluator or nullcontext():
        if done < iterations:
            gather_if_needed(job, settings.launch, folder.path, done)
            worker = _worker(settings, inputs, folder, worker_program)
            workers = [one for one in (worker, evaluator) if one]
            ranks = _Ranks(job, settings.launch.num_ranks, folder.path, iterations, worker, workers)
            ranks.train_from(done)
        else:
            say(f"    iteration {done} was the last and is saved: nothing to train")
        evaluated = _finish_evaluations(evaluator, folder.path, iterations, job.metrics)
    tracker.keep_only(saves, iterations)
    exchange.tidy_up()
    remember_source(model_folder(inputs[settings.model]), saves)
    return {
        "dtype": weights_dtype(settings.precision),
        "precision": settings.precision,
        "fp8": fp8,
        "iterations": iterations,
        "num_samples": num_samples,
        "padding_samples": iterations * settings.global_batch_size - num_samples,
        "loss_tokens_per_epoch": data.num_loss_tokens,
        **({"evaluations": evaluated} if settings.evaluate_every else {}),
        **({"on_policy": read_ledger(exchange.ledger).figures()} if settings.on_policy else {}),
    }


def _where_fp8_runs(settings: Train) -> str | None:
    """What computes in FP8, said as well as what is slow here; None: nothing is in FP8."""
    if settings.precision == "bf16" and not gpus.in_sight():
        say("    precision bf16: slow on a CPU, where precision: fp32 trains faster")
    fp8 = where_fp8_runs() if settings.precision in RECIPES else None
    if fp8:
        say(f"    {settings.precision}: {fp8}")
    return fp8


def samples_of(settings: Train, num_rows: int) -> int:
    """Rows of the whole training, without padding, given the number of rows of the data."""
    num_samples = math.ceil(settings.epochs * num_rows)
    if settings.max_steps is None:
        return num_samples
    return min(num_samples, settings.max_steps * settings.global_batch_size)


def training_job(
    settings: Train, inputs: Mapping[str, Path], stage: Path, num_samples: int
) -> TrainingJob:
    """The job that a stage's settings ask for.

    Args:
        stage: the stage's folder.
        num_samples: rows of the whole training, without padding.

    Raises:
        UserError: a checkpoint that must not be opened, or settings that do not fit the inputs.
    """
    data = read_meta(inputs[settings.data])

    def place(reference: str | None) -> Path | None:
        return inputs[reference] if reference else None

    return TrainingJob(
        flags=stage_flags(
            settings, inputs, stage, math.ceil(num_samples / settings.global_batch_size)
        ),
        data=inputs[settings.data],
        ramp_data=place(settings.ramp_data),
        ramp=settings.ramp,
        heldout=place(settings.heldout),
        num_samples=num_samples,
        teacher_topk=place(settings.teacher_topk),
        distils=settings.distils,
        on_policy=_on_policy(settings, data, stage, num_samples),
        loader=settings.loader,
        loss=LossSettings(
            normalise_by=settings.normalise_by,
            chunked_loss=settings.chunked_loss,
            loss_gradients=settings.loss_gradients,
            slice_mib=settings.loss_slice_mib,
            distillation=settings.distillation,
        ),
        metrics=stage / LOGS / METRICS,
        keep_checkpoints=settings.keep_checkpoints,
        evaluated_stage=stage if settings.evaluate_every else None,
        launch=settings.launch,
    )


def _on_policy(
    settings: Train, data: DataMeta, stage: Path, num_samples: int
) -> OnPolicyRows | None:
    """What the training program has to know of the worker's rows.

    Raises:
        UserError: they would not be packed like the data's.
    """
    given = settings.on_policy
    if given is None:
        return None
    (name,) = given.of_kind("preprocess_data")
    made = given.stages[name]
    assert isinstance(made, PreprocessData)
    for field in ("seq_length", "pack_align"):
        expected, found = getattr(data, field), getattr(made, field)
        if found != expected:
            raise UserError(f"on_policy.stages.{name}.{field}: {found}, that of data is {expected}")
    if "rampup-batch-size" in {flag.replace("_", "-") for flag in settings.megatron}:
        raise UserError("megatron.rampup-batch-size: with on_policy all steps have as many rows")
    return OnPolicyRows(
        stage=stage,
        num_samples=num_samples,
        share=given.share,
        max_age=given.max_age,
        every=given.every,
    )


def _worker(
    settings: Train, inputs: Mapping[str, Path], folder: StageFolder, program: str | None
) -> WorkerProcess | None:
    if settings.on_policy is None:
        return None
    assert program is not None, "on_policy needs the program that runs its stages"
    assert settings.seed is not None, "a pipeline gives every stage a seed"
    payload = WorkerPayload(
        stage=folder.path.absolute(),
        model=inputs[settings.model].absolute(),
        start=inputs[settings.checkpoint].absolute(),
        settings=settings.on_policy,
        seed=settings.seed,
        places={name: path.absolute() for name, path in inputs.items()},
    )
    return WorkerProcess(program, payload, folder.path / LOGS)


def _evaluator(
    settings: Train,
    inputs: Mapping[str, Path],
    folder: StageFolder,
    program: str | None,
    iterations: int,
) -> WorkerProcess | None:
    """The process that exports and evaluates checkpoints; None: nothing is asked of it."""
    given = settings.evaluate_every
    if given is None and not settings.export_saves:
        return None
    assert program is not None, "evaluate_every needs the program that runs its stage"
    assert settings.seed is not None, "a pipeline gives every stage a seed"
    payload = EvaluationPayload(
        stage=folder.path.absolute(),
        saves=(folder.path / CHECKPOINT_FOLDER).absolute(),
        model=inputs[settings.model].absolute(),
        evaluate=given.evaluate if given else None,
        every=given.iterations if given else iterations,
        last=iterations,
        export_saves=settings.export_saves,
        seed=settings.seed,
        places={name: path.absolute() for name, path in inputs.items()},
    )
    return WorkerProcess(program, payload, folder.path / LOGS, "evaluation_worker")


def _finish_evaluations(
    evaluator: WorkerProcess | None, stage: Path, iterations: int, metrics: Path
) -> dict[str, dict[str, float]]:
    """Wait for the evaluation of the last checkpoint.

    Returns:
        Accuracies by iteration and benchmark.

    Raises:
        UserError: the worker fails again and again.
    """
    if evaluator is None:
        return {}
    evaluations = Evaluations(stage)
    evaluator.wait_until(lambda: evaluations.is_done(iterations))
    evaluations.write_metrics(metrics)
    evaluations.tidy_up()
    return {str(one.iteration): one.accuracy for one in evaluations.finished() if one.accuracy}


@dataclass(frozen=True)
class _Ranks:
    """The ranks of a training, started and waited for."""

    job: TrainingJob
    num_ranks: int
    stage: Path
    iterations: int
    worker: WorkerProcess | None
    """It runs while the ranks do."""
    workers: list[WorkerProcess]
    """All that are watched meanwhile."""

    def train_from(self, done: int) -> None:
        """Train from iteration ``done`` to the last.

        Raises:
            UserError: training ended where it should not have.
            Stopped: it was stopped by a signal, or has reached a limit of its flags.
        """
        reason = None
        try:
            self._launch(done)
        except Stopped as stopped:
            reason = str(stopped)
        now = tracker.repair(self.stage / CHECKPOINT_FOLDER)
        if now == self.iterations and not reason:
            return
        # Not by the exit status: Megatron leaves it at 0 also when it could not resume.
        where = f"{self.stage}: training stopped at iteration {now} of {self.iterations}"
        if reason or now > done:
            raise Stopped(f"{where} ({reason or 'a limit among the megatron flags'})")
        raise UserError(f"{where}, where it began (log: {self.stage / LOGS})")

    def _launch(self, done: int) -> None:
        assert self.job.metrics is not None
        metrics, name = self.job.metrics, self.stage.name
        evaluations = Evaluations(self.stage)
        with progress(name, total=self.iterations, unit="steps", done=done) as bar:
            shown = done

            def show() -> None:
                nonlocal shown
                for worker in self.workers:
                    worker.poll()
                evaluations.write_metrics(metrics)
                line = last_step(metrics)
                if line and line.iteration > shown:
                    bar.advance(line.iteration - shown, note=_note(line))
                    shown = line.iteration

            with self.worker or nullcontext():
                launch(
                    "megatron_dasd.training.program",
                    self.job,
                    self.num_ranks,
                    self.stage / LOGS,
                    on_poll=show,
                )


def _note(line: StepLine) -> str:
    """A step's figures, for the progress line."""
    note = f"loss {line.loss:.4f}, {line.tokens_per_second:,.0f} tokens/s"
    if line.on_policy_rows:
        note += f", {line.on_policy_rows} on-policy rows {line.on_policy_age:.0f} steps old"
    return note
