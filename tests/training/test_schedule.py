"""A checkpoint's schedule, compared by Megatron's own code with what its flags make of it."""

from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core.dist_checkpointing import save
from megatron.training import global_vars

from megatron_dasd.device import cpu_adapter
from megatron_dasd.errors import UserError
from megatron_dasd.training.schedule import check_schedule

ARGS = {
    "train_iters": 4, "lr_decay_iters": None, "global_batch_size": 2, "lr_wsd_decay_iters": None,
    "lr_warmup_fraction": 0.5, "lr_warmup_init": 0.0, "lr": 1e-3, "min_lr": 0.0,
    "lr_decay_style": "cosine", "start_weight_decay": 0.1, "end_weight_decay": 0.1,
    "weight_decay_incr_style": "constant", "use_checkpoint_opt_param_scheduler": False,
    "override_opt_param_scheduler": False, "lr_wsd_decay_style": "exponential", "finetune": False,
    "no_load_optim": False,
}  # fmt: skip
SAVED = {
    "max_lr": 1e-3, "lr_warmup_steps": 4.0, "num_steps": 4, "lr_decay_style": "cosine",
    "lr_decay_steps": 8, "min_lr": 0.0, "start_wd": 0.1, "end_wd": 0.1,
    "wd_incr_style": "constant", "wd_incr_steps": 8,
}  # fmt: skip


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    if cpu_adapter.needed():
        cpu_adapter.install()
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


def compare(flags: dict[str, Any], saved: Path) -> None:
    args = Namespace(**flags)
    global_vars.set_args(args)
    try:
        check_schedule(args, saved)
    finally:
        global_vars.unset_global_variables()


def checkpoint(folder: Path, **state: object) -> Path:
    folder.mkdir()
    save({"iteration": 2, **state}, str(folder))
    return folder


@pytest.mark.usefixtures("one_rank")
def test_another_schedule_than_the_checkpoints_is_refused(tmp_path: Path) -> None:
    saved = checkpoint(tmp_path / "saved", opt_param_scheduler=SAVED)
    compare(ARGS, saved)
    for changed in (
        {"train_iters": 6}, {"lr": 2e-3}, {"lr_decay_style": "linear"}, {"lr_warmup_fraction": 0.0},
        {"end_weight_decay": 0.2},
    ):  # fmt: skip
        with pytest.raises(UserError) as refused:
            compare(ARGS | changed, saved)
        assert str(refused.value).startswith(f"{saved}: the checkpoint to go on from has another ")
        assert "\n" not in str(refused.value)
        for accepts in ("finetune", "no_load_optim", "override_opt_param_scheduler"):
            compare(ARGS | changed | {accepts: True}, saved)
    with pytest.raises(
        UserError, match=r"this command 6.0 and checkpoint value 4.0 for warmup iterations do not"
    ):
        compare(ARGS | {"train_iters": 6}, saved)


@pytest.mark.usefixtures("one_rank")
def test_a_checkpoint_without_a_schedule_takes_any(tmp_path: Path) -> None:
    compare(ARGS, checkpoint(tmp_path / "imported"))
