"""Conversion of a full-size model: memory against the bars, wall time beside that of copying."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, Qwen3Config

from benchmarks.figures import Row, at_least, at_most
from megatron_dasd.checkpoint.artifact import open_checkpoint
from megatron_dasd.checkpoint.convert import total_bytes
from megatron_dasd.checkpoint.export_stage import export_hf
from megatron_dasd.checkpoint.hf_folder import (
    GIGABYTE,
    HfWeights,
    TensorInfo,
    require_space,
)
from megatron_dasd.checkpoint.hf_writer import HfWriter
from megatron_dasd.checkpoint.import_stage import import_hf
from megatron_dasd.errors import UserError

MODEL = (
    "a full-size Qwen3-4B (real config, random weights, 8 GB in bf16) on this 24 GiB machine: "
    "import, export"
)
NO_BAR = "wall time printed beside that of copying the files"
# The released config.json of Qwen3-4B.
CONFIG = Qwen3Config(
    architectures=["Qwen3ForCausalLM"],
    attention_bias=False,
    attention_dropout=0.0,
    bos_token_id=151643,
    dtype="bfloat16",
    eos_token_id=151645,
    head_dim=128,
    hidden_act="silu",
    hidden_size=2560,
    initializer_range=0.02,
    intermediate_size=9728,
    max_position_embeddings=40960,
    max_window_layers=36,
    num_attention_heads=32,
    num_hidden_layers=36,
    num_key_value_heads=8,
    rms_norm_eps=1e-06,
    rope_parameters={"rope_type": "default", "rope_theta": 1000000},
    tie_word_embeddings=True,
    use_cache=True,
    use_sliding_window=False,
    vocab_size=151936,
)


def rows() -> Iterator[Row]:
    """Figures of the checkpoint room; some 32 GB of disk are used on the way."""
    with tempfile.TemporaryDirectory(prefix="dasd-bench-") as place:
        tensors = _tensors()
        try:
            require_space(Path(place), 4 * total_bytes(tensors) + GIGABYTE)
        except UserError as error:
            print(f"{MODEL}: left out: {error}")
            return
        yield from _rows(Path(place), tensors)


def _rows(place: Path, tensors: Mapping[str, TensorInfo]) -> Iterator[Row]:
    weights = total_bytes(tensors)
    source, checkpoint, exported = (_folder(place / name) for name in ("hf", "checkpoint", "out"))
    _write_random(source, tensors)
    copying = _copy_seconds(source, place / "copy")
    started = time.perf_counter()
    imported = import_hf(source, checkpoint, place / "import logs")
    importing = time.perf_counter() - started
    yield at_most(
        1.25,
        name=f"{MODEL}; peak memory of import",
        unit="GB",
        own=[imported.converted.peak_memory_bytes / GIGABYTE],
        peer=[weights / GIGABYTE],
        peer_name="the bf16 weights",
        bar="at most 1.25 x the bf16 weights",
    )
    yield _wall_time("import", importing, copying)
    started = time.perf_counter()
    done = export_hf(open_checkpoint(checkpoint), source, exported, place / "export logs", 5.0)
    yield at_most(
        1.0,
        name=f"{MODEL}; peak memory of export",
        unit="GB",
        own=[done.converted.peak_memory_bytes / GIGABYTE],
        peer=[4.0],
        peer_name="limit",
        bar="4 GB",
    )
    yield _wall_time("export", time.perf_counter() - started, copying)
    yield at_least(
        1.0,
        name=f"{MODEL}; tensors that come back",
        unit="tensors",
        own=[_num_equal(source, exported)],
        peer=[len(tensors)],
        peer_name="all of them",
        bar="bit for bit",
    )


def _wall_time(what: str, own: float, copying: float) -> Row:
    return at_most(
        float("inf"),
        name=f"{MODEL}; wall time of {what}",
        unit="s",
        own=[own],
        peer=[copying],
        peer_name="copying the files",
        bar=NO_BAR,
    )


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _tensors() -> dict[str, TensorInfo]:
    """Names and shapes as ``transformers`` has them."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(CONFIG)
    return {
        name: TensorInfo(tuple(parameter.shape), torch.bfloat16)
        for name, parameter in model.named_parameters()
    }


def _write_random(folder: Path, tensors: Mapping[str, TensorInfo]) -> None:
    CONFIG.save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    with HfWriter(folder, tensors) as writer:
        for name, info in tensors.items():
            numbers = torch.empty(info.shape, dtype=info.dtype)
            writer.write(name, numbers.uniform_(-0.05, 0.05, generator=generator))


def _copy_seconds(source: Path, copy: Path) -> float:
    started = time.perf_counter()
    shutil.copytree(source, copy)
    for path in copy.iterdir():  # a conversion too ends when its files are on the disk
        with path.open("rb") as file:
            os.fsync(file.fileno())
    seconds = time.perf_counter() - started
    shutil.rmtree(copy)
    return seconds


def _num_equal(before: Path, after: Path) -> int:
    old, new = HfWeights(before), HfWeights(after)
    if old.tensors != new.tensors:
        return 0
    return sum(_equal_bits(old.read(name), new.read(name)) for name in old.tensors)


def _equal_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.equal(a.view(torch.int16), b.view(torch.int16))
