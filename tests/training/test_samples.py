"""How many rows a training takes of its data."""

import pytest

from megatron_dasd.config.training import Train
from megatron_dasd.training.stage import samples_of


@pytest.mark.parametrize(
    ("epochs", "max_steps", "expected"),
    [(2, None, 20), (0.25, None, 3), (2, 4, 12), (2, 100, 20), (1, 1, 3)],
)
def test_epochs_end_at_the_most_steps(epochs: float, max_steps: int | None, expected: int) -> None:
    settings = Train(
        kind="train",
        model="m",
        checkpoint="c",
        data="d",
        epochs=epochs,
        max_steps=max_steps,
        global_batch_size=3,
    )
    assert samples_of(settings, 10) == expected
