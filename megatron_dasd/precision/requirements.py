"""What FP8 needs of machine, shapes and flags, checked at the start of training."""

from argparse import Namespace
from collections.abc import Iterator

import torch

from megatron_dasd.config.choices import Precision
from megatron_dasd.device import cpu_adapter
from megatron_dasd.errors import UserError
from megatron_dasd.precision.recipes import RECIPES, precision_of

ALIGNMENT = 16
"""FP8 products want rows of 16 bytes, and each dimension is the row of one of the three."""
_ROWS = 8
"""Transformer Engine needs the rows of a rank's tensor to be a multiple of this."""


def require(args: Namespace) -> None:
    """Stop where the FP8 that Megatron's parsed arguments ask for cannot be had.

    Raises:
        UserError: what is missing, and what to do.
    """
    precision = precision_of(args)
    if cpu_adapter.needed():
        problem = shape_problem(args) or emulation_problem(args)
    else:
        problem = shape_problem(args) or machine_problem(precision, _engine_version(), *_gpu())
    if problem:
        raise UserError(f"precision {precision or f'fp8 {args.fp8_recipe}'}: {problem}")


def refusal(precision: Precision) -> str | None:
    """Why this machine cannot train in a precision, whatever the model; None: it can."""
    if precision not in RECIPES or cpu_adapter.needed():
        return None
    return machine_problem(precision, _engine_version(), *_gpu())


def shape_problem(args: Namespace) -> str | None:
    """Why this model, row length and layout cannot be multiplied in FP8; None: they can."""
    for what, size, multiple in _dimensions(args):
        if size % multiple:
            return (
                f"{what} is {size:g}, no multiple of {multiple}; choose another layout or "
                "seq_length, or precision bf16"
            )
    return None


def _dimensions(args: Namespace) -> Iterator[tuple[str, float, int]]:
    """Name, size on one rank, and required multiple of every dimension of a linear layer."""
    tp, heads = args.tensor_model_parallel_size, args.num_attention_heads
    groups = args.num_query_groups if args.group_query_attention else heads
    yield "hidden size", args.hidden_size, ALIGNMENT
    yield "attention width per tensor-parallel rank", heads * args.kv_channels / tp, ALIGNMENT
    gates = heads if args.attention_output_gate else 0
    qkv = (heads + gates + 2 * groups) * args.kv_channels / tp
    yield "width of query, key and value per tensor-parallel rank", qkv, ALIGNMENT
    if args.experimental_attention_variant:
        keys = args.linear_num_key_heads * args.linear_key_head_dim
        values = args.linear_num_value_heads * args.linear_value_head_dim
        projected = (2 * keys + 2 * values + 2 * args.linear_num_value_heads) / tp
        yield "linear attention's projection per tensor-parallel rank", projected, ALIGNMENT
        yield "linear attention's values per tensor-parallel rank", values / tp, ALIGNMENT
    if args.moe_shared_expert_intermediate_size:
        shared = args.moe_shared_expert_intermediate_size / tp
        yield "shared expert's width per tensor-parallel rank", shared, ALIGNMENT
    if args.num_experts is None or args.moe_layer_freq != 1:
        yield "MLP width per tensor-parallel rank", args.ffn_hidden_size / tp, ALIGNMENT
    if args.num_experts is not None:
        expert_tp = args.expert_tensor_parallel_size or tp
        expert = args.moe_ffn_hidden_size / expert_tp
        yield "expert width per expert-tensor-parallel rank", expert, ALIGNMENT
    tokens = args.micro_batch_size * args.seq_length / args.context_parallel_size
    yield "row of tokens per context-parallel rank", tokens, ALIGNMENT
    if args.sequence_parallel:
        yield "row of tokens per sequence-parallel rank", tokens / tp, _ROWS


def emulation_problem(args: Namespace) -> str | None:
    """Why these flags cannot be emulated on the CPU; None: they can."""
    if precision_of(args) is None:
        return f"is not emulated on the CPU; choose one of {', '.join(RECIPES)}"
    if not args.fp8_wgrad:
        return "weight gradients outside FP8 are not emulated on the CPU; leave no-fp8-wgrad out"
    if args.fp8_recipe == "delayed" and args.recompute_granularity is not None:
        return "recomputation is not emulated with delayed scaling; leave it out on the CPU"
    return None


def machine_problem(
    precision: Precision | None,
    engine: tuple[int, ...] | None,
    gpu: str,
    capability: tuple[int, int],
    cuda: tuple[int, int],
) -> str | None:
    """Why this GPU machine cannot train in an FP8 precision; None: it can.

    Args:
        precision: None: a recipe of Megatron's that is not ours, whose needs Transformer Engine
            will tell.
        engine: Transformer Engine's version; None: it does not import.
        gpu: name of the GPU.
        capability: its compute capability.
        cuda: the CUDA that torch was built for.
    """
    if engine is None:
        # Megatron would say nothing and train without FP8.
        return (
            "Transformer Engine is not installed or does not import (tools/doctor.py says why); "
            "docs/gpu.md says where it comes from; or choose precision bf16"
        )
    if precision is None:
        return None
    recipe = RECIPES[precision]
    if engine < recipe.min_engine:
        return (
            f"needs Transformer Engine {_dotted(recipe.min_engine)} or newer, here is "
            f"{_dotted(engine)}; upgrade it"
        )
    if capability < recipe.min_capability:
        return (
            f"needs compute capability {_dotted(recipe.min_capability)} or higher (H100: 9.0), "
            f"{gpu} has {_dotted(capability)}; choose precision bf16 on it"
        )
    if cuda < recipe.min_cuda:
        return (
            f"needs a torch built for CUDA {_dotted(recipe.min_cuda)} or newer, here it is "
            f"{_dotted(cuda)}; upgrade torch and Transformer Engine"
            + (", or choose fp8-tensorwise" if precision == "fp8-blockwise" else "")
        )
    return None


def _engine_version() -> tuple[int, ...] | None:
    from megatron.core.extensions.transformer_engine import HAVE_TE
    from megatron.core.utils import get_te_version

    return get_te_version().release if HAVE_TE else None


def _gpu() -> tuple[str, tuple[int, int], tuple[int, int]]:
    major, minor = (torch.version.cuda or "0.0").split(".")[:2]
    return (
        torch.cuda.get_device_name(),
        torch.cuda.get_device_capability(),
        (int(major), int(minor)),
    )


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
