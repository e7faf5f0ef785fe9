"""The recipe ``dasd``: what each part of it adds, how stages are laid over it, and mistakes."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from megatron_dasd.config.pipeline import Pipeline, load_pipeline
from megatron_dasd.config.recipes import RECIPES
from megatron_dasd.config.recipes.dasd import fields
from megatron_dasd.errors import UserError
from megatron_dasd.pipeline import cli

DOC = Path(__file__).parents[3] / "docs" / "recipes.md"
SMALL: dict[str, Any] = {
    "name": "small",
    "run_dir": "run",
    "recipe": "dasd",
    "teacher": {"model": "t"},
    "student": {"model": "s"},
    "prompts": {"files": ["p.jsonl"]},
    "max_new_tokens": 8,
    "seq_length": 64,
    "training": {"lr": 1e-3, "min_lr": 1e-4},
}
DATA = ["student_checkpoint", "prompts", "sample", "filter", "score", "select"]
BY_TEMPERATURE = ["data_low", "data_high", "stage1", "stage2", "stage2_hf"]
MIXED = ["rollouts", "continuations", "filter_mixed", "data_mixed", "stage3", "stage3_hf"]
Load = Callable[..., Pipeline]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Load the small recipe with further fields; a field that is ``...`` is left out."""
    for name in ("t", "s", "r", "p.jsonl"):
        (tmp_path / name).touch()

    def load(*overrides: str, **more: Any) -> Pipeline:
        given = {key: value for key, value in (SMALL | more).items() if value is not ...}
        path = tmp_path / "pipeline.yaml"
        path.write_text(yaml.safe_dump(given, sort_keys=False))
        return load_pipeline(path, overrides=list(overrides))

    return load


def said(load: Load, *overrides: str, **more: Any) -> str:
    """What is said about a mistake, without the file's name."""
    with pytest.raises(UserError) as caught:
        load(*overrides, **more)
    message = str(caught.value)
    assert "\n" not in message
    return re.sub(r"^/\S*/pipeline.yaml: ", "", message)


def settings(pipeline: Pipeline, stage: str) -> dict[str, Any]:
    found = pipeline.stages[stage].model_dump(mode="json", exclude_defaults=True)
    return {name: value for name, value in found.items() if name not in ("kind", "seed")}


# -- what each part adds ---------------------------------------------------------------------------


def test_the_whole_method(load: Load) -> None:
    pipeline = load()
    assert list(pipeline.stages) == [*DATA, *BY_TEMPERATURE, *MIXED, "verify"]
    assert settings(pipeline, "sample") == {"model": "t", "prompts": "prompts", "max_new_tokens": 8}
    assert settings(pipeline, "data_high") == {
        "model": "s",
        "responses": "select",
        "temperature": 1.0,
        "seq_length": 64,
    }
    train = {"model": "s", "lr": 1e-3, "min_lr": 1e-4}
    assert settings(pipeline, "stage1") == train | {
        "checkpoint": "student_checkpoint",
        "data": "data_low",
    }
    assert settings(pipeline, "stage2") == train | {"checkpoint": "stage1", "data": "data_high"}
    assert settings(pipeline, "stage3") == train | {
        "checkpoint": "stage2",
        "data": "data_mixed",
        "epochs": 1.0,
        "lr": 1e-4,  # where stage 2 ends
        "lr_decay_style": "constant",
    }


def test_one_temperature_is_one_training_stage(load: Load) -> None:
    pipeline = load(temperatures=[0.8])
    expected = [*DATA, "data_low", "stage1", "stage1_hf", *MIXED, "verify"]
    assert list(pipeline.stages) == expected
    assert settings(pipeline, "sample")["temperatures"] == [0.8]
    assert settings(pipeline, "data_low")["temperature"] == 0.8
    assert settings(pipeline, "rollouts")["model"] == "stage1_hf"
    assert settings(pipeline, "stage3")["checkpoint"] == "stage1"


