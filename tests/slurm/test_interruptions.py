"""Jobs that are told to stop, put back, cancelled, or lose their node: training and sampling."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from megatron_dasd.cluster.start import progress_marker
from megatron_dasd.manifests import LOGS, METRICS
from tests.slurm.cluster import wait_for
from tests.slurm.conftest import Site, micro_stages

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STAGES = ("teacher", "student", "student_checkpoint", "heal_data")


def training(**changes: Any) -> dict[str, Any]:
    """Stages up to a training on two nodes, of many short steps."""
    stages = {name: micro_stages()[name] for name in STAGES}
    stages["train"] = {
        "kind": "train",
        "model": "student",
        "checkpoint": "student_checkpoint",
        "data": "heal_data",
        "epochs": 30,
        "global_batch_size": 2,
        "lr": 1e-3,
        "precision": "fp32",
        "save_interval": 20,
        "launch": {"num_ranks": 2, "tensor_parallel": 2},
    } | changes
    return stages


def lines(run: Path) -> list[dict[str, Any]]:
    path = run / "train" / LOGS / METRICS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def iteration(site: Site) -> int:
    """The newest iteration."""
    try:
        found = lines(site.place / "run")
    except ValueError:  # a line is being written
        return 0
    return int(found[-1]["iteration"]) if found else 0


@pytest.fixture(scope="module")
def undisturbed(request: pytest.FixtureRequest) -> list[float]:
    """Filled by the first test that needs it."""
    return []


def curve_of(site: Site, undisturbed: list[float]) -> list[float]:
    """Losses of a run that nobody disturbs."""
    if not undisturbed:
        site.submit("--run-dir", "quiet")
        site.wait("train", "COMPLETED")
        undisturbed += [line["loss"] for line in lines(site.place / "quiet")]
    return undisturbed


def assert_same_curve(site: Site, undisturbed: list[float]) -> None:
    found = lines(site.place / "run")
    assert [line["iteration"] for line in found] == list(range(1, 1 + len(undisturbed)))
    assert [line["loss"] for line in found] == undisturbed


def test_told_before_the_time_limit_and_put_back_it_gives_the_same_curve(
    site: Site, undisturbed: list[float]
) -> None:
    """USR1, as Slurm sends it before a time limit; and a preemption, at random steps."""
    site.write(training())
    curve = curve_of(site, undisturbed)
    site.submit()
    wait_for(lambda: iteration(site) > len(curve) // 5, 300)
    number = site.number("train")
    site.slurm.run("scancel", "--batch", "--signal=USR1", number)
    wait_for(lambda: "back into the queue" in site.log("train"), 60)
    kept = iteration(site)
    site.wait("train", "RUNNING")
    wait_for(lambda: iteration(site) > kept + 5, 300)
    site.slurm.run("scontrol", "requeue", number)
    site.wait("train", "COMPLETED")
    assert site.number("train") == number
    assert_same_curve(site, curve)
    site.assert_nothing_is_left()


@pytest.mark.exhaustive
def test_a_node_that_dies_in_training(site: Site, undisturbed: list[float]) -> None:
    site.write(training())
    curve = curve_of(site, undisturbed)
    site.submit()
    wait_for(lambda: iteration(site) > len(curve) // 3, 300)
    site.slurm.kill_node("node2")
    try:
        wait_for(lambda: site.state("train") in ("PENDING", "FAILED", "NODE_FAIL"), 90)
    finally:
        site.slurm.start_node("node2")
    site.wait("train", "COMPLETED")
    restarts = site.slurm.run("scontrol", "show", "job", site.number("train"))
    assert "Restarts=1" in restarts
    assert_same_curve(site, curve)
    site.assert_nothing_is_left()


@pytest.mark.exhaustive
def test_cancelled_it_ends_and_submitted_again_it_goes_on(
    site: Site, undisturbed: list[float]
) -> None:
    site.write(training())
    curve = curve_of(site, undisturbed)
    site.submit()
    wait_for(lambda: iteration(site) > 30, 300)
    site.slurm.run("scancel", site.number("train"))
    site.wait("train", "CANCELLED")
    site.assert_nothing_is_left()
    time.sleep(3)
    assert site.state("train") == "CANCELLED"  # it has not put itself back
    assert "1 jobs; 4 stages up to date" in site.submit()
    site.wait("train", "COMPLETED")
    assert_same_curve(site, curve)


@pytest.mark.exhaustive
def test_a_job_that_gets_nowhere_is_not_started_for_ever(site: Site) -> None:
    """Three starts have been noted, and nothing lies in the stage's folder."""
    site.write({"teacher": micro_stages()["teacher"]}, sbatch=["--hold"])
    site.submit()
    number = site.number("teacher")
    marker = progress_marker(site.place / "run" / "teacher")
    starts = site.place / "run" / "jobs" / "starts"
    starts.mkdir()
    noted = [{"job": number, "marker": marker, "time": second} for second in range(3)]
    (starts / "teacher.json").write_text(json.dumps(noted))
    site.slurm.run("scontrol", "release", number)
    site.wait("teacher", "FAILED")
    assert f"error: stage teacher: 3 starts of job {number} without progress" in site.log("teacher")
    assert not (site.place / "run" / "teacher").exists()


def sampling() -> dict[str, Any]:
    stages = {name: micro_stages()[name] for name in ("teacher", "prompts")}
    engine = {"batch_size": 2, "dtype": "float32"}
    stages["sample"] = micro_stages()["sample"] | {"engine": engine, "num_candidates": 8}
    return stages


@pytest.mark.exhaustive
def test_sampling_that_is_stopped_put_back_and_cancelled(site: Site) -> None:
    """Every candidate is there once, as without a stop."""
    site.write(sampling())
    site.submit("--run-dir", "quiet")
    site.wait("sample", "COMPLETED")
    site.submit()
    folder = site.place / "run" / "sample"
    wait_for(lambda: len(list(folder.glob("part-*.parquet"))) > 5, 300)
    number = site.number("sample")
    site.slurm.run("scancel", "--batch", "--signal=USR1", number)
    wait_for(lambda: "back into the queue" in site.log("sample"), 60)
    for command in (("scontrol", "requeue"), ("scancel",)):
        kept = len(list(folder.glob("part-*.parquet")))
        wait_for(lambda kept=kept: len(list(folder.glob("part-*.parquet"))) > kept + 5, 300)
        site.slurm.run(*command, number)
    site.wait("sample", "CANCELLED")
    site.assert_nothing_is_left()
    assert "1 jobs; 2 stages up to date" in site.submit()
    site.wait("sample", "COMPLETED")
    names = sorted(path.name for path in folder.glob("part-*.parquet"))
    quiet = site.place / "quiet" / "sample"
    assert names == sorted(path.name for path in quiet.glob("part-*.parquet"))
    assert all((folder / name).read_bytes() == (quiet / name).read_bytes() for name in names)
    site.assert_nothing_is_left()
