"""Trained tensors laid into a copy of the files that they came from; every other byte stays.

For models of which a part was trained: the tensors of the other parts, the order of the tensors in
the files, and the files' headers are those of the source.
"""

import json
import shutil
from math import prod
from pathlib import Path
from typing import BinaryIO, Self

import torch
from torch import Tensor

from megatron_dasd.checkpoint.hf_folder import INDEX, HfWeights
from megatron_dasd.checkpoint.hf_writer import close_on_disk

_LENGTH_BYTES = 8
"""A safetensors file begins with the length of its header, little endian."""


class HfOverlay:
    """Copies a folder's weight files and replaces some of their tensors."""

    def __init__(self, source: HfWeights, folder: Path) -> None:
        """Copy the files.

        Args:
            source: whose tensors they are.
            folder: exists; the copies go there.
        """
        self._source, self._folder = source, folder
        self._starts: dict[Path, dict[str, int]] = {}
        self._open: tuple[Path, BinaryIO] | None = None
        index = source.folder / INDEX
        if index.exists():
            shutil.copyfile(index, folder / INDEX)
        for path in sorted(source.files()):
            shutil.copyfile(path, folder / path.name)
            self._starts[path] = _starts(path)

    def write(self, name: str, tensor: Tensor) -> None:
        """Write a tensor over the source's of that name, of the same shape and type."""
        info, place = self._source.tensors[name], self._source.place(name)
        if tuple(tensor.shape) != info.shape or tensor.dtype != info.dtype:
            raise RuntimeError(f"tensor {name} is not of the source's shape and type: {info}")
        start = self._starts[place.file][place.stored]
        # A part of a stacked tensor is whole rows, which lie one behind the other.
        if place.slices:
            expert, rows = place.slices
            assert isinstance(expert, int)
            assert isinstance(rows, slice)
            row_bytes = prod(info.shape[1:]) * info.dtype.itemsize
            start += (expert * place.shape[1] + rows.start) * row_bytes
        file = self._file(place.file)
        file.seek(start)
        file.write(tensor.contiguous().flatten().view(torch.uint8).numpy())

    def _file(self, source: Path) -> BinaryIO:
        if self._open is None or self._open[0] != source:
            self._close()
            self._open = (source, (self._folder / source.name).open("r+b"))
        return self._open[1]

    def _close(self) -> None:
        if self._open is not None:
            close_on_disk(self._open[1])
            self._open = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()


def _starts(path: Path) -> dict[str, int]:
    """Where each tensor's first byte lies in a file that was read before without an error."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        header = json.loads(file.read(length))
    return {
        name: _LENGTH_BYTES + length + facts["data_offsets"][0]
        for name, facts in header.items()
        if name != "__metadata__"
    }
