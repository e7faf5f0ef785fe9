"""What a step of training has done: tokens, padding, floating-point operations of the model."""

from argparse import Namespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from megatron_dasd.models.flops import PEAK_FLOPS, Products
from megatron_dasd.training.batches import PackOf, RowSource


def flops(args: Namespace, lengths: npt.NDArray[Any]) -> float:
    """Operations of training on some documents; see ``models.flops``.

    Args:
        args: Megatron's; of the architecture.
        lengths: [documents] tokens of each.
    """
    heads = args.num_attention_heads
    groups = args.num_query_groups if args.group_query_attention else heads
    experts = args.num_experts or 0
    products = Products(
        num_layers=args.num_layers,
        hidden_size=args.hidden_size,
        query_channels=heads * args.kv_channels,
        key_channels=groups * args.kv_channels,
        ffn_hidden_size=args.moe_ffn_hidden_size if experts else args.ffn_hidden_size,
        vocab_size=args.vocab_size,
        experts_per_token=args.moe_router_topk if experts else 1,
        num_experts=experts,
    )
    tokens = np.asarray(lengths, dtype=np.float64)
    return products.training_flops(float(tokens.sum()), float(np.square(tokens).sum()))


class Throughput:
    """Figures of each step, told from what is trained on alone: no rank has to ask another."""

    def __init__(self, args: Namespace) -> None:
        """Nothing is known before :meth:`begin`."""
        self._args = args
        self._world_size = args.world_size
        self._peak = peak_flops(torch.cuda.get_device_name() if _on_gpu() else "")

    def begin(self, data: RowSource, pack_of: PackOf, first_sample: int) -> None:
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
