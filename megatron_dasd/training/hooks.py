"""Moments of a training run at which other code may act.

``pretrain()`` has no callbacks.  Its module functions ``post_training_step_callbacks`` and
``save_checkpoint_and_time`` are wrapped, in this one place, and the start fails where their
signatures are not the known ones.
"""

import inspect
from collections.abc import Callable, Sequence
from functools import wraps
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch.nn import Module

_KNOWN_PARAMETERS = {
    "post_training_step_callbacks": (
        "model",
        "optimizer",
        "opt_param_scheduler",
        "iteration",
        "prof",
        "num_floating_point_operations_since_last_log_event",
        "nsys_nvtx_context",
    ),
    "save_checkpoint_and_time": (
        "iteration",
        "model",
        "optimizer",
        "opt_param_scheduler",
        "num_floating_point_operations_so_far",
        "checkpointing_context",
        "non_persistent_ckpt",
        "train_data_iterator",
    ),
}


class Hooks:
    """What to do at these moments; by default nothing.  Every rank calls them, in step."""

    def on_step_end(self, iteration: int, model: "Sequence[Module]") -> None:
        """The optimizer has made its step ``iteration``, counted from 1.

        Args:
            model: the model chunks of this rank.
        """

    def before_checkpoint(self, iteration: int) -> None:
        """A checkpoint of this iteration is about to be written."""

    def on_checkpoint(self, iteration: int) -> None:
        """The checkpoint has been written, or with ``--async-save`` is being written."""

    def on_stage_end(self) -> None:
        """Training is over, or stops to resume later; nothing is being written any more."""


def install(hooks: Sequence[Hooks]) -> None:
    """Let Megatron's training loop call the hooks, in their order; all but ``on_stage_end``.

    Raises:
        RuntimeError: Megatron's functions are not the ones known here.
    """
    from megatron.training import training

    for name, known in _KNOWN_PARAMETERS.items():
        found = tuple(inspect.signature(getattr(training, name)).parameters)
        if found != known:
            raise RuntimeError(
                f"megatron.training.{name} has another signature than known: {found}"
            )
    training.post_training_step_callbacks = _after_step(
        training.post_training_step_callbacks, hooks
    )
    training.save_checkpoint_and_time = _around_save(training.save_checkpoint_and_time, hooks)


def _after_step[**P, R](callbacks: Callable[P, R], hooks: Sequence[Hooks]) -> Callable[P, R]:
    signature = inspect.signature(callbacks)

    @wraps(callbacks)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        result = callbacks(*args, **kwargs)
        given = signature.bind(*args, **kwargs).arguments
        for hook in hooks:
            hook.on_step_end(given["iteration"], given["model"])
        return result

    return wrapped


def _around_save[**P, R](save: Callable[P, R], hooks: Sequence[Hooks]) -> Callable[P, R]:
    signature = inspect.signature(save)

    @wraps(save)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        iteration = signature.bind(*args, **kwargs).arguments["iteration"]
        for hook in hooks:
            hook.before_checkpoint(iteration)
        result = save(*args, **kwargs)
        for hook in hooks:
            hook.on_checkpoint(iteration)
        return result

    return wrapped
