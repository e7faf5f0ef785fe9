"""The worker's rounds: whose weights they have, which prompts they take, what is kept of a kill."""

import json
import threading
import time
from pathlib import Path

import pytest

from megatron_dasd.checkpoint.artifact import CHECKPOINT_FOLDER, TRACKER
from megatron_dasd.config.on_policy import OnPolicy
from megatron_dasd.config.teacher import RollOutStudent
from megatron_dasd.pipeline.rollout_worker import Worker
from megatron_dasd.training.exchange import Exchange, Round
from tests.config.test_on_policy import STAGES


def save(saves: Path, iteration: int) -> None:
    """What Megatron leaves, as far as the worker looks at it."""
    folder = saves / f"iter_{iteration:07d}"
    folder.mkdir(parents=True)
    (folder / "__0_0.distcp").write_text(f"weights {iteration}")
    (folder / "metadata.json").write_text("{}")
    (saves / TRACKER).write_text(str(iteration))


@pytest.fixture
def exchange(tmp_path: Path) -> Exchange:
    made = Exchange(tmp_path / "stage")
    made.make()
    return made


def worker(exchange: Exchange, **settings: object) -> Worker:
    return Worker(
        exchange=exchange,
        model=Path("/student"),
        start=Path("/stage2"),
        settings=OnPolicy(stages=STAGES, **settings),  # type: ignore[arg-type]
        seed=9,
        places={"select": Path("/run/select"), "student": Path("/run/student")},
    )


def test_the_first_round_has_the_weights_that_training_began_with(exchange: Exchange) -> None:
    assert worker(exchange)._weights(0) == (0, Path("/stage2"))


def test_later_ones_wait_for_newer_weights_and_keep_them(exchange: Exchange) -> None:
    exchange.publish(0, Round(iteration=0, num_rows=0, data="data"))
    saves = exchange.path.parent / CHECKPOINT_FOLDER

    def train() -> None:
        until = time.monotonic() + 20
        while exchange.wanted() is None and time.monotonic() < until:
            time.sleep(0.01)
        save(saves, 20)

    training = threading.Thread(target=train)
    training.start()
    iteration, kept = worker(exchange)._weights(1)
    training.join()
    assert iteration == 20
    assert exchange.wanted() == 0
    file = kept / "iter_0000020" / "__0_0.distcp"
    assert file.read_text() == "weights 20"
    assert file.stat().st_nlink == 2  # no copy
    assert (kept / TRACKER).read_text() == "20"


def test_weights_handed_over_are_taken_in_place_of_checkpoints(exchange: Exchange) -> None:
    save(exchange.path.parent / CHECKPOINT_FOLDER, 40)
    save(exchange.weights, 30)
    assert worker(exchange, every=10)._weights(0)[0] == 30
    exchange.publish(0, Round(iteration=0, num_rows=0, data="data"))
    assert worker(exchange)._weights(1)[0] == 40


def test_a_round_that_was_begun_goes_on_unless_it_would_be_too_old(exchange: Exchange) -> None:
    saves = exchange.path.parent / CHECKPOINT_FOLDER
    save(saves, 20)
    own = worker(exchange, max_age=30)
    taken = own._weights(0)
    begun = exchange.round_folder(0) / "rollouts"
    begun.mkdir()
    save(saves, 50)
    assert own._weights(0) == taken
    assert begun.exists()
    save(saves, 51)
    assert own._weights(0)[0] == 51
    assert not begun.exists()


def test_each_round_takes_the_next_prompts_and_finds_its_own_stages(exchange: Exchange) -> None:
    pipeline = worker(exchange)._pipeline(3, {"weights": Path("/w"), "checkpoint": Path("/c")})
    assert list(pipeline.stages) == ["rollouts", "filter", "data"]
    rollouts = pipeline.stages["rollouts"]
    assert isinstance(rollouts, RollOutStudent)
    assert (rollouts.skip_prompts, rollouts.max_prompts, rollouts.seed) == (24, 8, 9)
    paths = pipeline.input_paths("rollouts")
    assert list(paths.values()) == [Path("/w"), Path("/run/select")]
    assert pipeline.input_paths("filter")["rollouts"] == exchange.round_folder(3) / "rollouts"


def test_rounds_are_numbered_behind_the_finished_ones(exchange: Exchange) -> None:
    numbers = worker(exchange).numbers()
    assert next(numbers) == 0
    exchange.publish(0, Round(iteration=0, num_rows=0, data="data"))
    assert next(numbers) == 1
    taken = json.dumps({"iteration": 1})
    (exchange.rounds / "00001").mkdir()
    (exchange.rounds / "00001" / "taken.json").write_text(taken)
    assert next(numbers) == 1
