"""Evaluations of a running training: each enters the metrics once; the settings fit the saves."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from megatron_dasd.config.training import Train
from megatron_dasd.errors import UserError
from megatron_dasd.training.evaluations import Evaluated, Evaluations
from megatron_dasd.training.metrics_file import append_line, forget_after, last_step

STAGE = {
    "kind": "evaluate",
    "models": {"student": "weights"},
    "prompts": "prompts",
    "max_new_tokens": 8,
}
TRAIN = {"kind": "train", "model": "m", "checkpoint": "c", "data": "d"}


def test_each_evaluation_enters_the_metrics_once(tmp_path: Path) -> None:
    metrics, evaluations = tmp_path / "metrics.jsonl", Evaluations(tmp_path)
    evaluations.path.mkdir()
    append_line(metrics, {"iteration": 20, "loss": 2.0})
    evaluations.publish(Evaluated(iteration=20, accuracy={"aime25": 0.5}))
    evaluations.write_metrics(metrics)
    evaluations.publish(Evaluated(iteration=40, accuracy={}))  # exported only
    for one in (evaluations, Evaluations(tmp_path)):  # also after a restart
        one.write_metrics(metrics)
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert rows == [
        {"iteration": 20, "loss": 2.0},
        {"iteration": 20, "accuracy": {"aime25": 0.5}},
    ]
    line = last_step(metrics)
    assert line is not None
    assert line.loss == 2.0
    forget_after(metrics, 10)  # a resumed training; the evaluation comes again with its checkpoint
    Evaluations(tmp_path).write_metrics(metrics)
    assert [json.loads(line)["iteration"] for line in metrics.read_text().splitlines()] == [20]


def test_a_damaged_evaluation_is_one_line(tmp_path: Path) -> None:
    evaluations = Evaluations(tmp_path)
    evaluations.path.mkdir()
    (evaluations.path / "00000020.json").write_text('{"iteration": 20}')
    with pytest.raises(UserError, match=r"00000020.json: damaged .* the checkpoint is evaluated"):
        list(evaluations.finished())


def test_what_is_evaluated_is_saved() -> None:
    every = {"iterations": 40, "stage": STAGE}
    given = Train.model_validate(TRAIN | {"save_interval": 20, "evaluate_every": every})
    assert list(given.inner_stages) == ["evaluation"]
    for interval in (None, 30):
        with pytest.raises(ValidationError, match="must be a multiple of save_interval"):
            Train.model_validate(TRAIN | {"save_interval": interval, "evaluate_every": every})
    wrong = {"iterations": 40, "stage": STAGE | {"models": {"student": "teacher"}}}
    with pytest.raises(ValidationError, match="expected one model, weights"):
        Train.model_validate(TRAIN | {"save_interval": 20, "evaluate_every": wrong})
