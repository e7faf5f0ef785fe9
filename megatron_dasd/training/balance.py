"""What the losses of an expert router weigh: the coefficient alone, whatever a step's rows are.

Megatron multiplies a router's loss by the tokens of its row, adds it to the gradient of the summed
cross-entropy, and divides the whole by what the cross-entropy is averaged over.  Its weight then
is their ratio, and changes with the mask, the padding and the normalisation.  Here the ratio is
cancelled, so that a step of rows r with n_r tokens of documents each adds

    sum_r n_r L_r / sum_r n_r        L_r: coefficient x loss of the row's documents

to its loss: the mean over tokens, as the z-loss of a token counts once too.
"""

import inspect
from collections.abc import Callable
from functools import partial, wraps
from typing import TYPE_CHECKING

import torch
from megatron.core.transformer.moe import router
from torch import Tensor

from megatron_dasd.config.choices import Normalisation
from megatron_dasd.training.batches import PackOf, RowSource

if TYPE_CHECKING:
    from argparse import Namespace

    from megatron.core.models.gpt import GPTModel
    from megatron.core.transformer import TransformerConfig

_COUNT = "get_tokens_per_expert_and_token_count"
_KNOWN_PARAMETERS = ("routing_map", "reduce_group", "topk", "with_padding_mask")


class Balance:
    """The factor that a router's losses need in each step, from the step's rows alone.

    Every rank comes to the same factor without asking another.
    """

    def __init__(self, args: "Namespace", normalise_by: Normalisation) -> None:
        """Nothing is known before :meth:`begin`."""
        self._args, self._normalise_by = args, normalise_by
        self._newest: tuple[int, float] = (-1, 1.0)

    def begin(self, data: RowSource, pack_of: PackOf) -> None:
        """Training starts on these rows."""
        self._data, self._pack_of = data, pack_of

    @classmethod
    def from_args(cls, args: "Namespace", normalise_by: Normalisation) -> "Balance | None":
        """The factor of a model's router; None: it has no experts.

        Raises:
            RuntimeError: Megatron's function is not the one known here.
        """
        if not args.num_experts:
            return None
        _install()
        return cls(args, normalise_by)

    def attached(self, provider: Callable[..., "GPTModel"]) -> Callable[..., "GPTModel"]:
        """A provider of models whose router's losses Megatron's schedules scale by the factor."""

        @wraps(provider)
        def provide(*args: object, **kwargs: object) -> "GPTModel":
            model = provider(*args, **kwargs)
            model.config.moe_grad_scale_func = partial(self._scale, model.config)
            return model

        return provide

    def _scale(self, config: "TransformerConfig") -> Tensor:
        one = torch.ones(())
        scaled = config.grad_scale_func(one) if config.grad_scale_func else one
        return torch.as_tensor(scaled) * self.factor()

    def factor(self) -> float:
        """What the cross-entropy of this step is averaged over, for each token of its documents."""
        first = self._args.consumed_train_samples
        if not torch.is_grad_enabled():  # evaluation: there are no gradients to scale
            return 1.0
        if self._newest[0] != first:
            from megatron.core.num_microbatches_calculator import get_current_global_batch_size

            # a batch may grow in the course of a training
            samples = range(first, first + get_current_global_batch_size())
            self._newest = (first, self._ratio([self._pack_of(sample) for sample in samples]))
        return self._newest[1]

    def _ratio(self, packs: list[int | None]) -> float:
        tokens = divisor = 0
        for pack in packs:
            if pack is not None:
                tokens += int(self._data.lengths(pack).sum())
                counted = self._data.loss_counts(pack)
                divisor += counted.tokens if self._normalise_by == "token" else counted.sequences
        # Megatron divides by at least 1 too
        return max(divisor, 1) / max(tokens, 1)


def _install() -> None:
    """Let a router's loss be multiplied by the tokens of the whole row on each rank.

    Megatron takes those of the rank's own share, times the number of ranks.  Where padding lies
    unevenly, the loss of a row would weigh otherwise under every layout.

    Raises:
        RuntimeError: Megatron's function is not the one known here.
    """
    count = getattr(router, _COUNT)
    found = tuple(inspect.signature(count).parameters)
    if found != _KNOWN_PARAMETERS:
        raise RuntimeError(f"megatron's {_COUNT} has another signature than known: {found}")
    setattr(router, _COUNT, _of_the_row(count))


def _of_the_row[**P](
    count: Callable[P, tuple[Tensor, Tensor, Tensor]],
) -> Callable[P, tuple[Tensor, Tensor, Tensor]]:
    signature = inspect.signature(count)

    @wraps(count)
    def counted(*args: P.args, **kwargs: P.kwargs) -> tuple[Tensor, Tensor, Tensor]:
        by_expert, _, of_the_row = count(*args, **kwargs)
        group = signature.bind(*args, **kwargs).arguments["reduce_group"]
        # a row of nothing but padding: 0 / 0 otherwise, in the gradients too
        return by_expert, of_the_row / group.size(), of_the_row.clamp(min=1)

    return counted
