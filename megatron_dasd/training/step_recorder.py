"""Gathers the facts of each step that metrics are computed from."""

import numpy as np
import torch

from megatron_dasd.device import cpu_adapter
from megatron_dasd.models.architecture import Architecture
from megatron_dasd.models.flops import peak_flops
from megatron_dasd.precision.numerics import Numerics
from megatron_dasd.training.batches import PackOf, RowSource
from megatron_dasd.training.metrics import Step
from megatron_dasd.training.on_policy import OnPolicy


class StepRecorder:
    """Knows which rows are trained on, from one logged step to the next."""

    def __init__(
        self,
        architecture: Architecture,
        num_ranks: int,
        numerics: Numerics | None = None,
        on_policy: OnPolicy | None = None,
    ) -> None:
        """Record nothing before :meth:`begin`."""
        self._architecture, self._num_ranks = architecture, num_ranks
        self._numerics, self._on_policy = numerics, on_policy
        self._peak = None if cpu_adapter.needed() else peak_flops(torch.cuda.get_device_name())

    def begin(self, data: RowSource, pack_of: PackOf, first_sample: int) -> None:
        """Training starts at a sample."""
        self._data, self._pack_of, self._sample = data, pack_of, first_sample

    def step(self, consumed_samples: int, seconds: float) -> Step:
        """The samples from the last call's up to ``consumed_samples``, which took ``seconds``."""
        samples = range(self._sample, consumed_samples)
        self._sample = consumed_samples
        packs = [self._pack_of(sample) for sample in samples]
        lengths = [self._data.lengths(pack) for pack in packs if pack is not None]
        return Step(
            seconds=seconds,
            lengths=np.concatenate([np.zeros(0, np.int64), *lengths]),
            num_positions=len(packs) * self._data.meta.seq_length,
            architecture=self._architecture,
            num_ranks=self._num_ranks,
            peak_flops=self._peak,
            peak_bytes=None if cpu_adapter.needed() else torch.cuda.max_memory_allocated(),
            rounding=self._numerics.take().get("fp8") if self._numerics else None,
            on_policy_ages=self._on_policy.ages(samples) if self._on_policy else None,
        )
