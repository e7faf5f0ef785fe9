"""``examples/cpu_micro`` submitted whole, on two nodes, against the same run on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from megatron_dasd.manifests import LOGS, METRICS, read_manifest
from tests.slurm.cluster import wait_for
from tests.slurm.conftest import ROOT, Site, micro_stages

pytestmark = pytest.mark.slow


def losses(run: Path, stage: str) -> list[float]:
    lines = (run / stage / LOGS / METRICS).read_text().splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


@pytest.mark.timeout(1800)
def test_the_whole_pipeline_gives_the_figures_of_a_local_run(site: Site) -> None:
    stages = micro_stages()
    site.write(stages)
    told = site.submit()
    assert f"{len(stages)} jobs; 0 stages up to date" in told
    site.wait("report", "COMPLETED", "CANCELLED", "FAILED", seconds=1200)
    states = {stage: site.state(stage) for stage in stages}
    assert set(states.values()) == {"COMPLETED"}, (states, site.submit("--status"))
    for stage in ("stage1", "stage2", "stage3"):
        where = site.slurm.run("scontrol", "show", "job", site.number(stage))
        assert "NodeList=node[1-2]" in where
    site.assert_nothing_is_left()
    assert "0 jobs; " in site.submit()

    environment: dict[str, Any] = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "megatron_dasd.pipeline", "pipeline.yaml", "--run-dir", "here"]
    subprocess.run(command, cwd=site.place, env=environment, check=True, capture_output=True)
    for stage in stages:
        ours, theirs = (read_manifest(site.place / run / stage) for run in ("run", "here"))
        assert ours is not None
        assert theirs is not None
        assert ours.counts == theirs.counts, stage
    for stage in ("healed", "stage1", "stage2", "stage3"):
        found, wanted = (losses(site.place / run, stage) for run in ("run", "here"))
        assert found == pytest.approx(wanted, rel=1e-6), stage


@pytest.mark.timeout(600)
def test_a_stage_that_fails_takes_those_after_it_along(site: Site) -> None:
    stages = {name: micro_stages()[name] for name in ("teacher", "student", "student_checkpoint")}
    stages["student"] |= {"num_layers_removed": 9}  # of 4
    site.write(stages)
    site.submit()
    site.wait("student_checkpoint", "CANCELLED")
    assert (site.state("teacher"), site.state("student")) == ("COMPLETED", "FAILED")
    status = site.submit("--status")
    log = f"run/jobs/student-{site.number('student')}.log"
    (line,) = (line for line in status.splitlines() if line.startswith("student: FAILED"))
    assert "num_layers_removed" in line
    assert line.endswith(f"(log: {log})")
    assert (site.place / log).exists()
    assert "not started" in status
    # mended, it goes on with what is left
    stages["student"]["num_layers_removed"] = 2
    site.write(stages)
    assert "2 jobs; 1 stages up to date" in site.submit()
    site.wait("student_checkpoint", "COMPLETED")


@pytest.mark.timeout(600)
def test_a_bad_node_is_left_out(site: Site) -> None:
    site.write({"teacher": micro_stages()["teacher"]}, gpus_per_node=0)
    site.settings(DASD_HEALTH_COMMAND='[[ "$SLURMD_NODENAME" != node1 ]] || { echo bad; false; }')
    site.submit()
    site.wait("teacher", "COMPLETED")
    assert "NodeList=node2" in site.slurm.run("scontrol", "show", "job", site.number("teacher"))
    log = site.log("teacher")
    assert "error: node node1: bad" in log
    assert "back into the queue, without node1" in log
    assert (site.place / "run" / "jobs" / "bad_nodes").read_text() == "node1\tbad\n"


@pytest.mark.timeout(600)
def test_servers_are_jobs_that_clients_find(site: Site) -> None:
    """A server that speaks for a model; the stage asks it by the name of its service."""
    stages = {name: micro_stages()[name] for name in ("teacher", "prompts")}
    stages["teacher"]["alphabet"] = "abcdefghijklmnopqrstuvwxyz"  # which the server writes
    stages["sample"] = {
        "kind": "sample_teacher",
        "model": "teacher",
        "prompts": "prompts",
        "max_new_tokens": 8,
        "temperatures": [1.0],
        "num_candidates": 1,
        "engine": {"server": {"service": "speaker", "probe": False}},
    }
    command = ["env", f"PYTHONPATH={ROOT}", sys.executable, "-m", "tests.slurm.speaker", "{port}"]
    speaker = {"command": command, "gpus_per_node": 0, "model": "teacher", "health": "/v1/models"}
    site.write(stages, servers={"speaker": speaker})
    site.submit()
    site.wait("sample", "COMPLETED")
    site.wait("end_servers_speaker", "COMPLETED")
    wait_for(lambda: site.state("serve_speaker_1") not in ("RUNNING", "COMPLETING"), 60)
    assert "speaker: serving speaker at http://node" in site.log("serve_speaker_1")
    assert not list((site.place / "run" / "jobs" / "services" / "speaker").glob("*.url"))
    site.assert_nothing_is_left()


@pytest.mark.timeout(600)
def test_filtering_and_preprocessing_as_mpi_jobs_make_the_same_bytes(site: Site) -> None:
    """Two nodes with two ranks each, against processes on one node."""
    pytest.importorskip("mpi4py")
    stages = {name: micro_stages()[name] for name in ("teacher", "student", "prompts", "sample")}
    stages["filter"] = micro_stages()["filter"]
    data = micro_stages()["data_low"] | {"responses": "filter", "num_workers": 2}
    stages |= {"filter_many": stages["filter"], "one": data, "many": data}
    shared = {"nodes": 2, "tasks_per_node": 2, "gpus_per_node": 0}
    # both nodes are one machine, and MPI would try its memory
    site.settings(UCX_TLS="tcp,self")
    site.write(stages, stages={"many": shared, "filter_many": shared})
    site.submit()
    for name in ("filter_many", "many", "one"):
        site.wait(name, "COMPLETED", "FAILED")
    assert site.state("filter_many") == "COMPLETED", site.log("filter_many")
    filtered = [read_manifest(site.place / "run" / name) for name in ("filter", "filter_many")]
    assert filtered[0] is not None
    assert filtered[1] is not None
    assert filtered[0].files == filtered[1].files
    assert (site.state("one"), site.state("many")) == ("COMPLETED", "COMPLETED"), site.log("many")
    files = [path.name for path in (site.place / "run" / "one" / "data").iterdir()]
    one, many = (site.place / "run" / name / "data" for name in ("one", "many"))
    assert all((one / name).read_bytes() == (many / name).read_bytes() for name in files)
    site.assert_nothing_is_left()
