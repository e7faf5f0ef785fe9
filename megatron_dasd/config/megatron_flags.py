"""Which of Megatron's flags are a training's own to give, and not the user's.

One table for the ``megatron:`` mapping of a stage, and its part for a command line that is typed.
A flag that is not in it goes to Megatron as it is.
"""

from collections.abc import Iterable, Mapping

_PACKED = "rows are packed, and a micro-batch is one row"
_ROWS = "it follows from the data"
_GOES_ON = "a stage goes on from its own newest checkpoint"
_SAVES = "interim checkpoints are written beside the training, the last one for any layout"
_WHOLE = "a stage's checkpoints are whole"
_ONE_STEP = "a step has the same number of rows throughout"

BY_PROGRAM: dict[str, str] = {
    "calculate-per-token-loss": _PACKED,
    "data-args-path": _ROWS,
    "data-path": _ROWS,
    "dataloader-type": _PACKED,
    "exit-signal-handler": "a training saves when it is stopped",
    "micro-batch-size": _PACKED,
    "mock-data": _ROWS,
    "non-persistent-ckpt-type": "only checkpoints in save are looked through",
    "non-persistent-save-interval": "only checkpoints in save are looked through",
    "per-split-data-args-path": _ROWS,
    "seq-length": _ROWS,
    "sft": _ROWS,
    "split": _ROWS,
    "test-data-path": _ROWS,
    "train-data-path": _ROWS,
    "valid-data-path": _ROWS,
}
"""Flags that no training leaves open, and why."""
_BY_SETTING = {
    "adam-beta1": "adam_beta1",
    "adam-beta2": "adam_beta2",
    "adam-eps": "adam_eps",
    "clip-grad": "clip_grad",
    "context-parallel-size": "launch.context_parallel",
    "decoder-first-pipeline-num-layers": "launch.first_stage_layers",
    "decoder-last-pipeline-num-layers": "launch.last_stage_layers",
    "eval-interval": "eval_interval",
    "eval-iters": "heldout",
    "expert-model-parallel-size": "launch.expert_parallel",
    "global-batch-size": "global_batch_size",
    "lr": "lr",
    "lr-decay-iters": "epochs",
    "lr-decay-samples": "epochs",
    "lr-decay-style": "lr_decay_style",
    "lr-warmup-fraction": "warmup_fraction",
    "lr-warmup-iters": "warmup_fraction",
    "lr-warmup-samples": "warmup_fraction",
    "min-lr": "min_lr",
    "moe-aux-loss-coeff": "moe_aux_loss_coeff",
    "num-layers-per-virtual-pipeline-stage": "launch.virtual_pipeline",
    "num-virtual-stages-per-pipeline-rank": "launch.virtual_pipeline",
    "pipeline-model-parallel-size": "launch.pipeline_parallel",
    "pretrained-checkpoint": "checkpoint",
    "save-interval": "save_interval",
    "save-retain-interval": "keep_checkpoints",
    "seed": "seed",
    "tensor-model-parallel-size": "launch.tensor_parallel",
    "train-iters": "epochs",
    "train-samples": "epochs",
    "weight-decay": "weight_decay",
}
_BY_STAGE = {
    "async-save": _SAVES,
    "async-strategy": _SAVES,
    "ckpt-assume-constant-structure": _SAVES,
    "dist-ckpt-optim-fully-reshardable": _SAVES,
    "use-persistent-ckpt-worker": _SAVES,
    "ckpt-convert-format": _WHOLE,
    "ckpt-convert-save": _WHOLE,
    "ckpt-format": _WHOLE,
    "ckpt-step": _GOES_ON,
    "exit-on-missing-checkpoint": _GOES_ON,
    "finetune": _GOES_ON,
    "load": _GOES_ON,
    "no-load-optim": _GOES_ON,
    "no-load-rng": _GOES_ON,
    "no-save-optim": _WHOLE,
    "no-save-rng": _WHOLE,
    "override-opt_param-scheduler": _GOES_ON,
    "rampup-batch-size": _ONE_STEP,
    "save": "a stage saves into its own folder",
    "skip-train": "a stage trains to its end",
    "step-batch-size-schedule": _ONE_STEP,
    "use-checkpoint-args": _GOES_ON,
    "use-checkpoint-opt_param-scheduler": _GOES_ON,
}
_UNDERSCORED = ("opt_param",)
"""What Megatron itself writes with an underscore."""
_BALANCING = "moe-router-load-balancing-type"
_BALANCED = {"aux_loss", "seq_aux_loss", "none"}


def canonical(name: str) -> str:
    """A flag's name as Megatron writes it: without leading dashes, words joined by dashes."""
    dashed = name.lstrip("-").replace("_", "-")
    for part in _UNDERSCORED:
        dashed = dashed.replace(part.replace("_", "-"), part)
    return dashed


def checked_mapping[T](flags: Mapping[str, T]) -> dict[str, T]:
    """The ``megatron:`` mapping of a stage, its names as Megatron writes them.

    Raises:
        ValueError: a flag is the stage's, or is given twice.
    """
    checked: dict[str, T] = {}
    for typed, value in flags.items():
        name = canonical(typed)
        if name in checked:
            raise ValueError(f"{typed} is given twice")
        positive = name if name in _BY_STAGE else name.removeprefix("no-")
        if setting := _BY_SETTING.get(positive):
            raise ValueError(f"{typed} follows from the setting {setting}; leave it out here")
        if reason := (BY_PROGRAM | _BY_STAGE).get(positive):
            raise ValueError(f"{typed} is not to be given: {reason}")
        if positive.startswith("dasd-"):
            raise ValueError(f"{typed} is a flag of tools/pretrain_dasd.py; give the setting")
        if name == _BALANCING:
            check_balancing(value)
        checked[name] = value
    return checked


def typed_names(argv: Iterable[str]) -> dict[str, str]:
    """The flags of a command line: each by its canonical name, as it was typed."""
    typed = (word.split("=")[0] for word in argv if word.startswith("--"))
    return {canonical(word): word for word in typed}


def check_balancing(kinds: object) -> None:
    """Refuse a way of balancing experts in which padding takes part, or the layout.

    Raises:
        ValueError: naming it.
    """
    for kind in kinds if isinstance(kinds, list) else [kinds]:
        if kind not in _BALANCED:
            raise ValueError(
                f"{_BALANCING} {kind} is not supported: padding or the layout would change its "
                f"weight (only {', '.join(sorted(_BALANCED))})"
            )
