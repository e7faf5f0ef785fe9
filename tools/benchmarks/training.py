"""A whole training step against Megatron's own, on the same tokens."""

import json
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.figures import Row, at_most
from megatron_dasd.data.indexed import DataFormat, ShardWriter, write_data
from megatron_dasd.device.launch import launch
from megatron_dasd.training.command_line import job_from_argv
from megatron_dasd.training.job import OnPolicyRows

SEQ_LENGTH, BATCH, STEPS = 1_024, 2, 6
NUM_PAIRS = 10
VOCABULARY = 8_192
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 512,
    "intermediate_size": 1_536,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 64,
}
NAME = (
    "whole training step, small Qwen3 shape, against stock Megatron's own GPT loss and data set "
    "with the same tokens, document borders off on both sides, "
)
STOCK = "stock Megatron, median of a run's steps, runs alternating"


def rows() -> Iterator[Row]:
    """Figures of the training room."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        write_model_and_data(place)
        whole, stock, chunked = [], [], []
        for pair in range(NUM_PAIRS):
            whole.append(own_step_seconds(place / f"{pair} whole", place, ["--dasd-whole-logits"]))
            stock.append(_stock(place / f"{pair} stock", place))
            chunked.append(own_step_seconds(place / f"{pair} chunked", place, []))
    yield at_most(
        1.05,
        name=f"{NAME}chunked loss off, median of 10 alternating pairs",
        unit="s",
        own=whole,
        peer=stock,
        peer_name=STOCK,
        bar="at most 1.05 x",
    )
    yield at_most(
        float("inf"),
        name=f"{NAME}with the chunked loss on",
        unit="s",
        own=chunked,
        peer=stock,
        peer_name=STOCK,
        bar="printed",
    )


def write_model_and_data(place: Path) -> None:
    """A model's config, and documents of a row's length each."""
    config = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", **SHAPE}
    rest = {"rms_norm_eps": 1e-6, "rope_theta": 1e6, "tie_word_embeddings": True}
    (place / "model").mkdir()
    (place / "model" / "config.json").write_text(
        json.dumps(config | rest | {"max_position_embeddings": SEQ_LENGTH})
    )
    data_format = DataFormat(SEQ_LENGTH, 1, VOCABULARY, eod_id=0)
    (place / "data").mkdir()
    writer = ShardWriter(place / "data", data_format)
    random = np.random.default_rng(0)
    for number in range(BATCH * STEPS + 4):
        tokens = random.integers(1, VOCABULARY, SEQ_LENGTH)
        writer.add(str(number), {"tokens": tokens, "loss_mask": [0] + [1] * (SEQ_LENGTH - 1)})
    writer.close()
    write_data(place / "data", [place / "data"], data_format)


def _flags() -> list[str]:
    flags: dict[str, int | float | str] = {
        "global-batch-size": BATCH,
        "train-iters": STEPS,
        "lr": 1e-4,
        "lr-decay-style": "constant",
        "seed": 1,
        "log-interval": 1,
        "eval-iters": 0,
        "eval-interval": STEPS + 1,
    }
    return [str(x) for name, value in flags.items() for x in (f"--{name}", value)]


def own_step_seconds(
    logs: Path, place: Path, more: list[str], on_policy: OnPolicyRows | None = None
) -> float:
    """Median seconds of the steps of a short training.

    Args:
        more: flags.
        on_policy: which rows of a worker may enter; None: there is no worker.
    """
    metrics = logs.with_suffix(".jsonl")
    argv = ["--dasd-hf-model", str(place / "model"), "--dasd-data", str(place / "data")]
    job = job_from_argv([*argv, "--dasd-metrics", str(metrics), *_flags(), *more])
    job = job.model_copy(update={"shows_progress": False, "on_policy": on_policy})
    launch("megatron_dasd.training.program", job, 1, logs)
    return _seconds(metrics)


def _stock(logs: Path, place: Path) -> float:
    metrics = logs.with_suffix(".jsonl")
    argv = ["--dasd-hf-model", str(place / "model"), "--data-path", str(place / "data" / "tokens")]
    argv += ["--tokenizer-type", "NullTokenizer", "--seq-length", str(SEQ_LENGTH)]
    argv += ["--micro-batch-size", "1", "--calculate-per-token-loss", "--num-workers", "0"]
    launch(
        "benchmarks.stock_training",
        {"argv": [*argv, *_flags()], "metrics": str(metrics)},
        1,
        logs,
    )
    return _seconds(metrics)


def _seconds(metrics: Path) -> float:
    """Of a step, the first of which, in which much is made once, does not count."""
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    return float(statistics.median(line["seconds"] for line in lines[1:]))
