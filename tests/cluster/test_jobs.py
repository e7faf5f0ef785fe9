"""The graph of jobs of a pipeline, without any Slurm."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from megatron_dasd.cluster.jobs import SlurmJob, plan_jobs
from megatron_dasd.config.pipeline import Pipeline, load_pipeline
from megatron_dasd.errors import UserError

STAGES = {
    "model": {"kind": "import_gguf", "package": "models", "file": "model.gguf"},
    "ckpt": {"kind": "import_hf", "model": "model"},
    "prompts": {"kind": "make_prompts", "tasks": [{"generator": "basic_arithmetic", "size": 4}]},
    "sample": {
        "kind": "sample_teacher",
        "model": "model",
        "prompts": "prompts",
        "max_new_tokens": 8,
        "engine": {"server": {"service": "teacher"}},
    },
    "filter": {
        "kind": "filter_responses",
        "responses": ["sample"],
        "student": "model",
        "max_length": 9,
    },
    "again": {
        "kind": "sample_teacher",
        "model": "model",
        "prompts": "prompts",
        "max_new_tokens": 8,
        "engine": {"server": {"service": "teacher"}},
        "seed": 5,
    },
    "score": {
        "kind": "score_student",
        "responses": "filter",
        "model": "model",
        "checkpoint": "ckpt",
        "launch": {"num_ranks": 16, "tensor_parallel": 2},
    },
}
ROUND = {
    "rollouts": {
        "kind": "roll_out_student",
        "model": "weights",
        "responses": "filter",
        "max_prompts": 2,
        "engine": {"server": {"service": "student", "reload": "restart"}},
    },
    "continuations": {
        "kind": "continue_teacher",
        "model": "model",
        "rollouts": "rollouts",
        "max_new_tokens": 8,
        "engine": {"server": {"service": "teacher"}},
    },
    "kept": {
        "kind": "filter_responses",
        "responses": ["continuations"],
        "student": "model",
        "max_length": 64,
    },
    "data": {
        "kind": "preprocess_data",
        "model": "model",
        "responses": "kept",
        "seq_length": 64,
    },
}
CLUSTER = {
    "partition": "gpu",
    "account": "team",
    "cpus_per_task": 12,
    "time": "01:00:00",
    "sbatch": ["--comment=x"],
    "servers": {
        "teacher": {"command": ["serve", "{model}", "{port}"], "model": "model", "count": 2}
    },
    "stages": {
        "sample_teacher": {"time": "10:00:00", "partition": "cpu"},
        "again": {"time": "2"},
        "score": {"sbatch": ["--constraint=h100"]},
    },
}
Load = Callable[..., Pipeline]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(sample: object = STAGES["sample"], **cluster: object) -> Pipeline:
        file = tmp_path / "pipeline.yaml"
        content = {
            "name": "p",
            "run_dir": str(tmp_path / "run"),
            "stages": STAGES | {"sample": sample},
            "cluster": CLUSTER | cluster,
        }
        file.write_text(yaml.safe_dump(content, sort_keys=False))
        return load_pipeline(file)

    return load


def jobs_of(pipeline: Pipeline, *stages: str) -> dict[str, SlurmJob]:
    return {job.name: job for job in plan_jobs(pipeline, stages or list(pipeline.stages))}


def test_stages_wait_for_what_they_read_and_servers_for_their_first_stage(load: Load) -> None:
    jobs = jobs_of(load())
    order = list(jobs)
    assert {job.name: job.after_ok for job in jobs.values() if job.after_ok} == {
        "ckpt": ("model",),
        "sample": ("model", "prompts"),
        "serve_teacher_1": ("model", "prompts"),
        "serve_teacher_2": ("model", "prompts"),
        "filter": ("sample", "model"),
        "again": ("model", "prompts"),
        "score": ("filter", "model", "ckpt"),
    }
    servers = ("serve_teacher_1", "serve_teacher_2")
    assert jobs["sample"].after_start == jobs["again"].after_start == servers
    assert jobs["end_servers_teacher"].after_any == ("sample", "again")
    assert jobs["end_servers_teacher"].arguments[1:] == servers
    for job in jobs.values():
        waits = (*job.after_ok, *job.after_start, *job.after_any)
        assert all(order.index(name) < order.index(job.name) for name in waits)
    assert [job.script for job in jobs.values()] == [
        "stage",
        "stage",
        "stage",
        "serve",
        "serve",
        "stage",
        "stage",
        "stage",
        "stage",
        "end_servers",
    ]


def test_a_training_with_a_worker_starts_the_servers_of_its_rounds(
    load: Load, tmp_path: Path
) -> None:
    load()
    file = tmp_path / "pipeline.yaml"
    content = yaml.safe_load(file.read_text())
    content["stages"] |= {
        "packed": {**ROUND["data"], "responses": "filter"},
        "live": {
            "kind": "train",
            "model": "model",
            "checkpoint": "ckpt",
            "data": "packed",
            "on_policy": {"stages": ROUND},
        },
    }
    content["cluster"]["servers"]["student"] = {"command": ["serve"], "model": "model"}
    file.write_text(yaml.safe_dump(content, sort_keys=False))
    jobs = jobs_of(load_pipeline(file))
    teachers = ("serve_teacher_1", "serve_teacher_2")
    assert jobs["live"].after_start == ("serve_student_1", *teachers)
    assert jobs["end_servers_teacher"].after_any == ("sample", "again", "live")
    assert jobs["end_servers_student"].after_any == ("live",)


def test_only_some_stages(load: Load) -> None:
    jobs = jobs_of(load(), "filter", "score")
    assert jobs["filter"].after_ok == ()
    assert jobs["score"].after_ok == ("filter",)
    assert list(jobs) == ["filter", "score"]


def test_nodes_follow_from_the_ranks(load: Load) -> None:
    score = jobs_of(load())["score"]
    assert (score.nodes, score.tasks_per_node, score.gpus_per_node) == (2, 8, 8)
    score = jobs_of(load(gpus_per_node=4))["score"]
    assert (score.nodes, score.tasks_per_node, score.gpus_per_node) == (4, 4, 4)
    without = jobs_of(load(gpus_per_node=0, ranks_per_node=16))["score"]
    assert (without.nodes, without.tasks_per_node, without.gpus_per_node) == (1, 16, 0)
    # a stage that loads a model by itself takes one; one that asks servers computes nothing itself
    assert jobs_of(load(stages={"score": {"gpus_per_node": 4}}))["score"].nodes == 4
    plain = {**STAGES["sample"], "engine": {}}
    assert jobs_of(load(sample=plain))["sample"].gpus_per_node == 1
    assert jobs_of(load())["sample"].gpus_per_node == 0
    with pytest.raises(UserError, match="score: 16 ranks do not fill 6 nodes of at most 3"):
        jobs_of(load(gpus_per_node=3))


def test_the_command_line(load: Load, tmp_path: Path) -> None:
    pipeline = load()
    jobs = {job.name: job for job in plan_jobs(pipeline, ["filter", "score"], ["--set=a.b=1"])}
    ids = {"filter": "17", "model": "4"}
    command = jobs["score"].command(ids, Path("slurm"), Path("logs"), ["bad1", "bad2"])
    assert command == [
        "sbatch",
        "--parsable",
        "--job-name=score",
        "--nodes=2",
        "--ntasks-per-node=8",
        "--cpus-per-task=12",
        "--gpus-per-node=8",
        "--time=01:00:00",
        "--signal=B:USR1@120",
        "--partition=gpu",
        "--account=team",
        "--output=logs/score-%j.log",
        "--dependency=afterok:17",
        "--kill-on-invalid-dep=yes",
        "--exclude=bad1,bad2",
        "--comment=x",
        "--constraint=h100",
        "slurm/stage.sbatch",
        str(tmp_path / "pipeline.yaml"),
        "score",
        "--set=a.b=1",
    ]
    assert not any("--dependency" in word for word in jobs["score"].command({}, Path(), Path()))
    services = jobs["score"].environment["DASD_SERVICES"]
    assert services == str(tmp_path / "run" / "jobs" / "services")


def test_what_is_asked_for_a_stage_goes_before_what_is_for_its_kind(load: Load) -> None:
    jobs = jobs_of(load())
    assert (jobs["sample"].time, jobs["sample"].partition) == ("10:00:00", "cpu")
    assert (jobs["again"].time, jobs["again"].partition) == ("2", "cpu")
    assert (jobs["filter"].time, jobs["filter"].partition) == ("01:00:00", "gpu")


@pytest.mark.parametrize(
    ("cluster", "message"),
    [
        ({"servers": {}}, "stages.sample: service teacher is not among cluster.servers \\(none\\)"),
        (
            {"stages": {"smaple": {"time": "5"}}},
            "cluster.stages.smaple: neither a stage nor a kind",
        ),
        ({"time": "soon"}, "cluster.time"),
        ({"nodes": 3}, "cluster.nodes: no such setting"),
        (
            {"servers": {"teacher": {"command": ["x"], "model": "nowhere"}}},
            "cluster.servers.teacher.model: 'nowhere' is neither a stage nor a path",
        ),
    ],
)
def test_mistakes(load: Load, cluster: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        jobs_of(load(**cluster))


def test_servers_look_where_the_stages_do(load: Load) -> None:
    more = ["--run-dir=elsewhere"]
    jobs = {job.name: job for job in plan_jobs(load(), ["sample"], more)}
    assert jobs["serve_teacher_1"].arguments[1:] == ("teacher", "--run-dir=elsewhere")
    assert jobs["sample"].arguments[1:] == ("sample", "--run-dir=elsewhere")


def test_stages_whose_work_is_shared_take_nodes_and_tasks(load: Load) -> None:
    many = {"nodes": 3, "tasks_per_node": 16, "cpus_per_task": 1}
    pipeline = load(stages={"filter": many, "sample_teacher": many})
    for job in plan_jobs(pipeline, ["sample", "filter"]):
        if job.script == "stage":
            assert (job.nodes, job.tasks_per_node, job.cpus_per_task) == (3, 16, 1)
            assert job.gpus_per_node == 0


def test_others_are_one_task(load: Load) -> None:
    pipeline = load(stages={"model": {"tasks_per_node": 2}})
    with pytest.raises(
        UserError, match="1 nodes with 2 tasks each for stage model, which works as"
    ):
        plan_jobs(pipeline, ["model"])
    # a model in the stage's own process is not shared either
    own = load(STAGES["sample"] | {"engine": {}}, stages={"sample": {"nodes": 2}})
    with pytest.raises(UserError, match="for stage sample, which works as one task"):
        plan_jobs(own, ["sample"])
