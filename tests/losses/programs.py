"""Programs of the losses' tests, a rank each, on tensor-parallel ranks over gloo."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_dasd.device import cpu_adapter
from megatron_dasd.losses import slices
from tests.losses.dense import problem, teacher, weighted

SHAPE = (16, 8, 101)
PADDED = 128
BATCH = 2
FACTORS = torch.arange(SHAPE[0]).remainder(5) / 2
"""``[T]`` weights of the token losses, some of them 0."""


def main(payload: dict[str, Any]) -> None:
    """Losses of one output layer and their gradients, what all ranks have put together."""
    cpu_adapter.install()
    slices.CPU_BYTES = payload.get("slice_bytes", slices.CPU_BYTES)
    from megatron.core import mpu

    torch.distributed.init_process_group("gloo")
    mpu.initialize_model_parallel(torch.distributed.get_world_size())
    layer, weight = output_layer(payload)
    hidden, _, ids = problem(*SHAPE, payload["num_chosen"])
    rank, size = mpu.get_tensor_model_parallel_rank(), mpu.get_tensor_model_parallel_world_size()
    own = hidden.float().view(-1, BATCH, SHAPE[1])  # [seq, batch, hidden]
    if payload["sequence_parallel"]:
        own = own.chunk(size)[rank]
    own = own.clone().requires_grad_()
    output_weight = weight if payload["tied"] else None
    if payload.get("summed"):
        results = summed(layer, output_weight, own, ids)
    elif payload.get("divergence"):
        results = distances(payload["divergence"], layer, output_weight, own)
    else:
        results = losses(layer, output_weight, own, ids)
    (results[0] if payload.get("summed") else weighted(*results)).backward()
    assert own.grad is not None
    grads = {"weight": gathered(weight.grad), "hidden": own.grad}  # type: ignore[arg-type]
    if payload["sequence_parallel"]:
        grads["hidden"] = gathered(own.grad)
    if rank == 0:
        names = ("logprobs", "rest")
        torch.save({**dict(zip(names, results, strict=True)), **grads}, payload["out"])


def output_layer(payload: dict[str, Any]) -> tuple[Any, torch.nn.Parameter]:
    """Megatron's layer with this rank's rows of the padded weight."""
    from megatron.core import mpu
    from megatron.core.tensor_parallel.layers import ColumnParallelLinear
    from megatron.core.transformer.transformer_config import TransformerConfig

    size = mpu.get_tensor_model_parallel_world_size()
    config = TransformerConfig(
        num_layers=1,
        hidden_size=SHAPE[1],
        num_attention_heads=8,
        use_cpu_initialization=True,
        tensor_model_parallel_size=size,
        sequence_parallel=payload["sequence_parallel"],
    )
    layer = ColumnParallelLinear(
        SHAPE[1],
        PADDED,
        config=config,
        init_method=torch.nn.init.zeros_,
        bias=False,
        skip_weight_param_allocation=payload["tied"],
    )
    padded = torch.full((PADDED, SHAPE[1]), 50.0)
    padded[: SHAPE[2]] = problem(*SHAPE, 1)[1]
    own = torch.nn.Parameter(padded.chunk(size)[mpu.get_tensor_model_parallel_rank()].clone())
    if not payload["tied"]:
        layer.weight = own
    return layer, own


def losses(
    layer: Any, output_weight: Tensor | None, hidden: Tensor, ids: Tensor
) -> tuple[Tensor, Tensor]:
    """With one id a token as the model does, with several by the function below it."""
    from megatron_dasd.losses.output_layer import output_logprobs, token_losses

    if ids.shape[1] > 1:
        return output_logprobs(hidden, layer, output_weight, ids, SHAPE[2])
    losses = token_losses(
        vocab_size=SHAPE[2],
        hidden_states=hidden,
        output_layer=layer,
        output_weight=output_weight,
        labels=ids.view(-1, BATCH).t(),
        scale_logits=lambda x: x,
        context=None,
    )
    logprobs = -losses.t().reshape(-1, 1)
    return logprobs, torch.zeros_like(logprobs[:, 0])


def summed(
    layer: Any, output_weight: Tensor | None, hidden: Tensor, ids: Tensor
) -> tuple[Tensor, Tensor]:
    """The weighted sum, and the losses ``[T]``."""
    from megatron_dasd.losses.output_layer import summed_loss

    total, losses = summed_loss(
        vocab_size=SHAPE[2],
        factors=FACTORS.view(-1, BATCH).t(),
        hidden_states=hidden,
        output_layer=layer,
        output_weight=output_weight,
        labels=ids.view(-1, BATCH).t(),
        scale_logits=lambda x: x,
        context=None,
    )
    return total, losses.t().reshape(-1)


def distances(
    name: Any, layer: Any, output_weight: Tensor | None, hidden: Tensor
) -> tuple[Tensor, Tensor]:
    """Cross-entropy ``[T, 1]`` and divergence ``[T]``."""
    from megatron_dasd.losses.distillation import TeacherTop, token_distances

    ids, logprobs, labels = teacher(*SHAPE)
    top = (x.view(-1, BATCH, x.shape[1]).transpose(0, 1) for x in (ids, logprobs.float()))
    result = token_distances(
        vocab_size=SHAPE[2],
        name=name,
        beta=0.3,
        teacher=TeacherTop(*top),
        hidden_states=hidden,
        output_layer=layer,
        output_weight=output_weight,
        labels=labels.view(-1, BATCH).t(),
        scale_logits=lambda x: x,
    )
    cross_entropy, divergence = (x.t().flatten() for x in result[:2])
    return cross_entropy.unsqueeze(1), divergence


def gathered(own: Tensor) -> Tensor:
    """The ranks' parts one after another."""
    parts = [torch.empty_like(own) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(parts, own.contiguous())
    return torch.cat(parts)


def result(path: Path) -> dict[str, Tensor]:
    """What the program saved."""
    tensors: dict[str, Tensor] = torch.load(path, weights_only=True)
    return tensors
