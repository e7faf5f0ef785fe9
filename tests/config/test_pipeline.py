"""Pipeline files: the order of stages, and one clear line for every mistake."""

import subprocess
import sys
from pathlib import Path

import pytest

from megatron_dasd.config.evaluation import Report
from megatron_dasd.config.pipeline import load_pipeline, references
from megatron_dasd.config.sources import MakePrompts
from megatron_dasd.config.teacher import SampleTeacher
from megatron_dasd.errors import UserError

HEAD = "name: test\nrun_dir: runs/test\nseed: 5\nstages:\n"
TEACHER = """\
  teacher:
    kind: random_model
    num_layers: 2
    hidden_size: 8
    num_attention_heads: 2
    num_key_value_heads: 1
    intermediate_size: 8
    alphabet: ab
"""
STUDENT = "  student: {kind: prune_layers, model: teacher, num_layers_removed: 1}\n"
CHECKPOINT = "  checkpoint: {kind: import_hf, model: student}\n"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "pipeline.yaml"
    path.write_text(text)
    return path


def told(tmp_path: Path, text: str, overrides: list[str] | None = None) -> str:
    """What is said about a bad file, without its name."""
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        load_pipeline(path, overrides=overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


def test_stages_keep_the_order_of_the_file_where_it_is_possible(tmp_path: Path) -> None:
    pipeline = load_pipeline(write(tmp_path, HEAD + CHECKPOINT + TEACHER + STUDENT))
    assert list(pipeline.stages) == ["teacher", "student", "checkpoint"]
    again = load_pipeline(write(tmp_path, HEAD + TEACHER + STUDENT + CHECKPOINT))
    assert list(again.stages) == ["teacher", "student", "checkpoint"]


def test_inputs_are_stage_folders_or_files_beside_the_pipeline_file(tmp_path: Path) -> None:
    (tmp_path / "p.jsonl").touch()
    stage = "  prompts: {kind: make_prompts, files: [p.jsonl]}\n"
    pipeline = load_pipeline(write(tmp_path, HEAD + TEACHER + STUDENT + stage))
    assert pipeline.input_paths("student") == {"teacher": Path("runs/test/teacher")}
    assert pipeline.input_paths("prompts") == {"p.jsonl": tmp_path / "p.jsonl"}
    assert pipeline.upstream("prompts") == []


def test_the_seed_is_the_pipelines_unless_a_stage_has_its_own(tmp_path: Path) -> None:
    pipeline = load_pipeline(
        write(tmp_path, HEAD + TEACHER + STUDENT), overrides=["student.seed=9"]
    )
    assert (pipeline.stages["teacher"].seed, pipeline.stages["student"].seed) == (5, 9)


def test_references_are_found_in_lists_dicts_and_options() -> None:
    sample = SampleTeacher(
        kind="sample_teacher", model="m", prompts="p", few_shot="f", max_new_tokens=1
    )
    assert references(sample) == ["m", "p", "f"]
    assert references(MakePrompts(kind="make_prompts", files=["a", "b", "a"])) == ["a", "b"]
    report = Report(
        kind="report",
        title="t",
        heldout_scores={"before": "s0", "stage1": "s1"},
        sample="sample",
        select="select",
        export="export",
    )
    assert references(report) == ["s0", "s1", "sample", "select", "export"]


def test_a_report_rests_on_all_stages_before_it(tmp_path: Path) -> None:
    prompts = "  prompts: {kind: make_prompts, tasks: [{generator: chain_sum, size: 4}]}\n"
    sample = (
        "  sample: {kind: sample_teacher, model: teacher, prompts: prompts, max_new_tokens: 4}\n"
    )
    filtered = "  filter: {kind: filter_responses, responses: [sample], student: student"
    filtered += ", max_length: 64}\n"
    score = "  score: {kind: score_student, responses: filter, model: student"
    score += ", checkpoint: checkpoint}\n"
    select = "  select: {kind: select_das, responses: score}\n"
    report = (
        "  report: {kind: report, title: t, heldout_scores: {before: score},"
        " sample: sample, select: select, export: student}\n"
    )
    unused = "  unused: {kind: import_hf, model: teacher}\n"
    stages = TEACHER + STUDENT + CHECKPOINT + prompts + sample + filtered + score + select
    pipeline = load_pipeline(write(tmp_path, HEAD + stages + unused + report))
    assert pipeline.upstream("report") == ["score", "sample", "select", "student"]
    assert list(pipeline.input_paths("report")) == [
        "teacher",
        "student",
        "checkpoint",
        "prompts",
        "sample",
        "filter",
        "score",
        "select",
    ]
    assert list(pipeline.input_paths("sample")) == ["teacher", "prompts"]


def test_overrides(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").touch()
    stage = "  filter: {kind: filter_responses, responses: [r.jsonl], student: teacher}\n"
    pipeline = load_pipeline(
        write(tmp_path, HEAD + TEACHER + stage),
        run_dir=Path("elsewhere"),
        overrides=[
            "filter.max_length=9",
            "filter.repetition.ngram_words=3",
            'filter.thinking={open: "", close: "#"}',
        ],
    )
    given = pipeline.stages["filter"].model_dump()
    assert given["max_length"] == 9
    assert given["repetition"]["ngram_words"] == 3
    assert given["thinking"] == {
        "format": "delimiters",
        "open": "",
        "close": "#",
        "required": True,
    }
    assert pipeline.stage_dir("filter") == Path("elsewhere/filter")


def test_the_seed_may_be_set_for_all_stages_without_one_of_their_own(tmp_path: Path) -> None:
    given = ["seed=5", "student.seed=3"]
    pipeline = load_pipeline(write(tmp_path, HEAD + TEACHER + STUDENT), overrides=given)
    assert pipeline.seed == 5
    assert {name: stage.seed for name, stage in pipeline.stages.items()} == {
        "teacher": 5,
        "student": 3,
    }


EXPECTED = "expected stage.setting=value, recipe.field=value or seed=value"


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("teacher=1", f"--set teacher=1: {EXPECTED}"),
        ("teacher.num_layers", f"--set teacher.num_layers: {EXPECTED}"),
        (
            "seed=x",
            "seed: Input should be a valid integer, unable to parse string as an integer (got 'x')",
        ),
        ("nobody.seed=1", "--set nobody.seed=1: no stage nobody"),
        ("teacher.kind.seed=1", "--set teacher.kind.seed=1: kind has no settings of its own"),
        ("teacher.seed=[", "--set teacher.seed=[: the value is not YAML"),
        ("teacher.layers=1", "stages.teacher.layers: no such setting"),
    ],
)
def test_a_bad_override(tmp_path: Path, override: str, reason: str) -> None:
    assert told(tmp_path, HEAD + TEACHER, [override]) == reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (HEAD + TEACHER + "    layers: 3\n", "stages.teacher.layers: no such setting"),
        (
            HEAD + TEACHER.replace("num_layers: 2", "num_layers: two"),
            "stages.teacher.num_layers: Input should be a valid integer, "
            "unable to parse string as an integer (got 'two')",
        ),
        (
            HEAD + TEACHER.replace("num_layers: 2", "num_layers: 0"),
            "stages.teacher.num_layers: Input should be greater than 0 (got 0)",
        ),
        (
            HEAD + TEACHER.replace("    num_layers: 2\n    hidden_size: 8\n", ""),
            "stages.teacher.num_layers: must be given; and 1 more",
        ),
        (HEAD + "  a: {kind: make_prompts}\n", "stages.a: give files, tasks or both"),
        (HEAD + "  a: {files: []}\n", "stages.a: must give its kind"),
        (HEAD + "  a/b: {kind: import_hf, model: c}\n", "stages.a/b: String should match"),
        (HEAD + TEACHER + STUDENT + STUDENT, "line 14: student is given twice"),
        (HEAD + TEACHER + "    alphabet: c\n", "line 13: alphabet is given twice"),
        ("name: x\n", "run_dir: must be given; and 1 more"),
        ("- 1\n", "expected a mapping with name, run_dir and stages"),
        ("name: [\n", "line 2: expected the node content, but found '<stream end>'"),
        ("name: \x00\n", "not YAML: unacceptable character"),
        (HEAD.replace("runs/test", "$NOT_SET_ANYWHERE/x") + TEACHER, "run_dir: $NOT_SET_ANYWHERE"),
        (
            HEAD + STUDENT,
            "stages.student: 'teacher' is neither a stage of this pipeline nor a path (",
        ),
        (
            HEAD + "  a: {kind: import_hf, model: b}\n  b: {kind: import_hf, model: a}\n",
            "stages wait for each other: ",
        ),
    ],
)
def test_a_bad_file(tmp_path: Path, text: str, reason: str) -> None:
    assert told(tmp_path, text).startswith(reason)


