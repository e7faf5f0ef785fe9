"""What a train stage's settings say to Megatron: its flags."""

import math
from collections.abc import Mapping
from pathlib import Path

from megatron_dasd.checkpoint.artifact import CHECKPOINT_FOLDER, open_checkpoint
from megatron_dasd.config.training import Train
from megatron_dasd.data.meta import DataMeta, read_meta
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import LOGS, model_folder
from megatron_dasd.models.architecture import Flags
from megatron_dasd.models.hf_config import read_architecture
from megatron_dasd.models.hf_flags import check_launch
from megatron_dasd.models.program import layout_flags
from megatron_dasd.models.sizes import checkpoint_bytes, timeout_minutes
from megatron_dasd.precision.recipes import precision_flags, weights_dtype
from megatron_dasd.training.dashboards import dashboard_flags
from megatron_dasd.training.program import ROWS_FLAGS
from megatron_dasd.training.saving import ASYNC_FLAGS

_GC_INTERVAL = 100
"""Steps between two collections of garbage."""


def stage_flags(settings: Train, inputs: Mapping[str, Path], stage: Path, iterations: int) -> Flags:
    """All flags of a stage; those that it was given come last.

    Args:
        inputs: places by reference.
        stage: the stage's folder.
        iterations: of the whole training.

    Raises:
        UserError: a checkpoint that must not be opened, or settings that do not fit the inputs.
    """
    data = read_meta(inputs[settings.data])
    heldout = read_meta(inputs[settings.heldout]) if settings.heldout else None
    start = open_checkpoint(inputs[settings.checkpoint])
    model = model_folder(inputs[settings.model])
    architecture = read_architecture(model)
    check_launch(architecture, settings.launch, settings.megatron)
    if settings.moe_aux_loss_coeff and not architecture.experts:
        raise UserError(f"moe_aux_loss_coeff: the model in {model} has no experts to balance")
    saves = stage / CHECKPOINT_FOLDER
    dtype = weights_dtype(settings.precision)
    flags: Flags = {
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
        **ASYNC_FLAGS,
        "distributed-timeout-minutes": timeout_minutes(
            checkpoint_bytes(start.num_weights, dtype == "bfloat16")
        ),
        **dashboard_flags(settings.megatron, stage / LOGS, stage.name),
        **settings.megatron,
    }
    return {name: str(x) if isinstance(x, Path) else x for name, x in flags.items()}


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
        # Checkpoints that can be resumed under any other layout.
        "dist-ckpt-optim-fully-reshardable": settings.launch.distributed_optimizer,
        # Exchanges run beside the backward and the forward pass.
        "overlap-grad-reduce": True,
        "overlap-param-gather": settings.launch.distributed_optimizer,
        # All ranks collect at the same steps: one that collects alone makes the others wait.
        "manual-gc": True,
        "manual-gc-interval": _GC_INTERVAL,
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