def test_without_stage_3(load: Load) -> None:
    pipeline = load(mixed_policy=None)
    assert list(pipeline.stages) == [*DATA, *BY_TEMPERATURE, "verify"]
    assert settings(pipeline, "verify") == {
        "model": "stage2_hf",
        "checkpoint": "stage2",
        "responses": "filter",
    }


def test_responses_that_were_selected_elsewhere(load: Load) -> None:
    pipeline = load(prompts=..., responses="r")
    expected = ["student_checkpoint", *BY_TEMPERATURE, *MIXED, "verify"]
    assert list(pipeline.stages) == expected
    for stage in ("data_low", "rollouts", "verify"):
        assert settings(pipeline, stage)["responses"] == "r"
    assert settings(pipeline, "data_mixed")["mix"] == "r"
    alone = load(teacher=..., prompts=..., responses="r", mixed_policy=None, max_new_tokens=...)
    assert list(alone.stages) == ["student_checkpoint", *BY_TEMPERATURE, "verify"]


def test_figures_of_every_student(load: Load) -> None:
    pipeline = load(figures={"title": "x"})
    training = ["data_low", "data_high", "stage1", "stage2"]
    scores = ["score_stage1", "score_stage2", "stage2_hf"]
    stage3 = [*MIXED[:-1], "score_stage3", "stage3_hf"]
    exposure = ["heldout_rollouts", "heldout_continuations", "filter_heldout"]
    exposure += ["exposure_stage2", "exposure_stage3"]
    results = ["verify", "evaluate", "report"]
    expected = [*DATA, *training, *scores, *stage3, *exposure, *results]
    assert list(pipeline.stages) == expected
    assert settings(pipeline, "evaluate")["models"] == {"before": "s", "stage3": "stage3_hf"}
    report = settings(pipeline, "report")
    assert report["heldout_scores"]["before"] == "score"
    assert report["exposure_scores"] == {"stage2": "exposure_stage2", "stage3": "exposure_stage3"}
    drawn = settings(pipeline, "heldout_rollouts")
    assert (drawn["num_rollouts"], drawn["cap_ratio"], drawn["split"]) == (3, 0.8, "heldout")


def test_examples_for_selection_are_in_no_figure(load: Load) -> None:
    pipeline = load(figures={"title": "x"}, scoring={"few_shot": "p.jsonl", "batch_tokens": 9})
    assert settings(pipeline, "score")["few_shot"] == "p.jsonl"
    assert settings(pipeline, "score")["split"] == "train"
    assert settings(pipeline, "report")["heldout_scores"]["before"] == "score_before"
    for stage in ("score_before", "score_stage1", "exposure_stage3"):
        assert "few_shot" not in settings(pipeline, stage)
        assert settings(pipeline, stage)["batch_tokens"] == 9


def test_what_fits_a_training_row_can_be_scored(load: Load) -> None:
    scores = [stage for stage in load().stages.values() if stage.kind == "score_student"]
    assert {score.model_dump()["batch_tokens"] for score in scores} == {SMALL["seq_length"]}
    given = load(scoring={"batch_tokens": 32}).stages["score"]
    assert given.model_dump()["batch_tokens"] == 32


def test_only_some_figures(load: Load) -> None:
    chosen = {"title": "x", "evaluate": ["stage1"], "exposure": None}
    pipeline = load(figures=chosen, mixed_policy=None)
    assert settings(pipeline, "stage1_hf")["checkpoint"] == "stage1"
    assert settings(pipeline, "evaluate")["models"] == {"stage1": "stage1_hf"}
    assert "heldout_rollouts" not in pipeline.stages
    none = load(figures={"title": "x", "evaluate": []})
    assert "evaluate" not in none.stages
    assert "evaluate" not in settings(none, "report")


def test_exposure_bias_of_a_run_without_stage_3(load: Load) -> None:
    pipeline = load(figures={"title": "x"}, mixed_policy=None)
    assert settings(pipeline, "report")["exposure_scores"] == {"stage2": "exposure_stage2"}
    assert settings(pipeline, "report")["export"] == "stage2_hf"