def test_an_unknown_kind_tells_the_known_ones(tmp_path: Path) -> None:
    reason = told(tmp_path, HEAD + "  a: {kind: magic}\n")
    assert reason.startswith("stages.a: unknown kind magic (known: 'continue_teacher', ")


def test_ranks_must_fill_the_layout(tmp_path: Path) -> None:
    stage = "  c: {kind: train, model: m, checkpoint: m, data: d, launch: {num_ranks: 3, "
    reason = told(tmp_path, HEAD + TEACHER + stage + "tensor_parallel: 2}}\n")
    assert reason == (
        "stages.c.launch: num_ranks 3 is no multiple of tensor_parallel x pipeline_parallel x "
        "context_parallel = 2"
    )


def test_a_stage_may_take_over_anothers_settings(tmp_path: Path) -> None:
    text = HEAD + TEACHER.replace("teacher:", "teacher: &teacher")
    text += "  other: &other {<<: *teacher, num_layers: 3}\n  third: {<<: *other, num_layers: 4}\n"
    stages = load_pipeline(write(tmp_path, text)).stages
    assert [stage.model_dump()["num_layers"] for stage in stages.values()] == [2, 3, 4]
    assert {stage.model_dump()["hidden_size"] for stage in stages.values()} == {8}


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere.yaml: No such file or directory"):
        load_pipeline(tmp_path / "nowhere.yaml")


