"""Start-up that all Megatron programs share: flags in, Megatron's own arguments out."""

import sys
from argparse import Namespace
from pathlib import Path

import torch

from megatron_dasd.config.base import Launch
from megatron_dasd.device import cpu_adapter
from megatron_dasd.device.apex import refuse_foreign_apex
from megatron_dasd.models.architecture import Architecture, Flags

_CPU_FLAGS: Flags = {
    "distributed-backend": "gloo",
    "use-cpu-initialization": True,
    "transformer-impl": "local",
    "attention-backend": "unfused",
    "no-rope-fusion": True,
    "no-persist-layer-norm": True,
    "no-gradient-accumulation-fusion": True,
    "no-masked-softmax-fusion": True,
    "no-bias-swiglu-fusion": True,
    "no-bias-dropout-fusion": True,
}
_GPU_FLAGS: Flags = {"distributed-backend": "nccl", "transformer-impl": "transformer_engine"}


def common_flags(architecture: Architecture, launch: Launch, seq_length: int, dtype: str) -> Flags:
    """Flags of model, layout and machine that training, scoring and conversion share.

    Args:
        seq_length: tokens of a packed row.
        dtype: ``bfloat16`` or ``float32``.
    """
    machine = _CPU_FLAGS if cpu_adapter.needed() else _GPU_FLAGS
    return {
        **architecture.flags(launch.tensor_parallel),
        **machine,
        "tensor-model-parallel-size": launch.tensor_parallel,
        "pipeline-model-parallel-size": launch.pipeline_parallel,
        "sequence-parallel": launch.tensor_parallel > 1,
        "seq-length": seq_length,
        "micro-batch-size": 1,
        "bf16": dtype == "bfloat16",
        "ckpt-format": "torch_dist",
    }


def to_argv(flags: Flags) -> list[str]:
    """Flags as a command line; False and None are left out."""
    argv: list[str] = []
    for name, value in flags.items():
        if value is None or value is False:
            continue
        argv.append(f"--{name}")
        if value is not True:
            argv += [str(v) for v in value] if isinstance(value, list) else [str(value)]
    return argv


def parse_flags(flags: Flags) -> Namespace:
    """Let Megatron parse and check its flags in this process; without a GPU, adapt it first.

    Raises:
        UserError: another project's ``apex`` is in the way.
    """
    refuse_foreign_apex()
    if cpu_adapter.needed():
        cpu_adapter.install()
    from megatron.training.arguments import parse_and_validate_args

    sys.argv = [sys.argv[0], *to_argv(flags)]
    args: Namespace = parse_and_validate_args()
    return args


def load_model(flags: Flags, checkpoint: Path | None) -> list[torch.nn.Module]:
    """Start Megatron and build this rank's model chunks, weights from a checkpoint if given.

    The model is in evaluation mode and not wrapped for training.
    """
    load = {"load": checkpoint, "no-load-optim": True, "no-load-rng": True, "finetune": True}
    parse_flags({**flags, **(load if checkpoint else {})})
    from megatron.training.checkpointing import load_checkpoint
    from megatron.training.initialize import initialize_megatron
    from megatron.training.training import get_model

    from megatron_dasd.models.provider import model_provider

    initialize_megatron()
    model = get_model(model_provider, wrap_with_ddp=False)
    if checkpoint:
        load_checkpoint(model, None, None)
    for chunk in model:
        chunk.eval()
    return list(model)