def test_the_engines_of_teacher_and_student(load: Load) -> None:
    asked = {"server": {"urls": ["http://n:1/v1"], "api": "chat"}}
    pipeline = load(teacher={"engine": asked}, engine={"batch_size": 7}, figures={"title": "x"})
    for stage in ("sample", "continuations", "heldout_continuations"):
        assert "model" not in settings(pipeline, stage)
        assert settings(pipeline, stage)["engine"]["server"]["api"] == "chat"
    for stage in ("rollouts", "heldout_rollouts", "evaluate"):
        assert settings(pipeline, stage)["engine"] == {"batch_size": 7}
    own = {"model": "s", "engine": {"batch_size": 5}}
    for_rollouts = {"rollouts": {"engine": {"batch_size": 3}}}
    pipeline = load(student=own, mixed_policy=for_rollouts, figures={"title": "x"})
    assert settings(pipeline, "rollouts")["engine"] == {"batch_size": 3}
    assert settings(pipeline, "heldout_rollouts")["engine"] == {"batch_size": 5}


def test_rows_made_while_training_runs(load: Load) -> None:
    live = {"every": 3, "share": 0.5, "rollouts": {"max_prompts": 4}, "training": {"epochs": 2}}
    pipeline = load(live=live, mixed_policy=None)
    assert list(pipeline.stages)[-2:] == ["verify", "stage3_live"]
    given = settings(pipeline, "stage3_live")
    assert (given["checkpoint"], given["data"], given["lr"]) == ("stage2", "data_high", 1e-4)
    assert given["epochs"] == 2
    assert (given["on_policy"]["every"], given["on_policy"]["share"]) == (3, 0.5)
    inside = given["on_policy"]["stages"]
    assert list(inside) == ["rollouts", "continuations", "filter", "data"]
    assert inside["rollouts"]["model"] == "weights"
    assert inside["filter"]["responses"] == ["continuations"]


def test_what_is_not_given_is_left_to_the_defaults_of_the_stage(load: Load) -> None:
    pipeline = load()
    assert "thinking" not in pipeline.stages["filter"].model_fields_set
    assert pipeline.stages["select"].model_fields_set == {"kind", "responses", "seed"}


def test_plain_answers_are_filtered_as_they_are(load: Load) -> None:
    figures: dict[str, Any] = {"title": "x", "exposure": None, "evaluate": []}
    pipeline = load(plain_answers=True, mixed_policy=None, figures=figures)
    assert settings(pipeline, "filter")["thinking"] is None
    assert not {"rollouts", "continuations", "evaluate"} & set(pipeline.stages)
    assert "report" in pipeline.stages


# -- stages laid over it ---------------------------------------------------------------------------


def test_a_setting_of_a_stage_is_laid_over(load: Load) -> None:
    given = load(
        training={"launch": {"num_ranks": 4, "tensor_parallel": 2}},
        stages={"stage2": {"launch": {"tensor_parallel": 1}}},
    )
    assert settings(given, "stage1")["launch"] == {"num_ranks": 4, "tensor_parallel": 2}
    assert settings(given, "stage2")["launch"] == {"num_ranks": 4}


def test_a_stage_is_added(load: Load) -> None:
    more = {"kind": "export_hf", "model": "s", "checkpoint": "stage1"}
    pipeline = load(stages={"early_hf": more})
    assert pipeline.upstream("early_hf") == ["stage1"]


def test_a_stage_is_left_out(load: Load) -> None:
    assert "verify" not in load(stages={"verify": None}).stages
    assert said(load, stages={"score": None}) == (
        "stages.select reads score, which is left out; leave select out too, or name another input"
    )
    assert said(load, stages={"scores": None}) == (
        "stages.scores: there is no such stage to leave out"
    )


