"""Logs training where Megatron does: a JSON line a step, and metrics that Megatron lacks.

``pretrain()`` has no callbacks; its module functions ``training_log`` and ``evaluate`` are wrapped,
and the start fails where their signatures are not the known ones.
"""

import inspect
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import SupportsFloat

import torch
from megatron.training import get_args
from megatron.training import training as megatron_training

from megatron_dasd.errors import UserError
from megatron_dasd.progress import Bar
from megatron_dasd.training import dashboards
from megatron_dasd.training.metrics import Value, computed
from megatron_dasd.training.metrics_file import append_line
from megatron_dasd.training.step_recorder import StepRecorder

type _Evaluation = tuple[dict[str, torch.Tensor] | None, object, bool]
"""What Megatron's ``evaluate`` returns: losses by name, what it collected, whether time is up."""

_KNOWN_PARAMETERS = {
    "training_log": ("loss_dict", "total_loss_dict", "learning_rate", "iteration"),
    "evaluate": ("forward_step_func", "data_iterator", "model"),
}


def install(path: Path | None, recorder: StepRecorder | None, bar: Bar | None = None) -> None:
    """Append a line a step to ``path``, and one for each held-out evaluation.

    Args:
        path: None: no such file.
        recorder: gives the facts that metrics are computed from; None: only Megatron's own
            figures are logged.
        bar: moved a step at a time, on a rank that shows the progress.

    Raises:
        RuntimeError: Megatron's functions are not the ones known here.
    """
    for name, known in _KNOWN_PARAMETERS.items():
        parameters = tuple(inspect.signature(getattr(megatron_training, name)).parameters)
        if parameters[: len(known)] != known:
            raise RuntimeError(
                f"megatron.training.{name} has another signature than known: {parameters}"
            )
    megatron_training.training_log = _log_step(megatron_training.training_log, path, recorder, bar)
    megatron_training.evaluate = _log_heldout(megatron_training.evaluate, path)


def _log_step[**P, R](
    training_log: Callable[P, R], path: Path | None, recorder: StepRecorder | None, bar: Bar | None
) -> Callable[P, R]:
    signature = inspect.signature(training_log)
    last = time.monotonic()

    def logged(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal last
        given = signature.bind(*args, **kwargs).arguments
        require_finite(given["grad_norm"], given["iteration"])
        drop_absent(given["loss_dict"])
        writes = _is_last_rank() and bool(given["loss_dict"])
        now = time.monotonic()
        values: dict[str, Value] = {}
        if recorder and (writes or bar):
            values = computed(recorder.step(get_args().consumed_train_samples, now - last))
        if bar:
            bar.advance(1, _note(given["loss_dict"], values))
        # The loss lives on the last pipeline stage; the last rank writes, as Megatron's own log.
        if writes:
            dashboards.write(values, given["iteration"])
            append_line(
                path,
                {
                    "iteration": given["iteration"],
                    **_named(given["loss_dict"]),
                    "grad_norm": float(given["grad_norm"]),
                    "lr": given["learning_rate"],
                    "consumed_samples": get_args().consumed_train_samples,
                    "seconds": round(now - last, 4),
                    **values,
                },
            )
        last = now
        return training_log(*args, **kwargs)

    return logged


def require_finite(grad_norm: SupportsFloat | None, iteration: int) -> None:
    """Stop behind a step whose gradients were no numbers, before its weights are saved.

    Args:
        grad_norm: the same on all ranks; None: it is not computed.

    Raises:
        UserError: it is not finite.
    """
    if grad_norm is not None and not math.isfinite(grad_norm):
        raise UserError(
            f"iteration {iteration}: the norm of the gradients is {float(grad_norm)}, all losses "
            "are finite; lower the lr, the same command goes on from the last checkpoint"
        )


def drop_absent[V: SupportsFloat](losses: dict[str, V]) -> None:
    """Remove the classes that a step had no token of, whose loss is 0 / 0.

    A class whose loss diverged makes the whole loss NaN too, and then stays visible.
    """
    if math.isfinite(losses.get("lm loss", math.nan)):
        for name in [name for name, value in losses.items() if math.isnan(value)]:
            del losses[name]


def _log_heldout[**P](
    evaluate: Callable[P, _Evaluation], path: Path | None
) -> Callable[P, _Evaluation]:
    def logged(*args: P.args, **kwargs: P.kwargs) -> _Evaluation:
        result = evaluate(*args, **kwargs)
        losses = result[0] or {}
        drop_absent(losses)
        if _is_last_rank() and "lm loss" in losses:
            # Megatron counts the current iteration from 0, its log from 1.
            iteration = get_args().curr_iteration + 1
            append_line(path, {"iteration": iteration, **_named(losses, "heldout_")})
        return result

    return logged


def _named(losses: Mapping[str, SupportsFloat], prefix: str = "") -> dict[str, float]:
    """Losses under their names in the file, the overall loss first."""
    rest = {name.replace(" ", "_"): value for name, value in losses.items() if name != "lm loss"}
    given = {"loss": losses["lm loss"], **rest}
    return {f"{prefix}{name}": float(value) for name, value in given.items()}


def _note(losses: Mapping[str, SupportsFloat], values: Mapping[str, Value]) -> str:
    rate = f"{values['tokens_per_second']:,.0f} tokens/s"
    return f"loss {float(losses['lm loss']):.4f}, {rate}" if "lm loss" in losses else rate


def _is_last_rank() -> bool:
    return torch.distributed.get_rank() == torch.distributed.get_world_size() - 1
