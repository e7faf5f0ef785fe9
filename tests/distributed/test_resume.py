"""Training that stops and goes on: the same curve, bit for bit, as if it had not stopped."""

import os
import shutil
import signal
import time
from threading import Event, Thread
from typing import Any

import pytest

from megatron_dasd.checkpoint import tracker
from megatron_dasd.checkpoint.artifact import CHECKPOINT_FOLDER
from megatron_dasd.checkpoint.interim import GATHERED, layout_of
from megatron_dasd.checkpoint.seal import is_sealed
from megatron_dasd.config.base import Launch
from megatron_dasd.errors import Stopped
from megatron_dasd.manifests import LOGS, MANIFEST, METRICS
from tests.distributed.kills import run_with_kills
from tests.distributed.test_layouts import assert_same
from tests.sampled import left_out

HALF = 5
NUM_KILLS = 5


@pytest.fixture(scope="module")
def one_rank(workshop: Any) -> list[dict[str, Any]]:
    metrics: list[dict[str, Any]] = workshop.train("resumed on one rank")
    return metrics


def steps(metrics: list[dict[str, Any]]) -> list[tuple[int, float, float]]:
    return [(m["iteration"], m["loss"], m["grad_norm"]) for m in metrics if "loss" in m]


def train_in_two(workshop: Any, name: str, first: Any, second: Any) -> list[dict[str, Any]]:
    with pytest.raises(Stopped, match=f"training stopped at iteration {HALF} "):
        workshop.train(name, launch=first, megatron={"exit-interval": HALF})
    metrics: list[dict[str, Any]] = workshop.train(name, launch=second)
    return metrics


@pytest.mark.parametrize("distributed_optimizer", [left_out(False), True])
def test_the_curve_is_the_same_bit_for_bit(distributed_optimizer: bool, workshop: Any) -> None:
    launch = {"num_ranks": 2, "distributed_optimizer": distributed_optimizer}
    name = f"resumed {distributed_optimizer}"
    whole = workshop.train(f"{name}, undisturbed", launch=launch)
    metrics = train_in_two(workshop, name, launch, launch)
    assert len(steps(whole)) >= HALF + 9
    assert steps(metrics) == steps(whole)


@pytest.mark.parametrize("killed", [left_out(False), True])
def test_a_distributed_optimizer_goes_on_under_another_layout(
    killed: bool, workshop: Any, one_rank: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """From its last save, which any layout loads, or from an interim one, which is gathered."""
    first = {"num_ranks": 2, "distributed_optimizer": True}
    second = {"num_ranks": 2, "pipeline_parallel": 2, "distributed_optimizer": True}
    name = f"dp2 then pp2, distributed, killed {killed}"
    with pytest.raises(Stopped, match=f"training stopped at iteration {HALF} "):
        workshop.train(name, launch=first, save_interval=3, megatron={"exit-interval": HALF})
    saves = workshop.place / name / CHECKPOINT_FOLDER
    assert layout_of(saves / "iter_0000003") == Launch(**first)
    assert layout_of(saves / f"iter_{HALF:07d}") is None
    assert is_sealed(saves / "iter_0000003")
    if killed:  # before the last save was complete
        shutil.rmtree(saves / f"iter_{HALF:07d}")
    metrics = workshop.train(name, launch=second)
    told = "checkpoint of iteration 3 is gathered on 2 ranks for another layout"
    assert (told in capsys.readouterr().out) == killed
    assert_same(metrics, one_rank, 1e-5)
    assert not (saves / GATHERED).exists()


def test_a_ramp_between_two_sets_goes_on_and_is_the_same_under_a_layout(workshop: Any) -> None:
    more = {"ramp_data": workshop.heldout, "epochs": 2.0, "ramp": {"over": 0.5}}
    whole = workshop.train("ramped", **more)
    assert steps(whole)[-1][1] != steps(workshop.train("not ramped"))[-1][1]
    with pytest.raises(Stopped, match="training stopped at iteration 5 "):
        workshop.train("ramped in two", megatron={"exit-interval": 5}, **more)
    assert steps(workshop.train("ramped in two", **more)) == steps(whole)
    assert_same(workshop.train("ramped on dp2", launch={"num_ranks": 2}, **more), whole)


def test_told_to_stop_it_saves_and_goes_on(workshop: Any, one_rank: Any) -> None:
    """By the process that launches it, as a scheduler would tell it; for any layout."""
    whole = one_rank
    launch = {"num_ranks": 2, "distributed_optimizer": True}
    log = workshop.place / "told to stop" / LOGS / METRICS
    over = Event()

    def tell() -> None:
        while not over.wait(0.005):
            if log.exists() and log.read_text().count("grad_norm") >= 3:
                os.kill(os.getpid(), signal.SIGUSR1)
                return

    teller = Thread(target=tell)
    teller.start()
    with pytest.raises(Stopped, match=r"stopped at iteration \d+ of \d+ \(stopped on SIGUSR1\)"):
        workshop.train("told to stop", launch=launch, save_interval=2)
    over.set()
    teller.join()
    saves = workshop.place / "told to stop" / CHECKPOINT_FOLDER
    assert layout_of(tracker.whole(saves)[-1]) is None
    assert 3 <= len(steps(workshop.metrics("told to stop"))) < len(steps(whole))
    metrics = workshop.train("told to stop", launch=launch)
    assert_same(metrics, whole)


def test_after_the_last_save_there_is_nothing_to_do(
    workshop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    workshop.train("all done")
    (workshop.place / "all done" / MANIFEST).unlink()  # as if killed before it was written
    before = workshop.metrics("all done")
    capsys.readouterr()
    assert workshop.train("all done") == before
    assert "was the last and is saved: nothing to train" in capsys.readouterr().out


def test_a_damaged_checkpoint_is_named_and_an_older_one_goes_on(
    workshop: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = workshop.train("never damaged")
    with pytest.raises(Stopped, match="stopped at iteration 8"):
        workshop.train("damaged", save_interval=2, megatron={"exit-interval": 8})
    saves = workshop.place / "damaged" / CHECKPOINT_FOLDER
    assert sorted(path.name for path in saves.glob("iter_*")) == ["iter_0000006", "iter_0000008"]
    victim = max((saves / "iter_0000008").glob("*.distcp"), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    capsys.readouterr()
    metrics = workshop.train("damaged", save_interval=2)
    told = (
        f"damaged checkpoint set aside ({victim}: other content than when it was saved); "
        "going on from the checkpoint of iteration 6\n"
    )
    assert told in capsys.readouterr().out
    assert steps(metrics) == steps(whole)
    assert [path.name for path in saves.glob("*iter_*")] == [f"iter_{len(steps(whole)):07d}"]


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.parametrize("distributed_optimizer", [left_out(False), True])
def test_killed_at_random_moments_the_curve_is_the_same(
    distributed_optimizer: bool, workshop: Any
) -> None:
    """Ten times each, any rank, also inside a save: every second step saves."""
    launch = {"num_ranks": 2, "distributed_optimizer": distributed_optimizer}
    name = f"killed {distributed_optimizer}"
    more = {"launch": launch, "save_interval": 2, "epochs": 4.0}
    started = time.monotonic()
    whole = workshop.train(f"never {name}", **more)
    seconds = time.monotonic() - started

    def again(run: str) -> list[tuple[int, float, float]]:
        return steps(workshop.train(f"{name}, {run}", **more))

    run_with_kills(again, steps(whole), NUM_KILLS, seconds, seed=13)