def test_another_stage_takes_the_place_of_one(load: Load) -> None:
    other = {"kind": "import_responses", "format": "messages", "files": ["r"], "temperature": 1.0}
    stages = {"sample": None, "imported": other, "filter": {"responses": ["imported"]}}
    pipeline = load(stages=stages)
    assert pipeline.upstream("filter") == ["imported"]
    assert list(pipeline.stages).index("imported") < list(pipeline.stages).index("filter")


def test_a_path_is_not_taken_for_a_stage_that_is_left_out(load: Load, tmp_path: Path) -> None:
    (tmp_path / "score").touch()
    assert said(load, stages={"score": None}).startswith("stages.select reads score, which is left")


def test_overrides_of_fields_and_of_stages(load: Load) -> None:
    pipeline = load(
        "recipe.temperatures=[0.5, 0.9]",
        "recipe.training.lr=0.5",
        "stage2.lr=0.25",
        "stage2.epochs=3",
    )
    assert settings(pipeline, "data_high")["temperature"] == 0.9
    assert [settings(pipeline, f"stage{n}")["lr"] for n in (1, 2, 3)] == [0.5, 0.25, 1e-4]
    assert "rollouts" not in load("recipe.mixed_policy=null").stages
    assert said(load, "recipe.seq=1") == "recipe dasd: seq: no such setting"
    assert said(load, "recipe.name=x") == "recipe dasd: name: no such setting"
    assert said(load, "stage4.lr=1") == "--set stage4.lr=1: no stage stage4"
    assert said(load, "recipe.seq_length.x=1") == (
        "--set recipe.seq_length.x=1: seq_length has no settings of its own"
    )


def test_a_file_laid_over_a_recipe(load: Load, tmp_path: Path) -> None:
    early = {"kind": "export_hf", "model": "s", "checkpoint": "stage1"}
    load(stages={"verify": {"num_tokens": 7}, "early_hf": early})
    above = tmp_path / "above.yaml"
    above.write_text(
        "extends: pipeline.yaml\ntraining: {epochs: 2}\nmixed_policy: null\n"
        "stages: {verify: {tolerance: 0.5}, early_hf: null}\n"
    )
    pipeline = load_pipeline(above)
    assert list(pipeline.stages) == [*DATA, *BY_TEMPERATURE, "verify"]
    assert settings(pipeline, "stage2") | {"epochs": 2.0, "lr": 1e-3} == settings(
        pipeline, "stage2"
    )
    assert settings(pipeline, "verify")["num_tokens"] == 7
    assert settings(pipeline, "verify")["tolerance"] == 0.5


