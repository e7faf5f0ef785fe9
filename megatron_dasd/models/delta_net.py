"""Megatron's gated delta net on any machine: ``fla``'s kernels where they run, torch elsewhere.

Megatron's layer (``ssm.gated_delta_net``) has the projections, their division over tensor-parallel
ranks and the context-parallel exchange of shares of the row for shares of the heads.  It takes the
convolution, the rule and the norm of queries and keys from ``fla`` (flash-linear-attention), which
needs a GPU and 16 bits, and raises where that is not installed.  Here those three names of its
modules are answered by functions that choose by the tensor.
"""

import inspect
from collections.abc import Callable
from copy import copy
from typing import Any

import torch
from megatron.core.ssm.gated_delta_net import GatedDeltaNet, GatedDeltaNetSubmodules, common, gdn
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.spec_utils import ModuleSpec
from torch import Tensor

from megatron_dasd.models import gated_delta
from megatron_dasd.models.layers import StandaloneRMSNorm

_KNOWN = ["self", "hidden_states", "attention_mask", "inference_context", "packed_seq_params"]
"""First parameters of the layer's forward pass, by which a changed layer is noticed."""
_installed: list[str] = []


class DeltaNet(GatedDeltaNet):  # type: ignore[misc]
    """Megatron's layer, with its decay and output norm in float32 in a model of 16 bits too.

    Published Qwen3.5 models store these two so beside bfloat16 (Qwen3.6 stores bfloat16).  A decay
    is the exponential of an exponential: rounded to bfloat16, ``A_log`` of 2.5 is off by up to
    0.8 %, and so is how fast the layer forgets.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for parameter in self._wide():
            parameter.data = parameter.data.float()

    def _wide(self) -> tuple[torch.nn.Parameter, torch.nn.Parameter]:
        return self.A_log, self.out_norm.weight

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "DeltaNet":
        """Moves of the model take these two along; changes of its type do not change theirs."""
        before = [parameter.data for parameter in self._wide()]
        super()._apply(fn, recurse)
        for parameter, data in zip(self._wide(), before, strict=True):
            if parameter.dtype != data.dtype:
                parameter.data = data.to(parameter.device)
        return self


class UncentredRMSNorm(StandaloneRMSNorm):
    """The norm of a gated delta net's output, which scales by its weight in every family."""

    zero_centred = False


class UncentredEngineNorm:
    """Transformer Engine's norm that scales by its weight, also in a model whose others do not.

    Making one gives a norm of its own class: Megatron builds classes, and takes functions as they
    are.
    """

    def __new__(cls, config: Any, hidden_size: int, eps: float) -> Any:
        """Make the norm; ``config`` is Megatron's of the model."""
        from megatron.core.extensions.transformer_engine import TENorm

        config = copy(config)
        config.layernorm_zero_centered_gamma = False
        return TENorm(config=config, hidden_size=hidden_size, eps=eps)


def local_spec() -> ModuleSpec:
    """A gated delta net of Megatron's own projections and our norm."""
    install()
    return ModuleSpec(
        module=DeltaNet,
        submodules=GatedDeltaNetSubmodules(
            in_proj=ColumnParallelLinear, out_norm=UncentredRMSNorm, out_proj=RowParallelLinear
        ),
    )


def install() -> None:
    """Let Megatron's layer compute wherever it is asked to, in this process, for good.

    Raises:
        RuntimeError: Megatron's layer is not the one that this was written for.
    """
    if _installed:
        return
    names = ("causal_conv1d", "chunk_gated_delta_rule")
    if list(inspect.signature(GatedDeltaNet.forward).parameters)[: len(_KNOWN)] != _KNOWN or not (
        all(hasattr(gdn, name) for name in names) and hasattr(common, "l2norm")
    ):
        raise RuntimeError("megatron's GatedDeltaNet is another than known")
    for name in names:
        setattr(gdn, name, _choosing(getattr(gdn, name), getattr(gated_delta, name)))
    common.l2norm = _choosing(common.l2norm, gated_delta.l2norm)
    common.HAVE_FLA = True
    _installed.append(__name__)


def _choosing(kernel: Callable[..., Any] | None, ours: Callable[..., Any]) -> Callable[..., Any]:
    """``fla``'s function for what it takes, else ours, which has its signature."""

    def chosen(*args: Any, **kwargs: Any) -> Any:
        first: Tensor = args[0] if args else kwargs["x"]
        taken = kernel is not None and first.is_cuda and first.element_size() == 2
        return (kernel if kernel is not None and taken else ours)(*args, **kwargs)

    return chosen
