"""Training metrics, taken where Megatron logs them: a JSON line a step, and what it does not know.

``pretrain()`` has no callbacks; its module functions ``training_log`` and ``evaluate`` are wrapped,
and the start fails loudly where their signatures are not the known ones.
"""

import inspect
import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from megatron.training import get_args
from megatron.training import training as megatron_training

from megatron_dasd.progress import Bar
from megatron_dasd.training import writers

_KNOWN_PARAMETERS = {
    "training_log": ("loss_dict", "total_loss_dict", "learning_rate", "iteration"),
    "evaluate": ("forward_step_func", "data_iterator", "model"),
}


type Figures = Callable[[int, float], dict[str, Any]]
"""Of the steps up to so many consumed samples, which took so many seconds."""


def install(path: Path | None, further: Sequence[Figures], bar: Bar | None = None) -> None:
    """Append a line a step to ``path``, and one for each held-out evaluation.

    Args:
        path: None: no such file.
        further: give more figures, on the rank that writes, for Megatron's own writers too.
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
    megatron_training.training_log = _log_step(megatron_training.training_log, path, further, bar)
    megatron_training.evaluate = _log_heldout(megatron_training.evaluate, path)


def _append(path: Path | None, line: dict[str, Any]) -> None:
    if path is None:
        return
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


def _log_step(
    training_log: Callable[..., Any],
    path: Path | None,
    further: Sequence[Figures],
    bar: Bar | None,
) -> Callable[..., Any]:
    signature = inspect.signature(training_log)
    last = time.monotonic()

    def logged(*args: Any, **kwargs: Any) -> Any:
        nonlocal last
        given = signature.bind(*args, **kwargs).arguments
        drop_absent(given["loss_dict"])
        writes = _is_last_rank() and bool(given["loss_dict"])
        now = time.monotonic()
        if writes or bar:
            figures = _taken(further, get_args().consumed_train_samples, now - last)
        if bar:
            bar.advance(1, _note(given["loss_dict"], figures))
        # The loss lives on the last pipeline stage; the last rank writes, as Megatron's own log.
        if writes:
            writers.write(figures, given["iteration"])
            _append(
                path,
                {
                    "iteration": given["iteration"],
                    **_named(given["loss_dict"]),
                    "grad_norm": float(given["grad_norm"]),
                    "lr": given["learning_rate"],
                    "consumed_samples": get_args().consumed_train_samples,
                    "seconds": round(now - last, 4),
                    **figures,
                },
            )
        last = now
        return training_log(*args, **kwargs)

    return logged


def _taken(further: Sequence[Figures], samples: int, seconds: float) -> dict[str, Any]:
    return {name: value for take in further for name, value in take(samples, seconds).items()}


def drop_absent(losses: dict[str, Any]) -> None:
    """Take out the classes that a step had no token of, whose loss is 0 / 0.

    A loss that is not a number makes the whole one none either, and stays to be seen.
    """
    if math.isfinite(losses.get("lm loss", math.nan)):
        for name in [name for name, value in losses.items() if math.isnan(value)]:
            del losses[name]


def _log_heldout(evaluate: Callable[..., Any], path: Path | None) -> Callable[..., Any]:
    def logged(*args: Any, **kwargs: Any) -> Any:
        result = evaluate(*args, **kwargs)
        losses = result[0] or {}
        drop_absent(losses)
        if _is_last_rank() and "lm loss" in losses:
            # Megatron counts the current iteration from 0, its log from 1.
            iteration = get_args().curr_iteration + 1
            _append(path, {"iteration": iteration, **_named(losses, "heldout_")})
        return result

    return logged


def _named(losses: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """Losses under their names in the file, the whole one first."""
    rest = {name.replace(" ", "_"): value for name, value in losses.items() if name != "lm loss"}
    given = {"loss": losses["lm loss"], **rest}
    return {f"{prefix}{name}": float(value) for name, value in given.items()}


def _note(losses: dict[str, Any], figures: dict[str, Any]) -> str:
    rate = f"{figures['tokens_per_second']:,.0f} tokens/s"
    return f"loss {float(losses['lm loss']):.4f}, {rate}" if "lm loss" in losses else rate


def _is_last_rank() -> bool:
    return torch.distributed.get_rank() == torch.distributed.get_world_size() - 1
