import pytest
import torch

from megatron_dasd.errors import UserError
from megatron_dasd.training.megatron_log import drop_absent, require_finite

NAN = float("nan")


def kept(**losses: float) -> set[str]:
    given = {name.replace("_", " "): torch.tensor(value) for name, value in losses.items()}
    drop_absent(given)
    return set(given)


def test_a_class_without_tokens_is_dropped() -> None:
    assert kept(lm_loss=1.0, teacher_loss=2.0, boosted_loss=NAN) == {"lm loss", "teacher loss"}


def test_a_loss_that_is_no_number_stays_to_be_seen() -> None:
    assert kept(lm_loss=NAN, teacher_loss=NAN) == {"lm loss", "teacher loss"}


def test_nothing_to_log() -> None:
    assert kept() == set()


@pytest.mark.parametrize("norm", [float("nan"), torch.tensor(float("inf"))])
def test_gradients_that_are_no_numbers_end_the_run(norm: float | torch.Tensor) -> None:
    require_finite(1.5, 3)
    require_finite(None, 3)
    told = (
        rf"^iteration 3: the norm of the gradients is {float(norm)}, all losses are finite; lower "
    )
    with pytest.raises(UserError, match=told):
        require_finite(norm, 3)
