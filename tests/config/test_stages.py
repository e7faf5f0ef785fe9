"""Settings of the stage kinds: what they refuse, and what determines a result."""

import json
from typing import Any, get_args

import pytest
from pydantic import TypeAdapter, ValidationError

from megatron_dasd.config.base import Launch, Settings
from megatron_dasd.config.stages import StageSettings
from megatron_dasd.config.training import Train

TRAIN: dict[str, Any] = {"kind": "train", "model": "m", "checkpoint": "c", "data": "d"}
KINDS = get_args(get_args(StageSettings)[0])


def test_the_layout_of_processes_does_not_determine_the_result() -> None:
    one = Train(**TRAIN, seed=1)
    two = Train(**TRAIN, seed=1, launch=Launch(num_ranks=4, tensor_parallel=2, pipeline_parallel=2))
    assert one.identity() == two.identity()
    assert one.identity() != Train(**TRAIN, seed=2).identity()
    assert one.identity() != Train(**TRAIN, seed=1, lr=1e-4).identity()
    assert json.loads(json.dumps(one.identity())) == one.identity()


def test_experts_are_shared_among_the_data_parallel_ranks() -> None:
    launch = Launch(num_ranks=8, tensor_parallel=2, expert_parallel=4)
    assert launch.expert_parallel == 4
    with pytest.raises(ValidationError, match="expert_parallel 3 does not divide the 4 data-"):
        Launch(num_ranks=8, tensor_parallel=2, expert_parallel=3)


@pytest.mark.parametrize("settings", KINDS, ids=lambda settings: settings.__name__)
def test_every_kind_refuses_unknown_settings_and_changes(settings: type[Settings]) -> None:
    assert settings.model_config["extra"] == "forbid"
    assert settings.model_config["frozen"] is True
    assert "kind" in settings.model_fields


def test_the_kind_chooses_the_settings() -> None:
    assert isinstance(TypeAdapter(StageSettings).validate_python(TRAIN), Train)


@pytest.mark.parametrize(
    "change",
    [
        {"epochs": 0},
        {"global_batch_size": 0},
        {"lr": -1e-4},
        {"dtype": "float16"},
        {"lr_decay_style": "stairs"},
        {"warmup_fraction": 1.5},
        {"launch": {"num_ranks": 2, "tensor_parallel": 3}},
        {"launch": {"num_ranks": 4, "tensor_parallel": 2, "expert_parallel": 4}},
        {"launch": {"ranks": 2}},
        {"moe_aux_loss_coeff": -1e-3},
    ],
)
def test_values_out_of_range(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Train(**(TRAIN | change))
