"""Which stages run, which are skipped, what a stage's inputs must be; with real small stages."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.pipeline import Pipeline, graph_text, load_pipeline
from megatron_dasd.config.sources import MakePrompts
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import require_manifest
from megatron_dasd.pipeline import runner
from megatron_dasd.pipeline.runner import choose_stages, run_stages
from megatron_dasd.records import Prompt
from megatron_dasd.records_io import read_records

PIPELINE = """\
name: test
run_dir: {run_dir}
stages:
  first: {{kind: make_prompts, files: [p.jsonl], heldout_fraction: 0}}
  second: {{kind: make_prompts, files: [first], heldout_fraction: 0}}
  other: {{kind: make_prompts, files: [q.jsonl], heldout_fraction: 0}}
  third: {{kind: make_prompts, files: [second, other], heldout_fraction: 0.5}}
"""


def prompt_line(prompt_id: str) -> str:
    messages = [{"role": "user", "content": f"question {prompt_id}"}]
    return json.dumps({"prompt_id": prompt_id, "messages": messages}) + "\n"


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Pipeline]:
    """Load the pipeline above, with overrides."""
    path = tmp_path / "pipeline.yaml"
    path.write_text(PIPELINE.format(run_dir=tmp_path / "run"))
    (tmp_path / "p.jsonl").write_text(prompt_line("p0") + prompt_line("p1"))
    (tmp_path / "q.jsonl").write_text(prompt_line("q0"))
    return lambda *overrides: load_pipeline(path, overrides=list(overrides))


def ran(pipeline: Pipeline) -> list[str]:
    """Run the whole pipeline and name the stages that were not skipped."""
    outcomes = run_stages(pipeline, list(pipeline.stages))
    return [outcome.stage for outcome in outcomes if not outcome.skipped]


def prompt_ids(pipeline: Pipeline, stage: str) -> list[str]:
    return [prompt.prompt_id for prompt in read_records(pipeline.stage_dir(stage), Prompt)]


def test_a_second_run_does_nothing(load: Callable[..., Pipeline]) -> None:
    assert ran(load()) == ["first", "second", "other", "third"]
    assert prompt_ids(load(), "third") == ["p0", "p1", "q0"]
    assert ran(load()) == []


def test_a_changed_input_runs_what_rests_on_it(
    load: Callable[..., Pipeline], tmp_path: Path
) -> None:
    ran(load())
    (tmp_path / "q.jsonl").write_text(prompt_line("q1"))
    assert ran(load()) == ["other", "third"]
    assert prompt_ids(load(), "third") == ["p0", "p1", "q1"]


def test_a_changed_setting_runs_the_stage(load: Callable[..., Pipeline]) -> None:
    ran(load())
    assert ran(load("third.heldout_fraction=0")) == ["third"]


def test_an_equal_result_leaves_what_rests_on_it(load: Callable[..., Pipeline]) -> None:
    ran(load())
    # nothing is malformed: another way to treat it gives the same records
    assert ran(load("first.on_malformed=set_aside")) == ["first"]


def test_a_new_seed_runs_everything_that_has_it(load: Callable[..., Pipeline]) -> None:
    ran(load())
    assert ran(load("third.seed=99")) == ["third"]


def test_the_fingerprint_knows_no_machine(load: Callable[..., Pipeline], tmp_path: Path) -> None:
    ran(load())
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for name in ("pipeline.yaml", "p.jsonl", "q.jsonl"):
        (copy / name).write_bytes((tmp_path / name).read_bytes())
    (tmp_path / "run").rename(copy / "run")
    moved = load_pipeline(copy / "pipeline.yaml", run_dir=copy / "run")
    assert ran(moved) == []


def test_an_interrupted_stage_goes_on(
    load: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = load()
    real = runner.stage_function("make_prompts")

    def interrupted(
        settings: MakePrompts, inputs: dict[str, Path], folder: StageFolder
    ) -> dict[str, object]:
        figures = real(settings, inputs, folder)
        if folder.path.name == "second":
            raise KeyboardInterrupt
        return figures

    with monkeypatch.context() as patch:
        patch.setattr(runner, "stage_function", lambda kind: interrupted)
        with pytest.raises(KeyboardInterrupt):
            ran(pipeline)
    assert ran(pipeline) == ["second", "other", "third"]
    assert prompt_ids(pipeline, "third") == ["p0", "p1", "q0"]


def test_an_error_names_its_stage(load: Callable[..., Pipeline], tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text("nonsense\n")
    with pytest.raises(UserError, match=r"^stage other: .*q.jsonl: record 1: bad JSON"):
        ran(load())
    assert not (tmp_path / "run" / "other" / "manifest.json").exists()


def test_a_stage_alone_needs_its_inputs(load: Callable[..., Pipeline]) -> None:
    with pytest.raises(UserError, match=r"^stage second: its input first has not finished"):
        run_stages(load(), ["second"])
    run_stages(load(), ["first", "second"])
    with pytest.raises(UserError, match="its input first has finished with other settings"):
        run_stages(load("first.heldout_fraction=0.5"), ["second"])


def test_a_result_that_was_tampered_with_is_no_result(load: Callable[..., Pipeline]) -> None:
    pipeline = load()
    ran(pipeline)
    (pipeline.stage_dir("first") / "part-00000.parquet").unlink()
    with pytest.raises(UserError, match="stage first: .*part-00000.parquet: is missing"):
        ran(pipeline)


def damage(path: Path) -> None:
    """Change the content of a file whose size stays."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_input_is_not_read(load: Callable[..., Pipeline]) -> None:
    ran(load())
    part = load().stage_dir("second") / "part-00000.parquet"
    damage(part)
    assert ran(load()) == []  # nothing reads it
    with pytest.raises(
        UserError, match=r"^stage third: .*part-00000.parquet: its content is not what stage second"
    ):
        ran(load("third.heldout_fraction=0"))
    # what the stage had made before is kept
    assert prompt_ids(load(), "third") == ["p0", "p1", "q0"]
    shutil.rmtree(part.parent)
    assert ran(load("third.heldout_fraction=0")) == ["second", "third"]


