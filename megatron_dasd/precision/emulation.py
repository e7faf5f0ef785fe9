"""FP8 training without FP8 hardware: Megatron's linear layers multiply numbers rounded to FP8.

As in Transformer Engine, this covers the linear layers of attention and MLP, including experts, and
leaves out embedding, norms, router, attention itself and the output layer.  Products are summed in
float32, and the collectives around them are Megatron's own.
"""

from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from functools import wraps
from typing import Protocol, cast

import torch
from megatron.core import parallel_state
from megatron.core.fp8_utils import is_first_last_bf16_layer
from megatron.core.tensor_parallel import (
    ColumnParallelLinear,
    RowParallelLinear,
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
)
from torch import Tensor
from torch.distributed import ProcessGroup

from megatron_dasd.device import cpu_adapter
from megatron_dasd.precision import extra_state, requirements
from megatron_dasd.precision.numerics import Numerics
from megatron_dasd.precision.quantisation import Block, Quantised
from megatron_dasd.precision.recipes import precision_of, where_fp8_runs
from megatron_dasd.precision.scaling import (
    Blockwise,
    DelayedHistories,
    Scaling,
    Tensorwise,
    gradient_format,
)
from megatron_dasd.printing import say

ModelProvider = Callable[..., torch.nn.Module]


class DecoderConfig(Protocol):
    """The part of Megatron's ``TransformerConfig`` that is read here."""

    tp_only_amax_red: bool


class DecoderLayer(Protocol):
    """The part of Megatron's ``TransformerLayer`` that is read here."""

    config: DecoderConfig
    layer_number: int

    def modules(self) -> Iterable[torch.nn.Module]:
        """Does what it does in ``torch.nn.Module``."""
        ...

    def register_forward_pre_hook(self, hook: Callable[..., None], *, with_kwargs: bool) -> object:
        """Does what it does in ``torch.nn.Module``."""
        ...


class Decoder(Protocol):
    """The part of Megatron's ``TransformerBlock`` that is used here."""

    config: DecoderConfig
    layers: Sequence[DecoderLayer]

    def register_forward_hook(self, hook: Callable[..., None]) -> object:
        """Does what it does in ``torch.nn.Module``."""
        ...


def with_precision(args: Namespace, provider: ModelProvider, numerics: Numerics) -> ModelProvider:
    """Wrap a model provider so that its models train in the precision of Megatron's ``args``.

    On a GPU, Megatron and Transformer Engine do the work and the provider is returned as it is.
    Without a GPU, FP8 is emulated, and the flags that Megatron would act on are cleared.

    Args:
        numerics: collects statistics of the numbers that are quantised in emulation.

    Raises:
        UserError: ``args`` ask for FP8, and this machine or model does not support it.
    """
    if args.fp8 is None:
        return provider
    requirements.require(args)
    if args.rank == 0:
        say(f"{precision_of(args) or 'FP8'}: {where_fp8_runs()}")
    if not cpu_adapter.needed():
        return provider
    asked = copy(args)
    args.fp8, args.fp8_param_gather = None, False
    return _emulating(provider, asked, numerics)


def _emulating(provider: ModelProvider, args: Namespace, numerics: Numerics) -> ModelProvider:
    @wraps(provider)
    def provide(*positional: object, **named: object) -> torch.nn.Module:
        chunk = provider(*positional, **named)
        emulate(cast(Decoder, chunk.decoder), args, numerics)
        return chunk

    return provide


def emulate(decoder: Decoder, args: Namespace, numerics: Numerics) -> None:
    """Make the linear layers of a model chunk's ``TransformerBlock`` multiply in FP8, in place."""
    layers = [
        module
        for layer in decoder.layers
        if not is_first_last_bf16_layer(layer.config, layer.layer_number - 1)
        for module in layer.modules()
        if isinstance(module, ColumnParallelLinear | RowParallelLinear)
    ]
    form = gradient_format(args)
    scalings: list[Scaling]
    if not layers:
        return  # a pipeline stage that holds only the embedding
    if args.fp8_recipe == "delayed":
        group = parallel_state.get_amax_reduction_group(
            with_context_parallel=True, tp_only_amax_red=decoder.config.tp_only_amax_red
        )
        histories = DelayedHistories(args, form, len(layers), group)
        scalings = [histories.layer(index) for index in range(len(layers))]
        _end_uses(decoder, histories)
    else:
        shared: Scaling = Blockwise(form) if args.fp8_recipe == "blockwise" else Tensorwise(form)
        scalings = [shared] * len(layers)
    for module, scaling in zip(layers, scalings, strict=True):
        is_column = isinstance(module, ColumnParallelLinear)
        module.__class__ = Fp8ColumnParallelLinear if is_column else Fp8RowParallelLinear
        module.scaling, module.numerics = scaling, numerics


