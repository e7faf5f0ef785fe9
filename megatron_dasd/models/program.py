"""Start-up that all Megatron programs share: flags in, Megatron's own arguments out."""

import importlib.util
import sys
import traceback
from argparse import Namespace
from pathlib import Path

import torch

from megatron_dasd.config.base import Launch
from megatron_dasd.device import cpu_adapter, dataset_helpers
from megatron_dasd.device.apex import refuse_foreign_apex
from megatron_dasd.errors import UserError
from megatron_dasd.models.architecture import Architecture, Flags
from megatron_dasd.models.hf_flags import CommandLine, add_arguments
from megatron_dasd.printing import one_line

_LOCAL_FLAGS: Flags = {
    "transformer-impl": "local",
    "attention-backend": "unfused",
    "no-rope-fusion": True,
    "no-persist-layer-norm": True,
    "no-gradient-accumulation-fusion": True,
    "no-masked-softmax-fusion": True,
    "no-bias-swiglu-fusion": True,
    "no-bias-dropout-fusion": True,
}
"""Megatron's own layers; what is fused is Transformer Engine's or apex's."""
_CPU_FLAGS: Flags = {
    "distributed-backend": "gloo",
    "use-cpu-initialization": True,
    **_LOCAL_FLAGS,
}
_EXPERT_FLAGS: Flags = {
    "moe-token-dispatcher-type": "alltoall",
    # Near ties between experts fall either way in bfloat16.
    "moe-router-dtype": "fp32",
}
_FUSED_EXPERT_FLAGS = ("moe-grouped-gemm", "moe-permute-fusion", "moe-router-fusion")
"""Kernels of Transformer Engine's."""


def common_flags(architecture: Architecture, launch: Launch, seq_length: int, dtype: str) -> Flags:
    """Flags of model, machine and layout that scoring and conversion share.

    Args:
        seq_length: tokens of a packed row.
        dtype: ``bfloat16`` or ``float32``.
    """
    return {
        **architecture.flags(launch.tensor_parallel, launch.expert_parallel),
        **machine_flags(architecture, dtype, launch.context_parallel),
        **layout_flags(launch, seq_length, dtype),
        # One row at a time: nothing to gain by interleaved stages.
        "num-virtual-stages-per-pipeline-rank": None,
    }


def machine_flags(architecture: Architecture, dtype: str, context_parallel: int) -> Flags:
    """How this machine computes the model in a type.

    Transformer Engine's attention for padded documents takes 16 bits alone, so float32 goes through
    Megatron's own layers on a GPU too.
    """
    if cpu_adapter.needed():
        machine, fused = _CPU_FLAGS, False
    else:
        fused = dtype != "float32" and engine_installed()
        layers: Flags = {"transformer-impl": "transformer_engine"} if fused else _LOCAL_FLAGS
        machine = {"distributed-backend": "nccl", **layers}
    experts = (
        _EXPERT_FLAGS | dict.fromkeys(_FUSED_EXPERT_FLAGS, fused) if architecture.experts else {}
    )
    if fused and architecture.window and context_parallel > 1:
        # Transformer Engine's ring of keys and values takes no sliding window.
        machine = {**machine, "cp-comm-type": "a2a"}
    # The fused rotary embedding of packed rows knows no factor of cosines and sines.
    rotary = architecture.rotary
    if rotary and rotary.share < 1 and rotary.attention_factor != 1:
        machine = {**machine, "no-rope-fusion": True}
    return {**experts, **machine}


def engine_installed() -> bool:
    """Whether Transformer Engine is; it is not imported, and may not work."""
    return importlib.util.find_spec("transformer_engine") is not None


def layout_flags(launch: Launch, seq_length: int, dtype: str) -> Flags:
    """The layout of the ranks, and of the rows that they work on."""
    return {
        "tensor-model-parallel-size": launch.tensor_parallel,
        "pipeline-model-parallel-size": launch.pipeline_parallel,
        "num-virtual-stages-per-pipeline-rank": (
            launch.virtual_pipeline if launch.virtual_pipeline > 1 else None
        ),
        "decoder-first-pipeline-num-layers": launch.first_stage_layers,
        "decoder-last-pipeline-num-layers": launch.last_stage_layers,
        "context-parallel-size": launch.context_parallel,
        "expert-model-parallel-size": launch.expert_parallel,
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
    """:func:`parse_argv` of flags by name."""
    return parse_argv(to_argv(flags))


def parse_argv(argv: list[str]) -> Namespace:
    """Let Megatron parse and check its flags in this process; without a GPU, adapt it first.

    Args:
        argv: Megatron's flags, and ``--dasd-hf-model`` in place of those of the architecture.

    Raises:
        UserError: a flag contradicts that model, Megatron refuses it, or another project's ``apex``
            is in the way.
    """
    refuse_foreign_apex()
    if cpu_adapter.needed():
        cpu_adapter.install()
    dataset_helpers.skip_build()
    # NVIDIA's container turns TF32 on by an environment variable: float32 is to be float32.
    torch.set_float32_matmul_precision("highest")
    from megatron.training.arguments import parse_and_validate_args

    typed = CommandLine(argv)
    architecture = typed.architecture()
    if architecture:
        half = typed.values.get("bf16") or typed.values.get("fp16")
        context = typed.values.get("context_parallel_size", 1)
        machine = machine_flags(architecture, "bfloat16" if half else "float32", context)
        if any(typed.values.get("moe_aux_loss_coeff", [])):
            # The fused balancing loss takes the number of tokens as int64 alone (2.20), and
            # Megatron's count of those that are no padding is float32 (0.19).
            machine |= {"moe-router-fusion": False}
        flags = machine | typed.architecture_flags(architecture)
        argv = [*to_argv(flags), *argv]
    sys.argv = [sys.argv[0], *argv]
    try:
        args: Namespace = parse_and_validate_args(add_arguments)
    except AssertionError as error:
        condition = traceback.extract_tb(error.__traceback__)[-1].line
        raise UserError(
            f"Megatron does not accept these flags: {one_line(str(error)) or condition}"
        ) from None
    return args


def load_model(flags: Flags, checkpoint: Path | None) -> list[torch.nn.Module]:
    """Start Megatron and build this rank's model chunks, weights from a checkpoint if given.

    The model is in evaluation mode and not wrapped for training.
    """
    load: Flags = {"load": checkpoint, "no-load-optim": True, "no-load-rng": True, "finetune": True}
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


def load_shape(
    architecture: Architecture, dtype: str, flags: Flags | None = None
) -> torch.nn.Module:
    """Start Megatron and build the whole model on the meta device: its shape, without its memory.

    One rank, the local layers, gloo: the same on every machine.
    """
    parse_flags(
        {
            **common_flags(architecture, Launch(), seq_length=1, dtype=dtype),
            **_CPU_FLAGS,
            "no-initialization": True,
            **dict.fromkeys(_FUSED_EXPERT_FLAGS, False),
            **(flags or {}),
        }
    )
    from megatron.training.initialize import initialize_megatron

    from megatron_dasd.models.provider import model_provider

    initialize_megatron()
    with torch.device("meta"):
        return model_provider()
