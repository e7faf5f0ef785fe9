import torch

from megatron_dasd.training.megatron_log import drop_absent

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
