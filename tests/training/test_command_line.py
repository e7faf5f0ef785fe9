import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from megatron_dasd.checkpoint.artifact import TRACKER
from megatron_dasd.data.indexed import DataFormat, ShardWriter, write_data
from megatron_dasd.errors import UserError
from megatron_dasd.training.command_line import job_from_argv


@pytest.fixture
def typed(model_dir: Path, tmp_path: Path) -> list[str]:
    data_format = DataFormat(16, 4, 30, eod_id=2)
    writer = ShardWriter(tmp_path, data_format)
    writer.add("a", {"tokens": [3, 4, 5], "loss_mask": [0, 1, 1]})
    writer.close()
    write_data(tmp_path, [tmp_path], data_format)
    return ["--dasd-hf-model", str(model_dir), "--dasd-data", str(tmp_path)]


def test_the_data_gives_the_length_of_a_row_and_the_rest_is_megatrons(typed: list[str]) -> None:
    job = job_from_argv([*typed, "--lr", "1e-4", "--bf16"])
    assert job.flags["seq-length"] == 16
    assert job.flags["micro-batch-size"] == 1
    assert job.flags["eval-iters"] == 0
    assert job.argv == ["--lr", "1e-4", "--bf16"]
    assert job.loss.model_dump() == {
        "normalise_by": "token",
        "chunked_loss": True,
        "loss_gradients": "backward",
        "slice_mib": None,
        "distillation": {"divergence": "forward_kl", "beta": 0.5, "weight": 0.5},
    }
    heldout = job_from_argv([*typed, "--dasd-heldout", typed[-1], "--eval-iters", "3"])
    assert heldout.heldout == Path(typed[-1])
    assert "eval-iters" not in heldout.flags


def test_no_model_and_no_data(typed: list[str], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--dasd-hf-model: nowhere: no such folder"):
        job_from_argv([*typed, "--dasd-hf-model", "nowhere"])
    with pytest.raises(UserError, match="no packed data here"):
        job_from_argv([*typed, "--dasd-data", str(tmp_path / "nothing")])


class Payload:
    def __reduce__(self) -> Any:
        return os.system, ("true",)


@pytest.mark.parametrize("flag", ["--load", "--pretrained-checkpoint"])
def test_a_checkpoint_is_looked_through_before_megatron_opens_it(
    flag: str, typed: list[str], tmp_path: Path
) -> None:
    saves = tmp_path / "saves"
    assert job_from_argv([*typed, flag, str(saves)]).argv == [flag, str(saves)]
    (saves / "iter_0000001").mkdir(parents=True)
    (saves / TRACKER).write_text("1")
    (saves / "iter_0000001" / "metadata.json").write_text(
        json.dumps({"sharded_backend": "torch_dist", "sharded_backend_version": 1})
    )
    (saves / "iter_0000001" / ".metadata").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(UserError, match="system"):
        job_from_argv([*typed, flag, str(saves)])


def test_epochs_give_the_iterations(typed: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """One pack, 20.5 times, rounded up, by batches of 2: 11 iterations, and one row of padding."""
    job = job_from_argv([*typed, "--dasd-epochs", "20.5", "--global-batch-size", "2"])
    flags = job.flags
    derived = [flags[f] for f in ("train-iters", "lr-decay-iters", "lr-warmup-iters")]
    assert derived == [11, 11, 1]
    assert job.num_samples == 21
    told = "20.5 epochs of 1 packs: 11 iterations of 2 rows, 1 rows of padding in the last\n"
    assert capsys.readouterr().out == told
    more = ["--dasd-warmup-fraction", "0.5", "--global-batch-size=2"]
    assert job_from_argv([*typed, "--dasd-epochs", "4", *more]).flags["lr-warmup-iters"] == 1
    assert job_from_argv(typed).num_samples is None


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (["--dasd-epochs", "0"], "--dasd-epochs 0: must be more than 0"),
        (["--dasd-epochs", "1"], "--dasd-epochs needs --global-batch-size"),
        (["--dasd-epochs", "1", "--train-iters=7"], "--train-iters follows from --dasd-epochs"),
        (["--dasd-epochs", "1", "--lr-warmup-iters", "7"], "--lr-warmup-iters follows from"),
        (["--dasd-epochs", "1", "--dasd-warmup-fraction", "2"], "--dasd-warmup-fraction 2: not in"),
    ],
)
def test_epochs_that_cannot_be(wrong: list[str], reason: str, typed: list[str]) -> None:
    with pytest.raises(UserError, match=reason):
        job_from_argv([*typed, *wrong])
