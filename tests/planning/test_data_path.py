"""Hours, cores and disk of stages without a GPU, worked out by hand; sampling by prompts."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from megatron_dasd.config.pipeline import Pipeline, load_pipeline
from megatron_dasd.config.planning import MEASURED_BYTES
from megatron_dasd.errors import UserError
from megatron_dasd.planning.cost import Cost
from megatron_dasd.planning.data_path import num_cores
from megatron_dasd.planning.estimate import costs

STAGES: dict[str, dict[str, Any]] = {
    "prompts": {"kind": "make_prompts", "tasks": [{"generator": "basic_arithmetic", "size": 4}]},
    "sample": {
        "kind": "sample_teacher",
        "model": "teacher",
        "prompts": "prompts",
        "temperatures": [0.6, 1.0],
        "num_candidates": 3,
        "max_new_tokens": 8,
        "engine": {"server": {"service": "teacher"}},
    },
    "filter": {
        "kind": "filter_responses",
        "responses": ["sample"],
        "student": "teacher",
        "max_length": 9,
    },
    "data": {
        "kind": "preprocess_data",
        "model": "teacher",
        "responses": "filter",
        "seq_length": 64,
        "num_workers": 3,
    },
}
PLAN = {
    "num_prompts": 1000,
    "server_tokens_per_second": {"teacher": 1000},
    "cpu_rates": {"filter_responses": 200, "preprocess_data": 100, "make_prompts": 10},
    "corpora": {"sample": {"mean_tokens": 600}, "data": {"num_documents": 100, "mean_tokens": 540}},
}
CLUSTER = {"servers": {"teacher": {"command": ["serve"], "count": 2}}, "cpus_per_task": 5}


def planned(tmp_path: Path, plan: dict[str, Any] = PLAN, **cluster: Any) -> Pipeline:
    (tmp_path / "teacher").mkdir(exist_ok=True)
    path = tmp_path / "pipeline.yaml"
    content = {
        "name": "p",
        "run_dir": str(tmp_path / "run"),
        "stages": STAGES,
        "plan": plan,
        "cluster": CLUSTER | cluster,
    }
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return load_pipeline(path)


def by_stage(pipeline: Pipeline) -> dict[str, Cost]:
    return {cost.stage: cost for cost in costs(pipeline)}


def test_sampling_by_prompts(tmp_path: Path) -> None:
    """1,000 prompts at two temperatures, three candidates each, of 600 tokens."""
    found = by_stage(planned(tmp_path))
    assert found["sample"].num_tokens == 6000 * 600
    assert found["sample"].hours == 6000 * 600 / (2 * 1000) / 3600
    assert found["prompts"].hours == 1000 / 10 / 3600


def test_servers_that_answer_few_requests(tmp_path: Path) -> None:
    """Half a request a second of each of two takes longer than 600 tokens at 1,000 a second."""
    plan = PLAN | {"server_requests_per_second": {"teacher": 0.5}}
    assert by_stage(planned(tmp_path, plan))["sample"].hours == 6000 / (2 * 0.5) / 3600


def test_what_is_not_sampled_needs_its_number(tmp_path: Path) -> None:
    plan = PLAN | {"corpora": {"sample": {"mean_tokens": 600}, "data": {"mean_tokens": 540}}}
    with pytest.raises(UserError, match=r"plan\.corpora\.data: give num_documents"):
        costs(planned(tmp_path, plan))
    without = {name: value for name, value in PLAN.items() if name != "num_prompts"}
    with pytest.raises(UserError, match=r"prompts does not exist yet; .* in plan\.num_prompts"):
        costs(planned(tmp_path, without))


def test_stages_on_cores(tmp_path: Path) -> None:
    """The filters read all that is sampled; preprocessing tokenises what it packs."""
    pipeline = planned(tmp_path)
    found = by_stage(pipeline)
    assert found["filter"].hours == 6000 * 600 / (200 * 5) / 3600
    assert found["data"].hours == 54_000 / (100 * 3) / 3600
    assert found["data"].disk_bytes == MEASURED_BYTES["preprocess_data"] * 54_000
    cores = {stage: num_cores(pipeline, stage) for stage in ("filter", "data", "prompts")}
    assert cores == {"filter": 5, "data": 3, "prompts": 1}


def test_stages_over_several_nodes(tmp_path: Path) -> None:
    """One task of an MPI job hands the work out."""
    stages = {"filter_responses": {"nodes": 2, "tasks_per_node": 8}}
    assert num_cores(planned(tmp_path, stages=stages), "filter") == 2 * 8 - 1
