"""Settings of the stage kinds: what they refuse, and what determines a result."""

import json
from typing import Any, Literal

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from megatron_dasd.config.base import Engine, Launch, Server, Settings, Stage
from megatron_dasd.config.evaluation import Evaluate
from megatron_dasd.config.execution import Execution
from megatron_dasd.config.stages import StageSettings, stage_kinds
from megatron_dasd.config.teacher import ContinueTeacher, SampleTeacher
from megatron_dasd.config.training import Train

TRAIN: dict[str, Any] = {"kind": "train", "model": "m", "checkpoint": "c", "data": "d"}
KINDS = stage_kinds().values()


def test_the_layout_of_processes_does_not_determine_the_result() -> None:
    one = Train(**TRAIN, seed=1)
    two = Train(**TRAIN, seed=1, launch=Launch(num_ranks=4, tensor_parallel=2, pipeline_parallel=2))
    assert one.identity() == two.identity()
    assert one.identity() == Train(**TRAIN, seed=1, loader="dali").identity()
    assert one.identity() != Train(**TRAIN, seed=2).identity()
    assert one.identity() != Train(**TRAIN, seed=1, lr=1e-4).identity()
    assert json.loads(json.dumps(one.identity())) == one.identity()


def execution_settings(model: type[BaseModel]) -> set[str]:
    return {
        name
        for name, info in model.model_fields.items()
        if any(isinstance(mark, Execution) for mark in info.metadata)
    }


def test_exactly_these_settings_are_no_part_of_a_result() -> None:
    marked = {kind: execution_settings(settings) for kind, settings in stage_kinds().items()}
    assert {kind: names for kind, names in marked.items() if names} == {
        "filter_responses": {"num_workers"},
        "import_responses": {"num_workers"},
        "preprocess_data": {"num_workers"},
        "score_student": {"launch"},
        "score_topk": {"memory_mib"},
        "select_das": {"num_workers"},
        "train": {
            "launch",
            "loader",
            "chunked_loss",
            "export_saves",
            "loss_gradients",
            "loss_slice_mib",
            "keep_checkpoints",
        },
    }
    assert execution_settings(Server) == {
        "urls",
        "service",
        "reload",
        "api_key_env",
        "concurrency",
        "client_processes",
        "deadline_seconds",
        "max_attempts",
        "patience_seconds",
        "probe",
    }
    server = Server(urls=["http://a/v1"])
    sample = SampleTeacher(
        kind="sample_teacher", prompts="p", max_new_tokens=8, engine=Engine(server=server)
    )
    assert set(sample.model_dump()) == set(sample.identity())
    assert set(sample.identity()["engine"]) == {"batch_size", "dtype", "server"}
    assert set(sample.identity()["engine"]["server"]) == {
        "api",
        "model",
        "extra_body",
        "send_seed",
        "rescore_by",
    }


def test_a_kind_is_registered_once_and_with_its_stage() -> None:
    with pytest.raises(
        TypeError, match=r"kind train is registered already, by .*\.training\.Train"
    ):

        class Again(Settings):
            kind: Literal["train"]
            stage = Stage(module="elsewhere")

    with pytest.raises(TypeError, match="Bare: stage kind bare declares no Stage"):

        class Bare(Settings):
            kind: Literal["bare"]

    assert stage_kinds()["train"] is Train
    assert "bare" not in stage_kinds()


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
        {"precision": "fp16"},
        {"megatron": {"fp8-format": "hybrid"}},
        {"megatron": {"bf16": True}},
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


def test_which_servers_are_asked_does_not_determine_the_result() -> None:
    def sample(**server: Any) -> dict[str, Any]:
        given = {"urls": ["http://a:1/v1"], "model": "m"} | server
        return SampleTeacher(
            kind="sample_teacher",
            model="t",
            prompts="p",
            max_new_tokens=8,
            engine=Engine(server=Server(**given)),
        ).identity()

    one = sample()
    same = sample(urls=["http://b:2/v1"], concurrency=3, api_key_env="K", deadline_seconds=1)
    assert one == same
    assert "http" not in json.dumps(one)
    assert one != sample(model="another")
    assert one != sample(extra_body={"top_k": 3})


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"urls": []}, "urls or service must be given"),
        ({"urls": ["a:1/v1"]}, "urls: number 1 is no http"),
        ({"urls": ["http://a/v1", "http://me:secret@a/v1"]}, "urls: number 2 holds a name"),
        ({"urls": ["http://a/v1?key=secret"]}, "urls: number 1 holds a name, password or query"),
        ({"extra_body": {"temperature": 0.3}}, "extra_body: temperature is set by the program"),
    ],
)
def test_settings_of_servers(change: dict[str, Any], line: str) -> None:
    with pytest.raises(ValidationError, match=line) as error:
        Server(**({"urls": ["http://a:1/v1"]} | change))
    assert "secret" not in str(error.value)


def test_a_harmony_prefix_is_continued_as_raw_text() -> None:
    def settings(api: str) -> ContinueTeacher:
        return ContinueTeacher.model_validate(
            {
                "kind": "continue_teacher",
                "model": "t",
                "rollouts": "r",
                "max_new_tokens": 8,
                "thinking": {"format": "harmony"},
                "engine": {"server": {"urls": ["http://a/v1"], "api": api}},
            }
        )

    assert settings("completions").thinking.format == "harmony"
    with pytest.raises(ValidationError, match="use engine.server.api: completions"):
        settings("chat")


def test_servers_run_one_model() -> None:
    engine = Engine(server=Server(urls=["http://a/v1"]))
    with pytest.raises(ValidationError, match="give one in models"):
        Evaluate(
            kind="evaluate",
            prompts="p",
            models={"a": "x", "b": "y"},
            max_new_tokens=1,
            engine=engine,
        )
