"""Training with a worker beside it: what the ledger says is what is trained on, come what may."""

import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from megatron_dasd.data.meta import TOKENS, Document
from megatron_dasd.data.packed_dataset import PackedDataset
from megatron_dasd.device.launch import launch
from megatron_dasd.manifests import LOGS, METRICS, model_folder
from megatron_dasd.pipeline.runner import ROLLOUT_WORKER
from megatron_dasd.records import FilteredResponse, Rollout
from megatron_dasd.records_io import read_records
from megatron_dasd.text.chat import render_prompt
from megatron_dasd.text.encoding import encode, load_tokenizer
from megatron_dasd.text.layout import end_of_turn_id
from megatron_dasd.training.exchange import Exchange
from megatron_dasd.training.ledger import Line, Place, read_ledger
from tests.distributed.test_layouts import assert_same
from tests.distributed.test_resume import steps

ON_POLICY = Path(__file__).parents[2] / "examples" / "cpu_micro" / "on_policy.yaml"
STAGE = "stage3_live"
DISTIL = "stage3_distil"
EPOCHS = 90
"""248 steps."""
NUM_ROUNDS, NUM_ROWS = 3, 4
"""Of a worker, before training goes on at its own pace: 248 steps are short for one to come by."""
NUM_KILLS = 3
NUM_EARLY_STEPS = 14

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def command(run_dir: Path, *options: str) -> list[str]:
    program = [sys.executable, "-m", "megatron_dasd.pipeline", str(ON_POLICY)]
    return [*program, "--run-dir", str(run_dir), "--set", f"{STAGE}.epochs={EPOCHS}", *options]


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run up to the second stage of training."""
    run_dir = tmp_path_factory.mktemp("on_policy") / "run"
    done = subprocess.run(command(run_dir, "--until", "stage2"), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return run_dir


@pytest.fixture(scope="module")
def finished(before: Path) -> Path:
    """The same, and the stage with a worker, undisturbed; its folder."""
    return train(before, STAGE)


@pytest.fixture(scope="module")
def early(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Metrics of a short training that the worker's rows enter early."""
    return replay_early(finished, tmp_path_factory.mktemp("early") / "run")


def train(run_dir: Path, stage: str, *options: str) -> Path:
    """Run a stage, slowly until its worker has made some rounds; gives the stage's folder."""
    told = run_dir / f"{stage}.log"
    with told.open("wb") as log:
        process = subprocess.Popen(
            command(run_dir, "--only", stage, *options), stdout=log, stderr=subprocess.STDOUT
        )
    exchange = Exchange(run_dir / stage)
    while process.poll() is None:
        rounds = list(exchange.finished())
        if len(rounds) < NUM_ROUNDS or sum(made.num_rows for made in rounds) < NUM_ROWS:
            hold(process)
        time.sleep(0.1)
    assert process.returncode == 0, told.read_text()
    return run_dir / stage


def metrics(stage: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (stage / LOGS / METRICS).read_text().splitlines()]


def replay(
    stage: Path, place: Path, ledger: list[Line] | None = None, **flags: Any
) -> list[dict[str, Any]]:
    """Train again from the beginning by the ledger of a finished stage, without a worker."""
    payload = json.loads((stage / LOGS / "payload.json").read_text())
    place.mkdir()
    shutil.copytree(Exchange(stage).path, Exchange(place).path)
    if ledger is not None:
        lines = "".join(f"{json.dumps(line)}\n" for line in ledger)
        Exchange(place).ledger.write_text(lines)
    saves = {"load": str(place / "checkpoint"), "save": str(place / "checkpoint")}
    num_ranks = flags.pop("num_ranks", 2)
    loader = flags.pop("loader", "torch")
    payload["flags"] |= saves | flags
    payload["on_policy"]["stage"] = str(place)
    (place / LOGS).mkdir()
    payload |= {"metrics": str(place / LOGS / METRICS), "loader": loader}
    launch("megatron_dasd.training.program", payload, num_ranks, place / LOGS)
    return metrics(place)


def replay_early(stage: Path, place: Path, **flags: Any) -> list[dict[str, Any]]:
    """Likewise, over some steps, each from the third on with one of the worker's rows."""
    steps_left = iter(range(3, NUM_EARLY_STEPS + 1))
    ledger: list[Line] = [
        {
            "round": number,
            "weights": 0,
            "iterations": [next(steps_left, None) for _ in range(made.num_rows)],
        }
        for number, made in enumerate(Exchange(stage).finished())
    ]
    size = NUM_EARLY_STEPS
    short = {"train-iters": size, "lr-decay-iters": size, "lr-warmup-iters": 2}
    reached: Line = {"reached": size}
    lines = replay(stage, place, [*ledger, reached], **short, **flags)
    return [line for line in lines if "grad_norm" in line]


