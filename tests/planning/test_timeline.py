"""When stages begin and end, worked out by hand; and the shipped recipes' critical paths."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from megatron_dasd.config.pipeline import Pipeline, load_pipeline
from megatron_dasd.planning.cost import Cost
from megatron_dasd.planning.report import collect
from megatron_dasd.planning.timeline import (
    Step,
    Stream,
    most_gpus,
    side_by_side,
    streams,
    time_line,
    whole_hours,
)

EXAMPLES = Path(__file__).parents[2] / "examples"
SAMPLE = {
    "kind": "sample_teacher",
    "model": "teacher",
    "prompts": "prompts",
    "max_new_tokens": 8,
    "engine": {"server": {"service": "teacher"}},
}
STAGES = {
    "prompts": {"kind": "make_prompts", "tasks": [{"generator": "basic_arithmetic", "size": 4}]},
    "sample": SAMPLE,
    "other": SAMPLE,
    "filter": {
        "kind": "filter_responses",
        "responses": ["sample", "other"],
        "student": "teacher",
        "max_length": 9,
    },
    "score": {
        "kind": "score_student",
        "responses": "filter",
        "model": "teacher",
        "server": {"service": "teacher"},
    },
    "select": {"kind": "select_das", "responses": "score"},
}
HOURS = {"prompts": 0.5, "sample": 4.0, "other": 1.0, "filter": 2.0, "score": 1.0, "select": 0.25}


@pytest.fixture
def pipeline(tmp_path: Path) -> Pipeline:
    """Two samplings side by side, then filters of both."""
    (tmp_path / "teacher").mkdir()
    path = tmp_path / "pipeline.yaml"
    content = {
        "name": "p",
        "run_dir": str(tmp_path / "run"),
        "stages": STAGES,
        "plan": {"start_seconds": 0},
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return load_pipeline(path)


def costs_of(pipeline: Pipeline) -> list[Cost]:
    gpus = {"sample": 8, "other": 16}
    return [
        Cost(stage, pipeline.stages[stage].kind, gpus.get(stage, 0), HOURS[stage], 0.0)
        for stage in pipeline.stages
    ]


def test_each_stage_waits_for_what_it_reads(pipeline: Pipeline) -> None:
    steps = time_line(pipeline, costs_of(pipeline))
    assert steps == [
        Step("prompts", (), 0.0, 0.5, 0.5),
        Step("sample", ("prompts",), 0.5, 4.5, 4.5),
        Step("other", ("prompts",), 0.5, 1.5, 4.5),
        Step("filter", ("sample", "other"), 4.5, 6.5, 6.5),
        Step("score", ("filter",), 6.5, 7.5, 7.5),
        Step("select", ("score",), 7.5, 7.75, 7.75),
    ]
    assert [step.stage for step in steps if not step.critical] == ["other"]
    assert steps[2].slack == 3.0
    assert whole_hours(steps) == 7.75


def test_a_stage_starts_a_while_after_the_one_before(pipeline: Pipeline) -> None:
    slow = replace(pipeline, plan=pipeline.plan.model_copy(update={"start_seconds": 360.0}))
    steps = time_line(slow, costs_of(pipeline))
    assert whole_hours(steps) == pytest.approx(7.75 + 5 * 0.1)
    assert sum(step.hours for step in steps if step.critical) == pytest.approx(8.25)


def test_what_runs_side_by_side(pipeline: Pipeline) -> None:
    found = costs_of(pipeline)
    steps = time_line(pipeline, found)
    assert side_by_side(steps) == [("sample", "other")]
    assert most_gpus(steps, found) == 8 + 16


def test_what_could_be_a_stream(pipeline: Pipeline) -> None:
    """Filters and scoring by servers read part by part; selection waits for all candidates."""
    steps = time_line(pipeline, costs_of(pipeline))
    assert streams(pipeline, steps) == [Stream(("sample", "filter", "score"), 7.0, 4.0)]


@pytest.mark.parametrize("name", ["h100_64", "h100_256"])
def test_no_cpu_stage_holds_up_the_report_s_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", "/run")
    figures = collect(load_pipeline(EXAMPLES / "qwen3_4b" / f"{name}.yaml"))
    steps = {step["stage"]: step for step in figures["time_line"]}
    for row in figures["stages"]:
        step = steps[row["stage"]]
        assert step["end"] > step["start"]
        if row["cores"] and step["critical"]:
            assert step["end"] - step["start"] < 0.01 * figures["hours"], row
    path = [step for step in steps.values() if step["critical"]]
    assert sum(s["end"] - s["start"] for s in path) == pytest.approx(figures["hours"])
