"""Weights that a running training hands out are those of the step behind it, on every rank."""

from pathlib import Path
from typing import Any

from megatron_dasd.config.training import Train
from megatron_dasd.device.launch import launch
from megatron_dasd.manifests import LOGS
from megatron_dasd.training.stage import training_job


def test_weights_are_gathered_before_they_are_exported(workshop: Any, tmp_path: Path) -> None:
    """Ranks that share an optimizer would get one another's in the next forward pass."""
    settings = Train(
        kind="train",
        **{name: name for name in ("model", "checkpoint", "data")},
        precision="fp32",
        seed=1,
        global_batch_size=2,
        launch={"num_ranks": 2, "distributed_optimizer": True},
    )
    inputs = {
        "model": workshop.models["llama"],
        "checkpoint": workshop.checkpoints["llama"],
        "data": workshop.data,
    }
    job = training_job(settings, inputs, tmp_path, num_samples=20)
    payload = job.model_copy(update={"metrics": tmp_path})
    launch("tests.distributed.weights_program", payload, 2, tmp_path / LOGS)
    first, second = (
        {path.name: path.read_bytes() for path in folder.glob("*.distcp")}
        for folder in (tmp_path / "at once", tmp_path / "gathered")
    )
    assert first
    assert first == second