def assert_once(stage: Path) -> None:
    """Every row of every round has entered once, or was left out for its age."""
    exchange = Exchange(stage)
    schedule = read_ledger(exchange.ledger)
    rounds = list(exchange.finished())
    assert schedule.num_rounds == len(rounds) or schedule.num_rounds == len(rounds) - 1
    entered = Counter[Place]()
    for iteration in range(1, steps(metrics(stage))[-1][0] + 1):
        for place in schedule.rows(iteration):
            entered[place] += 1
            assert 0 <= schedule.age(place, iteration) <= 60
    assert set(entered.values()) == {1}
    figures = schedule.figures()
    known = sum(made.num_rows for made in rounds[: schedule.num_rounds])
    assert entered.total() == figures["rows"] == known - figures["rows_left_out"]


def test_rows_of_fresh_weights_enter_a_running_training(finished: Path) -> None:
    lines = metrics(finished)
    with_rows = [line for line in lines if line.get("on_policy_rows")]
    rounds = list(Exchange(finished).finished())
    # the first weights are those that training began with, later ones are its own
    assert rounds[0].iteration == 0 < rounds[1].iteration < rounds[2].iteration
    assert len(with_rows) >= 3
    assert all(line["on_policy_rows"] <= 2 for line in with_rows)  # 0.28 of 4
    assert all(0 <= line["on_policy_age"] <= 60 for line in with_rows)
    # what the teacher wrote behind the student's prefixes has a loss of its own
    writers = {"continuation_loss", "prefix_loss"}
    assert all(
        (writers <= line.keys()) == (line["on_policy_rows"] > 0)
        for line in lines
        if "grad_norm" in line
    )
    assert all("response_loss" in line for line in lines if "grad_norm" in line)
    figures = json.loads((finished / "manifest.json").read_text())["figures"]["on_policy"]
    assert figures["rows"] == sum(line["on_policy_rows"] for line in with_rows)
    assert_once(finished)
    # what is of no use any more is gone
    assert not Exchange(finished).weights.exists()
    assert not list(Exchange(finished).rounds.glob("*/weights"))


def test_every_example_is_prompt_and_exact_prefix_and_continuation(
    finished: Path, before: Path
) -> None:
    tokenizer = load_tokenizer(model_folder(before / "student"))
    num_examples = 0
    exchange = Exchange(finished)
    for number, made in enumerate(exchange.finished()):
        if not made.num_rows:
            continue
        folder = exchange.round_folder(number)
        rollouts = {
            (r.prompt.prompt_id, r.candidate): r for r in read_records(folder / "rollouts", Rollout)
        }
        responses = list(read_records(folder / "filter", FilteredResponse))
        data = PackedDataset(folder / made.data)
        documents = list(read_records(folder / made.data, Document))
        assert len(documents) == len(responses) == data.meta.num_documents
        for place, (response, document) in enumerate(zip(responses, documents, strict=True)):
            own = rollouts[response.prompt.prompt_id, response.candidate].token_ids
            prefix = response.student_prefix_ids
            assert len(prefix) > 0
            assert prefix == own[: len(prefix)]
            continuation = response.output.removeprefix(response.student_prefix)
            asked = render_prompt(tokenizer, response.prompt.messages, "help")
            assert data.document(place)[TOKENS].tolist() == [
                *encode(tokenizer, asked),
                *prefix,
                *encode(tokenizer, continuation, parse_special=False),
                end_of_turn_id(tokenizer),
            ]
            assert document.num_prefix_tokens == len(prefix)
            num_examples += 1
    assert num_examples >= 5


def test_the_ledger_alone_gives_the_same_curve(finished: Path, tmp_path: Path) -> None:
    assert steps(replay(finished, tmp_path / "again")) == steps(metrics(finished))


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param(
            {"tensor-model-parallel-size": 2, "sequence-parallel": True},
            id="tp2",
            marks=pytest.mark.exhaustive,
        ),
        pytest.param({"pipeline-model-parallel-size": 2}, id="pp2"),
        pytest.param({"num_ranks": 1}, id="one rank", marks=pytest.mark.exhaustive),
        pytest.param({"loader": "dali"}, id="dali", marks=pytest.mark.exhaustive),
    ],
)
def test_it_is_the_same_under_every_layout(
    flags: dict[str, Any], early: list[dict[str, Any]], finished: Path, tmp_path: Path
) -> None:
    assert [line["on_policy_rows"] for line in early[:5]] == [0, 0, 1, 1, 1]
    assert len(early) == NUM_EARLY_STEPS
    assert_same(replay_early(finished, tmp_path / "run", **flags), early, 1e-4)