def _end_uses(decoder: Decoder, histories: DelayedHistories) -> None:
    """Notify the histories at the end of each micro-batch's forward and backward pass.

    Evaluation does not end a use, as in Transformer Engine: its magnitudes join the next use.
    """

    def end_forward(*_: object) -> None:
        if torch.is_grad_enabled():
            histories.forward.end_use()

    def wait_for_backward(_: object, __: object, named: dict[str, Tensor]) -> None:
        hidden = named["hidden_states"]
        if hidden.requires_grad:
            # The gradient of the first layer's input is known when all other products are done.
            hidden.register_hook(lambda _: histories.backward.end_use())

    decoder.register_forward_hook(end_forward)
    decoder.layers[0].register_forward_pre_hook(wait_for_backward, with_kwargs=True)


class _Fp8Linear(torch.nn.Module):
    """The common part of the column-parallel and the row-parallel layer."""

    scaling: Scaling
    numerics: Numerics

    def _forward_impl(
        self,
        input: Tensor,  # Megatron's name
        weight: Tensor,
        bias: Tensor | None,
        allreduce_dgrad: bool,
        sequence_parallel: bool,
        tp_group: ProcessGroup | None,
        **_: object,
    ) -> Tensor:
        if sequence_parallel:
            input = gather_from_sequence_parallel_region(input, group=tp_group)
        elif allreduce_dgrad:
            input = copy_to_tensor_model_parallel_region(input, group=tp_group)
        output: Tensor = _Product.apply(input, weight, self.scaling, self.numerics)
        return output if bias is None else output + bias

    def get_extra_state(self) -> Tensor | None:
        """Histories of delayed scaling, at the place of Transformer Engine's in checkpoints."""
        return extra_state.pack(self.scaling.state())

    def set_extra_state(self, state: Tensor | None) -> None:
        """Restore a checkpoint's histories."""
        self.scaling.load_state(extra_state.unpack(state))


class Fp8ColumnParallelLinear(_Fp8Linear, ColumnParallelLinear):  # type: ignore[misc]
    """Megatron's column-parallel layer in emulated FP8."""


class Fp8RowParallelLinear(_Fp8Linear, RowParallelLinear):  # type: ignore[misc]
    """Megatron's row-parallel layer in emulated FP8."""


class _Context(Protocol):
    """What autograd passes to both passes, with the attributes that the forward pass adds."""

    saved_tensors: tuple[Tensor, Tensor, Tensor, Tensor]
    needs_input_grad: Sequence[bool]
    blocks: tuple[Block | None, Block | None]
    """Of input and weight."""
    scaling: Scaling
    numerics: Numerics
    dtypes: tuple[torch.dtype, torch.dtype]
    """Of input and weight."""

    def save_for_backward(self, *tensors: Tensor) -> None: ...


class _Product(torch.autograd.Function):
    """``Y = X W^T`` and the two products of its backward pass, all from FP8 operands."""

    @staticmethod
    def forward(
        ctx: _Context, x: Tensor, weight: Tensor, scaling: Scaling, numerics: Numerics
    ) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        quantised_x, quantised_weight = scaling.input(rows), scaling.weight(weight)
        kept, w = quantised_x.over_tokens, quantised_weight
        ctx.save_for_backward(kept.data, kept.scale, w.data, w.scale)
        ctx.blocks = kept.block, w.block
        ctx.scaling, ctx.numerics, ctx.dtypes = scaling, numerics, (x.dtype, weight.dtype)
        dequantised_x, dequantised_w = quantised_x.over_channels.dequantise(), w.dequantise()
        if any(ctx.needs_input_grad):  # not in evaluation
            numerics.note("input", rows, quantised_x.over_channels, dequantised_x)
            numerics.note("weight", weight, w, dequantised_w)
        y = dequantised_x @ dequantised_w.t()
        return y.to(x.dtype).view(*x.shape[:-1], weight.shape[0])

    @staticmethod
    def backward(ctx: _Context, gradient: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        x_data, x_scale, w_data, w_scale = ctx.saved_tensors
        x_block, w_block = ctx.blocks
        x_dtype, w_dtype = ctx.dtypes
        rows = gradient.reshape(-1, gradient.shape[-1])
        quantised = ctx.scaling.gradient(rows)
        w = Quantised(w_data, w_scale, w_block)
        dequantised = quantised.over_channels.dequantise()
        ctx.numerics.note("gradient", rows, quantised.over_channels, dequantised)
        dx = dequantised @ w.dequantise()
        dw = None
        if ctx.needs_input_grad[1]:
            x = Quantised(x_data, x_scale, x_block)
            dw = (quantised.over_tokens.dequantise().t() @ x.dequantise()).to(w_dtype)
        return dx.to(x_dtype).view(*gradient.shape[:-1], dx.shape[-1]), dw, None, None
