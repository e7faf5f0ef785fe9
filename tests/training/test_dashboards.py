"""Metrics as the scalars that TensorBoard and W&B take."""

import pytest

from megatron_dasd.training import dashboards


def test_a_metric_of_several_numbers_is_a_scalar_each(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[str, float, int]] = []

    class Board:
        def add_scalar(self, name: str, value: float, step: int) -> None:
            sent.append((name, value, step))

    monkeypatch.setattr("megatron.training.get_tensorboard_writer", lambda: Board())
    monkeypatch.setattr("megatron.training.get_wandb_writer", lambda: None)
    dashboards.write({"mfu": 0.4, "fp8": {"input": {"saturated": 0.0, "noise": 0.25}}}, 7)
    assert sent == [("mfu", 0.4, 7), ("fp8/input/saturated", 0.0, 7), ("fp8/input/noise", 0.25, 7)]