@pytest.mark.exhaustive
def test_the_teacher_is_asked_token_by_token_about_the_students_own_text(before: Path) -> None:
    stage = train(before, DISTIL, "--set", f"{DISTIL}.epochs=50")
    lines = [line for line in metrics(stage) if "grad_norm" in line]
    with_rows = [line for line in lines if line["on_policy_rows"]]
    assert len(with_rows) >= 3
    # the others know nothing of the teacher, and have no such figures
    assert all(("distillation_loss" in line) == (line["on_policy_rows"] > 0) for line in lines)
    assert all(0 < line["distillation_loss"] < 5 for line in with_rows)
    assert all(0.2 < line["teacher_mass"] <= 1 for line in with_rows)
    assert_once(stage)
    rounds = list(Exchange(stage).finished())
    assert all(made.teacher_topk == "top" for made in rounds)
    assert steps(replay(stage, stage.with_name("distilled again"))) == steps(metrics(stage))


@pytest.mark.exhaustive
def test_killed_at_random_moments_nothing_is_lost_or_trained_on_twice(
    before: Path, tmp_path: Path
) -> None:
    """The launching process, a rank or the worker, which holds the engine, are killed in turn."""
    run_dir = tmp_path / "run"
    shutil.copytree(before, run_dir, ignore=shutil.ignore_patterns(STAGE))
    chance = random.Random(5)
    told = tmp_path / "log"
    stage = run_dir / STAGE
    rounds = Exchange(stage)
    kills = Counter[str]()
    while True:
        with told.open("ab") as log:
            process = subprocess.Popen(
                command(run_dir, "--only", STAGE), stdout=log, stderr=subprocess.STDOUT
            )
        while process.poll() is None and kills.total() < NUM_KILLS:
            if len(list(rounds.finished())) < 2:  # whose rows are then not to be lost
                hold(process)
                time.sleep(0.1)
                continue
            time.sleep(chance.uniform(1, 6))
            what = ("worker", "launcher", "rank")[kills.total() % 3]
            kills[what] += kill(what, process)
        if process.wait() == 0:
            break
        assert kills.total() < 4 * NUM_KILLS
    text = told.read_text()
    assert min(kills["worker"], kills["launcher"], kills["rank"]) >= 1, kills
    assert "the rollout worker ended with status -9" in text
    assert "training goes on, and it is started again in" in text
    assert not workers(run_dir)
    assert_once(stage)
    assert read_ledger(rounds.ledger).num_rounds >= 2
    assert steps(replay(stage, tmp_path / "again")) == steps(metrics(stage))


def workers(run_dir: Path) -> list[int]:
    """Processes of workers of a run, whoever started them."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if ROLLOUT_WORKER in line and str(run_dir) in line:
            found.append(process.pid)
    return found


def kill(what: str, launcher: "subprocess.Popen[bytes]") -> bool:
    """Kill one process of a run that is training; gives whether there was one."""
    if launcher.poll() is not None:
        return False
    if what == "launcher":
        launcher.kill()
        launcher.wait()
        return True
    for found, process in children(launcher):
        if found == what:
            with suppress(psutil.NoSuchProcess):
                process.kill()
                return True
    return False


def hold(launcher: "subprocess.Popen[bytes]", seconds: float = 0.4) -> None:
    """Stop the ranks of a training for a moment."""
    ranks = [process for what, process in children(launcher) if what == "rank"]
    for order in (psutil.Process.suspend, psutil.Process.resume):
        for rank in ranks:
            with suppress(psutil.NoSuchProcess):
                order(rank)
        time.sleep(seconds)
        seconds = 0


def children(launcher: "subprocess.Popen[bytes]") -> Iterator[tuple[str, psutil.Process]]:
    """Processes below a training's own: ``worker`` or ``rank``."""
    with suppress(psutil.NoSuchProcess):
        for process in psutil.Process(launcher.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess, psutil.ZombieProcess, IndexError):
                line = " ".join(process.cmdline())
                above = process.parents()
                if ROLLOUT_WORKER in line:
                    yield "worker", process
                elif (
                    "forkserver" in line
                    and above[1].pid == launcher.pid
                    and ROLLOUT_WORKER not in " ".join(above[0].cmdline())  # the worker's own ranks
                ):
                    yield "rank", process
