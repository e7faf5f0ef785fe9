"""What the self-test runs: one pipeline, a training for each precision and layout."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from megatron_dasd.config.choices import Precision
from megatron_dasd.json_values import JsonObject

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
NUM_STEPS = 20
SAVE_INTERVAL = 10
"""Steps between saves: a training that is killed after the first goes on from there."""
ROWS_PER_STEP = 2
SEQ_LENGTH = 256
ALIGNMENT = 32
"""Slots of documents; twice the context-parallel ranks divide it, of which there are at most 4."""
PIPELINE = "selftest_pipeline.yaml"
KILLED = "killed"
"""The training that is killed; like the one in bfloat16 on one rank."""
PREPARATION = ("model", "responses", "data", "start")
_MOST_RANKS = 8
_MODEL: JsonObject = {
    "kind": "random_model",
    "num_layers": 2,
    "hidden_size": 128,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    # large enough for attention to count: a model that mixes up documents has another loss
    "initializer_std": 0.06,
}


@dataclass(frozen=True)
class Training:
    """One training, of ``NUM_STEPS`` steps."""

    precision: Precision
    tensor_parallel: int = 1
    context_parallel: int = 1

    @property
    def num_ranks(self) -> int:
        """Ranks, all of which work on the same rows."""
        return self.tensor_parallel * self.context_parallel

    @property
    def layout(self) -> str:
        """In words."""
        sizes = (("TP", self.tensor_parallel), ("CP", self.context_parallel))
        return " ".join(f"{name}{size}" for name, size in sizes if size > 1) or "one rank"

    @property
    def stage(self) -> str:
        """Name of its stage."""
        layout = "" if self.num_ranks == 1 else f"_{self.layout.replace(' ', '_').lower()}"
        return f"{self.precision}{layout}"


def trainings(precision: Precision, num_devices: int) -> Iterator[Training]:
    """One rank, and all devices: two of them by each kind of parallelism, more by both at once.

    Args:
        num_devices: GPUs; without any, the ranks that the CPU is to run.
    """
    yield Training(precision)
    ranks = 1 << (min(num_devices, _MOST_RANKS).bit_length() - 1)
    if ranks == 2:
        yield Training(precision, tensor_parallel=2)
        yield Training(precision, context_parallel=2)
    elif ranks > 2:
        yield Training(precision, tensor_parallel=2, context_parallel=ranks // 2)


def write_pipeline(folder: Path, given: list[Training]) -> Path:
    """Write the pipeline file, JSON being YAML too; its stages run in the same folder."""
    stages: JsonObject = {
        "model": _MODEL,
        "responses": {"kind": "worked_sums", "size": 68, "styles": ["terse", "explained"]},
        "data": {
            "kind": "preprocess_data",
            "model": "model",
            "responses": "responses",
            "split": "all",
            "seq_length": SEQ_LENGTH,
            "pack_align": ALIGNMENT,
        },
        "start": {"kind": "import_hf", "model": "model"},
        **{training.stage: _train(training) for training in given},
        KILLED: _train(Training("bf16")),
        **{f"score_{dtype}": _score(dtype) for dtype in ("float32", "bfloat16")},
        "export": {"kind": "export_hf", "model": "model", "checkpoint": "bf16"},
        "verify": {
            "kind": "verify_conversion",
            "model": "export",
            "checkpoint": "bf16",
            "responses": "responses",
            "num_tokens": 256,
        },
    }
    path = folder / PIPELINE
    pipeline = {"name": "selftest", "run_dir": str(folder), "seed": 7, "stages": stages}
    path.write_text(json.dumps(pipeline, indent=1))
    return path


def _train(training: Training) -> JsonObject:
    return {
        "kind": "train",
        "model": "model",
        "checkpoint": "start",
        "data": "data",
        "precision": training.precision,
        "global_batch_size": ROWS_PER_STEP,
        # the data holds as many rows as the steps take; tests/selftest asserts it
        "epochs": 1,
        "save_interval": SAVE_INTERVAL,
        "lr": 5e-4,
        "launch": {
            "num_ranks": training.num_ranks,
            "tensor_parallel": training.tensor_parallel,
            "context_parallel": training.context_parallel,
            "distributed_optimizer": training.context_parallel > 1,
        },
    }


def _score(dtype: str) -> JsonObject:
    return {
        "kind": "score_student",
        "model": "model",
        "checkpoint": "bf16",
        "responses": "responses",
        "dtype": dtype,
        "batch_tokens": 1024,  # as many positions as the model has
    }