def test_anchors(load: Load, tmp_path: Path) -> None:
    path = tmp_path / "anchors.yaml"
    text = yaml.safe_dump({k: v for k, v in SMALL.items() if k != "training"})
    text += "training: {launch: &layout {num_ranks: 2, tensor_parallel: 2}}\n"
    path.write_text(text + "scoring: {launch: *layout, batch_tokens: 5}\n")
    pipeline = load_pipeline(path, overrides=["stage1.launch.tensor_parallel=1"])
    assert settings(pipeline, "stage1")["launch"] == {"num_ranks": 2}
    for stage in ("score", "stage2", "stage3"):
        assert settings(pipeline, stage)["launch"] == {"num_ranks": 2, "tensor_parallel": 2}


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"recipe": "dads"}, "recipe: there is no recipe dads (known: dasd)"),
        ({"recipe": ["dasd"]}, "recipe: there is no recipe ['dasd'] (known: dasd)"),
        ({"temperature": 1.0}, "recipe dasd: temperature: no such setting"),
        ({"seq_length": ...}, "recipe dasd: seq_length: must be given"),
        ({"student": {}}, "recipe dasd: student: give model or prune"),
        ({"teacher": {}}, "recipe dasd: teacher: give model, gguf or random"),
        (
            {"teacher": {"model": "t", "gguf": {"package": "p", "file": "f"}}},
            "recipe dasd: teacher: give one of model and gguf",
        ),
        ({"teacher": {"gguf": {"package": "p"}}}, "recipe dasd: teacher.gguf.file: must be given"),
        (
            {"training": {"epochs": 0}},
            "recipe dasd: training.epochs: Input should be greater than 0 (got 0)",
        ),
        (
            {"training": {"data": "x"}},
            "recipe dasd: training: data is set by the recipe; change it in stages",
        ),
        (
            {"scoring": {"split": "all"}},
            "recipe dasd: scoring: split is set by the recipe; change it in stages",
        ),
        ({"prompts": ...}, "recipe dasd: give prompts or responses"),
        ({"responses": "r"}, "recipe dasd: give prompts or responses"),
        (
            {"teacher": ...},
            "recipe dasd: prompts needs a teacher: give one, or prompts: null",
        ),
        (
            {"teacher": ..., "prompts": ..., "responses": "r"},
            "recipe dasd: mixed_policy needs a teacher: give one, or mixed_policy: null",
        ),
        (
            {"max_new_tokens": ...},
            "recipe dasd: max_new_tokens must be given, since the teacher writes texts",
        ),
        (
            {"prompts": ..., "responses": "r", "figures": {"title": "x"}},
            "recipe dasd: figures needs held-out prompts: give prompts, not responses",
        ),
        (
            {"plain_answers": True},
            "recipe dasd: plain_answers have no thinking part: give mixed_policy: null",
        ),
        (
            {"plain_answers": True, "mixed_policy": None, "figures": {"title": "x"}},
            "recipe dasd: plain_answers have no thinking part: give figures.exposure: null",
        ),
        (
            {
                "plain_answers": True,
                "mixed_policy": None,
                "figures": {"title": "x", "exposure": None},
            },
            "recipe dasd: plain_answers: accuracy is that of the answer after a thinking part: "
            "give figures.evaluate: []",
        ),
        (
            {"temperatures": [1.0, 0.6]},
            "recipe dasd: temperatures: expected one, or a lower one and a higher one",
        ),
        (
            {"mixed_policy": None, "figures": {"title": "x", "evaluate": ["stage3"]}},
            "recipe dasd: figures.evaluate: no stage3 is trained (before, stage1, stage2)",
        ),
        ({"stages": {"verify": {"tokens": 1}}}, "stages.verify.tokens: no such setting"),
        (
            {"seq_length": 65, "max_length": 9},
            "stages.data_low: seq_length 65 is no multiple of pack_align 64; and 2 more",
        ),
        (
            {"prompts": {"files": ["prompts"]}},
            "stages wait for each other: prompts -> prompts; if the folder prompts is meant, write "
            "./prompts",
        ),
    ],
)
def test_a_mistake_is_one_line(load: Load, more: dict[str, Any], reason: str) -> None:
    assert said(load, **more) == reason


def test_fields_without_a_recipe(load: Load) -> None:
    assert said(load, recipe=...).startswith("stages: must be given; and ")


# -- the command line and the docs -----------------------------------------------------------------


def test_the_expansion_is_printed_and_nothing_run(
    load: Load, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load()
    options = ["--show-graph", "--run-dir", "elsewhere", "--set", "recipe.seq_length=128"]
    assert cli.main([str(tmp_path / "pipeline.yaml"), *options]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["run_dir"] == "elsewhere"
    assert printed["stages"]["data_low"]["seq_length"] == 128
    assert all(next(iter(stage)) == "kind" for stage in printed["stages"].values())
    assert not Path("elsewhere").exists()


def test_every_field_is_documented() -> None:
    text = DOC.read_text()
    parts = [part for part in vars(fields).values() if isinstance(part, type)]
    own = [p for p in parts if issubclass(p, BaseModel) and p.__module__ == fields.__name__]
    names = {name for part in own for name in part.model_fields}
    documented = {name for path in re.findall(r"`([a-z_.]+)`", text) for name in path.split(".")}
    assert names - documented == set()
    assert all(f"`{name}`" in text for name in RECIPES)
