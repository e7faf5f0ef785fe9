"""The loss as asked for on the command line of the training program."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from megatron_dasd.config.training import Distillation
from megatron_dasd.data.indexed import DataFormat, ShardWriter, write_data
from megatron_dasd.errors import UserError
from megatron_dasd.training.command_line import job_from_argv
from megatron_dasd.training.job import TrainingJob


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    data_format = DataFormat(8, 1, 50, eod_id=2)
    writer = ShardWriter(folder, data_format)
    writer.add("d", {"tokens": [3, 4], "loss_mask": [0, 1]})
    writer.close()
    meta = write_data(folder, [folder], data_format)
    assert json.loads((folder / "meta.json").read_text()) == asdict(meta)
    return folder


def job(data: Path, *flags: str) -> TrainingJob:
    return job_from_argv(["--dasd-hf-model", str(data), "--dasd-data", str(data), *flags])


def test_the_defaults_are_the_stages(data: Path) -> None:
    given = job(data)
    assert given.teacher_topk is None
    assert given.loss.model_dump() == {
        "normalise_by": "token",
        "chunked_loss": True,
        "loss_gradients": "backward",
        "slice_mib": None,
        "distillation": Distillation().model_dump(),
    }


def test_everything_asked_for(data: Path) -> None:
    flags = ["--dasd-normalise-by", "sequence", "--dasd-teacher-topk", "top", "--lr", "1e-5"]
    flags += ["--dasd-divergence", "skew_kl", "--dasd-beta", "0.1"]
    given = job(data, *flags, "--dasd-distillation-weight", "1")
    assert given.teacher_topk == Path("top")
    assert given.loss.normalise_by == "sequence"
    expected = {"divergence": "skew_kl", "beta": 0.1, "weight": 1.0}
    assert given.loss.distillation.model_dump() == expected
    assert given.argv == ["--lr", "1e-5"]
    assert not job(data, "--dasd-whole-logits").loss.chunked_loss
    forward = job(data, "--dasd-loss-gradients", "forward")
    assert forward.loss.loss_gradients == "forward"
    assert job(data, "--dasd-loss-slice-mib", "64").loss.slice_mib == 64


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dasd-loss-slice-mib", "0"], "--dasd-loss-slice-mib 0: must be 1 or more"),
        (["--dasd-beta", "1"], "--dasd-beta: Input should be less than 1"),
        (["--dasd-distillation-weight", "-1"], "--dasd-distillation-weight: Input should be"),
        (["--dasd-teacher-topk", "t", "--dasd-whole-logits"], "does not go with"),
        (["--dasd-loss-gradients", "forward", "--dasd-whole-logits"], "forward goes neither with"),
        (["--dasd-loss-gradients=forward", "--dasd-teacher-topk=t"], "forward goes neither with"),
    ],
)
def test_what_cannot_be_is_refused(data: Path, flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        job(data, *flags)
