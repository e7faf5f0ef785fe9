"""TensorBoard and W&B of a training run, read back from what they wrote."""

import json
import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto.wandb_internal_pb2 import Record

from megatron_dasd.manifests import LOGS

HEADER, BLOCK = 7, 1 << 15
"""W&B writes LevelDB's log format after a header of its own."""


def wandb_records(file: Path) -> Iterator[Record]:
    """The records of an offline run: pieces of blocks, each with checksum, length and kind."""
    data, place, whole = file.read_bytes(), HEADER, b""
    while place < len(data):
        left = BLOCK - place % BLOCK
        if left < HEADER:
            place += left
            continue
        _checksum, length, kind = struct.unpack_from("<IHB", data, place)
        place += HEADER
        whole += data[place : place + length]
        place += length
        if kind in (1, 4):  # whole, or the last piece
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def wandb_history(file: Path) -> tuple[str, dict[str, dict[int, float]]]:
    """Run id, and by name the values by step, of an offline run."""
    run_id = ""
    history: dict[str, dict[int, float]] = defaultdict(dict)
    for record in wandb_records(file):
        run_id = record.run.run_id or run_id
        for item in record.history.item:
            name = item.key or ".".join(item.nested_key)
            history[name][record.history.step.num] = json.loads(item.value_json)
    return run_id, history


def test_every_step_reaches_tensorboard_and_wandb(workshop: Any) -> None:
    """From the last pipeline stage, without a key: W&B writes to the disk."""
    launch = {"num_ranks": 2, "pipeline_parallel": 2}
    metrics = workshop.train(
        "written", launch=launch, epochs=1, megatron={"wandb-project": "some project"}
    )
    logs = workshop.place / "written" / LOGS
    steps = [line for line in metrics if "loss" in line]
    names = {
        "lm loss": "loss",
        "domain math loss": "domain_math_loss",
        "teacher loss": "teacher_loss",
        "grad-norm": "grad_norm",
        "tokens_per_second": "tokens_per_second",
        "padding_share": "padding_share",
        "tflops_per_rank": "tflops_per_rank",
    }
    events = EventAccumulator(str(logs / "tensorboard"))
    events.Reload()
    (file,) = logs.glob("wandb/offline-run-*/run-*.wandb")
    run_id, history = wandb_history(file)
    assert len(run_id) == 16
    for name, own in names.items():
        wanted = {line["iteration"]: line[own] for line in steps if own in line}
        board = {event.step: event.value for event in events.Scalars(name)}
        assert board == pytest.approx(wanted, rel=1e-6), name
        assert history[name] == pytest.approx(wanted, rel=1e-6), name
    heldout = metrics[-1]
    assert history["lm loss validation"] == {
        heldout["iteration"]: pytest.approx(heldout["heldout_loss"], rel=1e-6)
    }
    assert "no key of W&B: offline" in (logs / "rank-0.log").read_text()