def test_verification_can_be_left_out(load: Callable[..., Pipeline], tmp_path: Path) -> None:
    ran(load())
    part = load().stage_dir("second") / "part-00000.parquet"
    # who wrote the file, which no reader looks at
    part.write_bytes(part.read_bytes().replace(b"parquet-cpp-arrow", b"parquet-cpp-ARROW"))
    file = tmp_path / "pipeline.yaml"
    file.write_text(file.read_text() + "verify_inputs: false\n")
    assert "verify_inputs: false" in graph_text(file)
    assert ran(load("third.heldout_fraction=0")) == ["third"]
    file.write_text(file.read_text().replace("false", "true"))
    # the setting is no part of the fingerprint
    assert ran(load("third.heldout_fraction=0")) == []
    with pytest.raises(UserError, match="its content is not what stage second wrote"):
        ran(load())


def test_the_manifest_says_what_was_done(load: Callable[..., Pipeline]) -> None:
    pipeline = load()
    ran(pipeline)
    third = require_manifest(pipeline.stage_dir("third"))
    assert third.counts == {"heldout": 2, "train": 1}
    assert third.settings["heldout_fraction"] == 0.5
    assert third.inputs == {
        name: require_manifest(pipeline.stage_dir(name)).digest for name in ("second", "other")
    }


@pytest.mark.parametrize(
    ("chosen", "stages"),
    [
        ({}, ["first", "second", "other", "third"]),
        ({"first": "second"}, ["second", "other", "third"]),
        ({"last": "second"}, ["first", "second"]),
        ({"first": "second", "last": "other"}, ["second", "other"]),
        ({"only": ["third", "first"]}, ["first", "third"]),
    ],
)
def test_stages_can_be_chosen(
    load: Callable[..., Pipeline], chosen: dict[str, str], stages: list[str]
) -> None:
    assert choose_stages(load(), **chosen) == stages  # type: ignore[arg-type]


def test_a_bad_choice_of_stages(load: Callable[..., Pipeline]) -> None:
    with pytest.raises(UserError, match=r"no stage fifth \(stages: first, second, other, third\)"):
        choose_stages(load(), only=["fifth"])
    with pytest.raises(UserError, match="stage third comes after first"):
        choose_stages(load(), first="third", last="first")


def test_what_a_stage_cannot_read_is_said_before_any_stage_runs(
    load: Callable[..., Pipeline], tmp_path: Path
) -> None:
    run_stages(load(), ["first"])
    path = tmp_path / "other.yaml"

    def told(responses: str) -> str:
        path.write_text(
            f"name: other\nrun_dir: {tmp_path / 'other'}\nstages:\n"
            "  made: {kind: make_prompts, files: [q.jsonl]}\n"
            f"  kept: {{kind: select_das, responses: {responses}}}\n"
        )
        pipeline = load_pipeline(path)
        with pytest.raises(UserError) as caught:
            ran(pipeline)
        assert not (tmp_path / "other").exists()
        return str(caught.value)

    # another run's stage
    assert told("run/first").startswith(
        "stage kept: responses: run/first (make_prompts) makes prompts, but select_das reads "
        "scored responses (of score_student, select_das)"
    )
    # a file of another program
    (tmp_path / "chats.jsonl").write_text('{"prompt": "2+2?", "response": "4"}\n')
    assert told("chats.jsonl") == (
        f"stage kept: {tmp_path / 'chats.jsonl'}: record 1: field prompt: Input should be a "
        "dictionary or an instance of Prompt; select_das reads scored responses (of "
        "score_student, select_das)"
    )
