"""Stage train: settings and data to Megatron's flags, its ranks started, its progress shown."""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.checkpoint import tracker
from megatron_dasd.checkpoint.artifact import FOLDER, open_checkpoint, remember_source
from megatron_dasd.config.data import PreprocessData
from megatron_dasd.config.training import Train
from megatron_dasd.data.meta import DataMeta, read_meta
from megatron_dasd.device.launch import launch
from megatron_dasd.errors import Stopped, UserError
from megatron_dasd.manifests import LOGS, METRICS, model_folder
from megatron_dasd.models.architecture import Flags, read_architecture
from megatron_dasd.models.program import layout_flags
from megatron_dasd.precision.recipes import RECIPES, precision_flags, weights_dtype, where_fp8_runs
from megatron_dasd.progress import progress
from megatron_dasd.training.exchange import Exchange
from megatron_dasd.training.flags import check_divides
from megatron_dasd.training.ledger import read_ledger
from megatron_dasd.training.metrics_file import forget_after, last_step
from megatron_dasd.training.program import ROWS_FLAGS
from megatron_dasd.training.rollout_worker import RolloutWorker
from megatron_dasd.training.writers import writer_flags


def run(settings: Train, inputs: Mapping[str, Path], folder: StageFolder) -> dict[str, Any]:
    """Train; goes on from this stage's own last checkpoint if there is one.

    Raises:
        UserError: a rank failed, or training ended where it should not have.
        Stopped: training was told to stop before its last iteration, and has saved.
    """
    data = read_meta(inputs[settings.data])
    more = read_meta(inputs[settings.ramp_data]).num_packs if settings.ramp_data else 0
    num_samples = math.ceil(settings.epochs * (data.num_packs + more))
    iterations = math.ceil(num_samples / settings.global_batch_size)
    saves = folder.path / FOLDER
    metrics = folder.path / LOGS / METRICS
    payload = _payload(settings, inputs, saves, num_samples) | {"metrics": str(metrics)}
    fp8 = where_fp8_runs() if settings.precision in RECIPES else None
    if fp8:
        print(f"    {settings.precision}: {fp8}", flush=True)
    done = tracker.repair(saves)
    forget_after(metrics, done)
    exchange = Exchange(folder.path)
    if settings.on_policy:
        exchange.make()
        tracker.repair(exchange.weights)
    if done < iterations:
        worker = _worker(settings, inputs, folder)
        _Training(settings, payload, folder, metrics, iterations, worker).go_on(done)
    else:
        print(f"    iteration {done} was the last and is saved: nothing to train", flush=True)
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
        **({"on_policy": read_ledger(exchange.ledger).figures()} if settings.on_policy else {}),
    }


def _payload(
    settings: Train, inputs: Mapping[str, Path], saves: Path, num_samples: int
) -> dict[str, Any]:
    """What the training program is to do, but for where its metrics go.

    Raises:
        UserError: a checkpoint that must not be opened, or settings that ask for what is not there.
    """
    iterations = math.ceil(num_samples / settings.global_batch_size)
    data = read_meta(inputs[settings.data])
    heldout = read_meta(inputs[settings.heldout]) if settings.heldout else None
    start = open_checkpoint(inputs[settings.checkpoint])
    model = model_folder(inputs[settings.model])
    architecture = read_architecture(model)
    check_divides(architecture, settings.launch, settings.megatron)
    if settings.moe_aux_loss_coeff and not architecture.experts:
        raise UserError(f"moe_aux_loss_coeff: the model in {model} has no experts to balance")
    dtype = weights_dtype(settings.precision)
    flags = {
        "dasd-hf-model": model,
        **layout_flags(settings.launch, data.seq_length, dtype),
        **precision_flags(settings.precision),
        **_optimizer_flags(settings, iterations),
        **_heldout_flags(settings, iterations, heldout),
        "seed": settings.seed,
        "load": saves,
        "save": saves,
        # Weights of the stage before, with a fresh optimizer and schedule, unless this stage
        # has a checkpoint of its own.
        "pretrained-checkpoint": start.folder,
        "save-interval": settings.save_interval or iterations,
        "exit-signal-handler": True,
        **writer_flags(settings.megatron, saves.parent / LOGS, saves.parent.name),
        **settings.megatron,
    }
    return {
        "flags": {k: str(v) if isinstance(v, Path) else v for k, v in flags.items()},
        "data": str(inputs[settings.data]),
        "ramp_data": str(inputs[settings.ramp_data]) if settings.ramp_data else None,
        "ramp": settings.ramp.model_dump(),
        "heldout": str(inputs[settings.heldout]) if settings.heldout else None,
        "num_samples": num_samples,
        "teacher_topk": str(inputs[settings.teacher_topk]) if settings.teacher_topk else None,
        "distils": settings.distils,
        "on_policy": _on_policy(settings, data, saves.parent, num_samples),
        "keep_checkpoints": settings.keep_checkpoints,
        "shows_progress": False,
        "loader": settings.loader,
        "loss": {
            "normalise_by": settings.normalise_by,
            "chunked_loss": settings.chunked_loss,
            "loss_gradients": settings.loss_gradients,
            "distillation": settings.distillation.model_dump(),
        },
    }


