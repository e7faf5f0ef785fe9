"""Safetensors files written one tensor at a time, in shards with an index."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Self

import torch
from torch import Tensor

from megatron_dasd.checkpoint.hf_folder import (
    DTYPES,
    GIGABYTE,
    INDEX,
    SINGLE,
    TensorInfo,
    copy_companions,
)

MAX_SHARD_BYTES = 5 * GIGABYTE
_DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class HfWriter:
    """Writes tensors into shards, in the order and shapes that are given beforehand.

    A shard's header says where each of its tensors lies, so it is known before the first number;
    the tensors then follow one another.
    """

    def __init__(
        self,
        folder: Path,
        tensors: Mapping[str, TensorInfo],
        max_shard_bytes: int = MAX_SHARD_BYTES,
    ) -> None:
        """Lay out the shards.

        Args:
            folder: exists.
            tensors: all of them, in the order in which they will be written.
            max_shard_bytes: a larger tensor gets a shard of its own.
        """
        self._folder, self._tensors = folder, tensors
        self._shards = _shards(tensors, max_shard_bytes)
        number = len(self._shards)
        self._files = [
            SINGLE if number == 1 else f"model-{i + 1:05d}-of-{number:05d}.safetensors"
            for i in range(number)
        ]
        self._coming = [(i, name) for i, shard in enumerate(self._shards) for name in shard]
        self._coming.reverse()
        self._open: tuple[int, BinaryIO] | None = None

    def write(self, name: str, tensor: Tensor) -> None:
        """Write the next tensor."""
        shard, expected = self._coming.pop()
        info = self._tensors[name]
        if name != expected or tuple(tensor.shape) != info.shape or tensor.dtype != info.dtype:
            raise RuntimeError(f"tensor {name} is not the one laid out: {expected} {info}")
        if self._open is None or self._open[0] != shard:
            self._close()
            file = (self._folder / self._files[shard]).open("wb")
            self._open = (shard, file)
            file.write(_header({x: self._tensors[x] for x in self._shards[shard]}))
        self._open[1].write(tensor.contiguous().flatten().view(torch.uint8).numpy())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._close()
        if kind is None:
            if self._coming:
                raise RuntimeError(f"tensor {self._coming[-1][1]} was never written")
            self._write_index()

    def _close(self) -> None:
        if self._open is not None:
            close_on_disk(self._open[1])
            self._open = None

    def _write_index(self) -> None:
        if len(self._shards) == 1:
            return
        index = {
            "metadata": {"total_size": sum(t.num_bytes for t in self._tensors.values())},
            "weight_map": {
                name: file
                for shard, file in zip(self._shards, self._files, strict=True)
                for name in shard
            },
        }
        (self._folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _shards(tensors: Mapping[str, TensorInfo], max_shard_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, info in tensors.items():
        if shards[-1] and size + info.num_bytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += info.num_bytes
    return shards


def _header(tensors: Mapping[str, TensorInfo]) -> bytes:
    """A safetensors file's beginning: 8 bytes of length, then JSON, filled up to 8 bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, info in tensors.items():
        end = start + info.num_bytes
        dtype = _DTYPE_NAMES[info.dtype]
        header[name] = {"dtype": dtype, "shape": info.shape, "data_offsets": (start, end)}
        start = end
    data = json.dumps(header, separators=(",", ":")).encode()
    data += b" " * (-len(data) % 8)
    return len(data).to_bytes(8, "little") + data


def write_hf_folder(folder: Path, tensors: Mapping[str, Tensor], source: Path) -> None:
    """Write weights in memory beside the companions of another folder."""
    infos = {name: TensorInfo(tuple(t.shape), t.dtype) for name, t in tensors.items()}
    with HfWriter(folder, infos) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)
    copy_companions(source, folder)


def close_on_disk(file: BinaryIO) -> None:
    """Close a file once the disk has all of it."""
    file.flush()
    os.fsync(file.fileno())
    file.close()
