"""Flags of Megatron that a stage's mapping may hold, and those that are the stage's."""

from typing import Any

import pytest
from pydantic import ValidationError

from megatron_dasd.config.training import Train

TRAIN: dict[str, Any] = {"kind": "train", "model": "m", "checkpoint": "c", "data": "d"}


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("micro-batch-size", 2, "rows are packed"),
        ("micro_batch_size", 2, "micro_batch_size is not to be given: rows are packed"),
        ("--micro-batch-size", 2, "rows are packed"),
        ("global-batch-size", 4, "follows from the setting global_batch_size"),
        ("train-iters", 5, "follows from the setting epochs"),
        ("train-samples", 5, "follows from the setting epochs"),
        ("seq-length", 64, "follows from the data"),
        ("calculate-per-token-loss", False, "rows are packed"),
        ("no-calculate-per-token-loss", True, "rows are packed"),
        ("load", "/elsewhere", "goes on from its own newest checkpoint"),
        ("save", "/elsewhere", "saves into its own folder"),
        ("finetune", True, "goes on from its own newest checkpoint"),
        ("no-save-optim", True, "checkpoints are whole"),
        ("no-load-optim", True, "goes on from its own newest"),
        ("ckpt-format", "torch", "checkpoints are whole"),
        ("no-async-save", True, "interim checkpoints are written beside the training, the last"),
        ("ckpt_assume_constant_structure", True, "interim checkpoints are written beside the tra"),
        ("ckpt_step", 4, "goes on from its own newest"),
        ("pretrained-checkpoint", "/elsewhere", "follows from the setting checkpoint"),
        ("rampup-batch-size", [1, 1, 8], "same number of rows"),
        ("tensor_model_parallel_size", 2, "follows from the setting launch.tensor_parallel"),
        ("lr", 1.0, "follows from the setting lr"),
        ("override-opt-param-scheduler", True, "goes on from its own newest"),
        ("bf16", True, "follows from the setting precision"),
        ("fp8_format", "e4m3", "follows from the setting precision"),
        ("skip_train", True, "trains to its end"),
        ("non-persistent-ckpt-type", "global", "only checkpoints in save"),
        ("dasd-epochs", 2, "is a flag of tools/pretrain_dasd.py"),
        ("moe-router-load-balancing-type", "sinkhorn", "sinkhorn is not supported"),
        ("moe_router_load_balancing_type", ["aux_loss", "global_aux_loss"], "global_aux_loss is"),
    ],
)
def test_a_flag_of_the_stage_is_refused_by_name(flag: str, value: Any, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Train(**TRAIN, megatron={flag: value})


def test_a_flag_that_is_given_twice() -> None:
    flags = {"recompute-granularity": "full", "recompute_granularity": "selective"}
    with pytest.raises(ValidationError, match="recompute_granularity is given twice"):
        Train(**TRAIN, megatron=flags)


def test_underscores_are_understood() -> None:
    settings = Train(**TRAIN, megatron={"exit_interval": 2, "--sequence_parallel": False})
    assert settings.megatron == {"exit-interval": 2, "sequence-parallel": False}