def _on_policy(
    settings: Train, data: DataMeta, stage: Path, num_samples: int
) -> dict[str, Any] | None:
    """What the training program is to know of the worker's rows.

    Raises:
        UserError: they would not be like the data's.
    """
    given = settings.on_policy
    if given is None:
        return None
    (name,) = given.of_kind("preprocess_data")
    made = given.stages[name]
    assert isinstance(made, PreprocessData)
    for field in ("seq_length", "pack_align"):
        wanted, found = getattr(data, field), getattr(made, field)
        if found != wanted:
            raise UserError(f"on_policy.stages.{name}.{field}: {found}, that of data is {wanted}")
    if "rampup-batch-size" in {flag.replace("_", "-") for flag in settings.megatron}:
        raise UserError("megatron.rampup-batch-size: with on_policy all steps have as many rows")
    plan = given.model_dump(include={"share", "max_age", "every"})
    return {**plan, "stage": str(stage), "num_samples": num_samples}


@dataclass(frozen=True)
class _Training:
    """The ranks of a stage, started and waited for."""

    settings: Train
    payload: dict[str, Any]
    folder: StageFolder
    metrics: Path
    iterations: int
    worker: RolloutWorker | None

    def go_on(self, done: int) -> None:
        """Train from an iteration to the last.

        Raises:
            UserError: training ended where it should not have.
            Stopped: it was told to stop, or has reached a limit of its flags.
        """
        path = self.folder.path
        reason = None
        try:
            self._launch(done)
        except Stopped as stopped:
            reason = str(stopped)
        now = tracker.repair(path / FOLDER)
        if now == self.iterations and not reason:
            return
        # Not by the exit status, which Megatron leaves at 0 also when it could not go on.
        where = f"{path}: training stopped at iteration {now} of {self.iterations}"
        if reason or now > done:
            raise Stopped(f"{where} ({reason or 'a limit among the megatron flags'})")
        raise UserError(f"{where}, where it began (log: {path / LOGS})")

    def _launch(self, done: int) -> None:
        path = self.folder.path
        with progress(path.name, total=self.iterations, unit="steps", done=done) as bar:
            shown = done

            def show() -> None:
                nonlocal shown
                if self.worker:
                    self.worker.poll()
                line = last_step(self.metrics)
                if line and line["iteration"] > shown:
                    bar.advance(line["iteration"] - shown, note=_note(line))
                    shown = line["iteration"]

            with self.worker or nullcontext():
                launch(
                    "megatron_dasd.training.program",
                    self.payload,
                    self.settings.launch.num_ranks,
                    path / LOGS,
                    on_poll=show,
                )


def _note(line: dict[str, Any]) -> str:
    """What the progress shows of a step."""
    note = f"loss {line['loss']:.4f}, {line['tokens_per_second']:,.0f} tokens/s"
    if rows := line.get("on_policy_rows"):
        note += f", {rows} on-policy rows {line['on_policy_age']:.0f} steps old"
    return note


def _worker(
    settings: Train, inputs: Mapping[str, Path], folder: StageFolder
) -> RolloutWorker | None:
    if settings.on_policy is None:
        return None
    payload = {
        "stage": str(folder.path.absolute()),
        "model": str(inputs[settings.model].absolute()),
        "start": str(inputs[settings.checkpoint].absolute()),
        "settings": settings.on_policy.model_dump(mode="json"),
        "seed": settings.seed,
        "places": {name: str(path.absolute()) for name, path in inputs.items()},
    }
    return RolloutWorker(payload, folder.path / LOGS)


def _optimizer_flags(settings: Train, iterations: int) -> Flags:
    return {
        "train-iters": iterations,
        "global-batch-size": settings.global_batch_size,
        "lr": settings.lr,
        "min-lr": min(settings.min_lr, settings.lr),
        "lr-decay-style": settings.lr_decay_style,
        "lr-decay-iters": iterations,
        "lr-warmup-iters": round(settings.warmup_fraction * iterations),
        "weight-decay": settings.weight_decay,
        "adam-beta1": settings.adam_beta1,
        "adam-beta2": settings.adam_beta2,
        "adam-eps": settings.adam_eps,
        "clip-grad": settings.clip_grad,
        "use-distributed-optimizer": settings.launch.distributed_optimizer,
        # Checkpoints that any other layout can go on from.
        "dist-ckpt-optim-fully-reshardable": settings.launch.distributed_optimizer,
        "moe-aux-loss-coeff": settings.moe_aux_loss_coeff,
        "log-interval": 1,
        **ROWS_FLAGS,
    }


def _heldout_flags(settings: Train, iterations: int, heldout: DataMeta | None) -> Flags:
    if heldout is None:
        return {"eval-iters": 0, "eval-interval": iterations + 1}
    return {
        "eval-iters": math.ceil(heldout.num_packs / settings.global_batch_size),
        "eval-interval": settings.eval_interval or iterations + 1,
    }
