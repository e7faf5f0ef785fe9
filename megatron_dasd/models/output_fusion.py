"""Fused accumulation of weight gradients on a GPU machine without apex.

``gradient_accumulation_fusion`` asks three things of a model.  Transformer Engine's layers add
their gradients to ``main_grad`` in their own products; the chunked loss does so too
(``losses.output_layer``).  Megatron's own output layer needs a kernel of apex's for it, and refuses
to be built without that kernel, although it is of no use to the other two.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from megatron.core.tensor_parallel import layers


@contextmanager
def output_layer_without_apex() -> Iterator[None]:
    """Build Megatron's model although the kernel is missing; see :func:`leave_to_autograd`."""
    found = layers._grad_accum_fusion_available
    layers._grad_accum_fusion_available = True
    try:
        yield
    finally:
        layers._grad_accum_fusion_available = found


def leave_to_autograd(model: torch.nn.Module) -> None:
    """Let an output layer that would call the missing kernel hand its gradient to autograd."""
    output_layer = getattr(model, "output_layer", None)
    if output_layer is not None and not layers._grad_accum_fusion_available:
        output_layer.gradient_accumulation_fusion = False