def test_run_dir_may_name_environment_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCRATCH_OF_TEST", "/scratch")
    text = HEAD.replace("runs/test", "$SCRATCH_OF_TEST/run") + TEACHER
    assert load_pipeline(write(tmp_path, text)).run_dir == Path("/scratch/run")


def test_a_plan_is_read_without_torch() -> None:
    program = (
        "import sys, megatron_dasd.pipeline.cli, megatron_dasd.config.pipeline as p;"
        "sys.exit(bool({'torch', 'transformers', 'megatron'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_a_file_laid_over_another(tmp_path: Path) -> None:
    write(tmp_path, HEAD + TEACHER + STUDENT + CHECKPOINT)
    above = tmp_path / "above.yaml"
    above.write_text(
        "extends: pipeline.yaml\nname: other\nstages:\n  student: {num_layers_removed: 3}\n"
        "  more: {kind: import_hf, model: teacher}\ncluster: {partition: big}\n"
    )
    pipeline = load_pipeline(above)
    assert (pipeline.name, pipeline.seed, pipeline.cluster.partition) == ("other", 5, "big")
    assert list(pipeline.stages) == ["teacher", "student", "checkpoint", "more"]
    assert pipeline.stages["student"].model_dump()["num_layers_removed"] == 3
    assert pipeline.stages["student"].model_dump()["model"] == "teacher"


def test_files_that_extend_each_other(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    with pytest.raises(UserError, match=r"b.yaml: extends .*a.yaml, which extends this file"):
        load_pipeline(tmp_path / "a.yaml")
    (tmp_path / "c.yaml").write_text("extends: nowhere.yaml\n")
    with pytest.raises(UserError, match=r"nowhere.yaml: "):
        load_pipeline(tmp_path / "c.yaml")
