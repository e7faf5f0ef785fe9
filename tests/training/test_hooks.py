"""When hooks are called, and what is known of Megatron's functions that call them."""

from typing import Any

import pytest
from megatron.training import training

from megatron_dasd.training.hooks import Hooks, install

Calls = list[tuple[str, int]]


class Recorder(Hooks):
    def __init__(self, calls: Calls, name: str) -> None:
        self._calls, self._name = calls, name

    def on_step_end(self, iteration: int, model: Any) -> None:
        self._calls.append((f"{self._name} step of {model}", iteration))

    def before_checkpoint(self, iteration: int) -> None:
        self._calls.append((f"{self._name} before", iteration))

    def on_checkpoint(self, iteration: int) -> None:
        self._calls.append((f"{self._name} after", iteration))


def test_hooks_are_called_around_what_megatron_does(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: Calls = []

    def post_training_step_callbacks(
        model: Any,
        optimizer: Any,
        opt_param_scheduler: Any,
        iteration: int,
        prof: Any,
        num_floating_point_operations_since_last_log_event: float,
        nsys_nvtx_context: Any = None,
    ) -> float:
        calls.append(("megatron step", iteration))
        return num_floating_point_operations_since_last_log_event

    def save_checkpoint_and_time(
        iteration: int,
        model: Any,
        optimizer: Any,
        opt_param_scheduler: Any,
        num_floating_point_operations_so_far: float,
        checkpointing_context: Any,
        non_persistent_ckpt: bool = False,
        train_data_iterator: Any = None,
    ) -> None:
        calls.append(("megatron saves", iteration))

    for function in (post_training_step_callbacks, save_checkpoint_and_time):
        monkeypatch.setattr(training, function.__name__, function)
    install([Recorder(calls, "a"), Recorder(calls, "b")])
    assert training.post_training_step_callbacks("m", None, None, 7, None, 1.5, None) == 1.5
    training.save_checkpoint_and_time(8, None, None, None, 0.0, None, train_data_iterator=None)
    assert calls == [
        ("megatron step", 7),
        ("a step of m", 7),
        ("b step of m", 7),
        ("a before", 8),
        ("b before", 8),
        ("megatron saves", 8),
        ("a after", 8),
        ("b after", 8),
    ]


@pytest.mark.parametrize("name", ["post_training_step_callbacks", "save_checkpoint_and_time"])
def test_another_signature_stops_the_start(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, name, lambda model, step: None)
    with pytest.raises(RuntimeError, match=f"{name} has another signature than known: .*step"):
        install([])


def test_the_installed_megatron_is_the_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("post_training_step_callbacks", "save_checkpoint_and_time"):
        monkeypatch.setattr(training, name, getattr(training, name))  # put back afterwards
    install([])
