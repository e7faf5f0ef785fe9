"""What a step of training has done: tokens, padding, floating-point operations of the model.

Operations are those of a model's matrix products for the documents' own tokens, forwards and twice
that backwards, as Chowdhery et al. count them (PaLM, arXiv 2204.02311, appendix B), but for two
things: attention is causal, so half of it, and goes by the documents' real lengths.  Recomputation
and padding do not count as work.
"""

from argparse import Namespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from megatron_dasd.data.blend import BlendedDataset
from megatron_dasd.data.packed_dataset import PackedDataset
from megatron_dasd.training.batches import PackOf

PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "B200": 2250e12}
"""Dense bfloat16 operations/s by the GPU's name: NVIDIA's data sheets of the SXM modules."""


def flops(args: Namespace, lengths: npt.NDArray[Any]) -> float:
    """Operations of training on some documents.

        6 (sum_d n_d) (weights that a token meets) + 6 layers (heads x channels) sum_d n_d^2

    Args:
        args: Megatron's; of the architecture.
        lengths: [documents] tokens n_d of each.
    """
    tokens = np.asarray(lengths, dtype=np.float64)
    hidden, heads = args.hidden_size, args.num_attention_heads
    groups = args.num_query_groups if args.group_query_attention else heads
    attention = hidden * (2 * heads + 2 * groups) * args.kv_channels
    if args.num_experts:
        mlp = 3 * hidden * args.moe_ffn_hidden_size * args.moe_router_topk
        mlp += hidden * args.num_experts
    else:
        mlp = 3 * hidden * args.ffn_hidden_size
    weights = args.num_layers * (attention + mlp) + hidden * args.vocab_size
    pairs = args.num_layers * heads * args.kv_channels * float(np.square(tokens).sum())
    return float(6.0 * (float(tokens.sum()) * weights + pairs))


class Throughput:
    """Figures of each step, told from what is trained on alone: no rank has to ask another."""

    def __init__(self, args: Namespace) -> None:
        """Nothing is known before :meth:`begin`."""
        self._args = args
        self._world_size = args.world_size
        self._peak = peak_flops(torch.cuda.get_device_name() if _on_gpu() else "")

    def begin(
        self, data: PackedDataset | BlendedDataset, pack_of: PackOf, first_sample: int
    ) -> None:
        """Training starts at a sample."""
        self._data, self._pack_of, self._sample = data, pack_of, first_sample

    def take(self, consumed_samples: int, seconds: float) -> dict[str, Any]:
        """Figures of the samples up to ``consumed_samples``, which took so long.

        Returns:
            ``tokens_per_second`` of documents, over all ranks; ``padding_share`` of the positions;
            ``tflops_per_rank``: 1e12 operations a second and rank; ``mfu``: as a share of the GPU's
            peak, where that is known.
        """
        packs = [self._pack_of(sample) for sample in range(self._sample, consumed_samples)]
        self._sample = consumed_samples
        lengths = np.concatenate(
            [np.zeros(0, np.int64), *(self._data.lengths(p) for p in packs if p is not None)]
        )
        num_tokens = int(lengths.sum())
        rate = flops(self._args, lengths) / seconds / self._world_size
        figures = {
            "tokens_per_second": round(num_tokens / seconds, 1),
            "padding_share": 1 - num_tokens / (len(packs) * self._data.meta.seq_length),
            "tflops_per_rank": rate / 1e12,
        }
        return figures | ({"mfu": rate / self._peak} if self._peak else {})


def peak_flops(gpu: str) -> float | None:
    """Operations/s of a GPU by its name; None: not known here."""
    return next((peak for name, peak in PEAK_FLOPS.items() if name in gpu), None)


def _on_gpu() -> bool:
    from megatron_dasd.device import cpu_adapter

    return not cpu_adapter.needed()
