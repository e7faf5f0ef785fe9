"""The teacher's likeliest tokens at every position, as companions of packed data.

::

    <stage>/data/
      meta.json                      TopMeta
      teacher_topk_ids.bin/.idx      Megatron indexed dataset, int32; of a document of n tokens
                                     n x k values, k for the token at each place
      teacher_topk_logprobs.bin/.idx the same shape, float32

The k values at place i describe the distribution that token i was drawn from, the likeliest first.
Nothing precedes the first token, so its values are unknown: id -1, log-prob -inf.  They belong to
documents, not to rows, and so serve any packing order, micro-batch and layout.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from megatron.core.datasets.indexed_dataset import IndexedDataset

from megatron_dasd.data.groups import Names
from megatron_dasd.data.indexed import write_index
from megatron_dasd.data.meta import META, TOKENS, data_folder
from megatron_dasd.data.packed_dataset import PackedDataset
from megatron_dasd.data.rows import Row
from megatron_dasd.errors import UserError
from megatron_dasd.json_values import checked_as
from megatron_dasd.paths import is_plain_name

IDS = "teacher_topk_ids"
LOGPROBS = "teacher_topk_logprobs"
DTYPES: dict[str, type[np.number]] = {IDS: np.int32, LOGPROBS: np.float32}
UNKNOWN_ID = -1


@dataclass(frozen=True, kw_only=True)
class TopMeta:
    """Producer: score_topk.  Consumer: train."""

    top_k: int
    documents: str
    """SHA-256 of the token index, and so of the documents' lengths, that this belongs to."""
    mean_mass: float
    """Total probability of the teacher's k likeliest tokens, mean over places."""
    file_bytes: dict[str, int] = field(default_factory=dict)
    """Size of every file beside ``meta.json``."""


def documents_digest(data: Path) -> str:
    """Identifies the documents of packed data, as ``TopMeta.documents``."""
    return hashlib.sha256((data_folder(data) / f"{TOKENS}.idx").read_bytes()).hexdigest()


def write_top(
    folder: Path, shards: Sequence[Path], lengths: npt.NDArray[np.integer], meta: TopMeta
) -> None:
    """Concatenate shards into indexed datasets.

    Args:
        folder: an empty folder.
        shards: in the order of the documents; ``<shard>.<dataset>`` holds raw values.
        lengths: [documents] tokens of each.
    """
    for name, dtype in DTYPES.items():
        with (folder / f"{name}.bin").open("wb") as file:
            for shard in shards:
                file.write(shard.with_suffix(f".{name}").read_bytes())
        write_index(folder / f"{name}.idx", dtype, lengths * meta.top_k)
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    (folder / META).write_text(json.dumps(asdict(replace(meta, file_bytes=sizes)), indent=2))


def with_top(row: Row) -> Row:
    """The row with the teacher's likeliest tokens marked as unknown, where it has none."""
    if IDS in row:
        return row
    shape = (len(row[TOKENS]), 1)
    return row | {
        IDS: np.full(shape, UNKNOWN_ID, dtype=np.int64),
        LOGPROBS: np.full(shape, -np.inf, dtype=np.float32),
    }


class DistillationDataset(PackedDataset):
    """Packed rows with the teacher's likeliest tokens at the places of the labels.

    A row has ``teacher_topk_ids`` int64 and ``teacher_topk_logprobs`` float32 beside what a
    ``PackedDataset`` gives, both ``[seq, k]``.
    """

    def __init__(
        self,
        path: Path,
        top: Path,
        names: Names | None = None,
        companions: Sequence[str] | None = None,
    ) -> None:
        """Open the files.

        Args:
            path: packed data.
            top: folder of the stage that scored it.
            names: see ``PackedDataset``, as ``companions``.

        Raises:
            UserError: a file is missing or damaged, or belongs to other documents.
        """
        super().__init__(path, names, companions)
        folder = data_folder(top)
        try:
            self.top = checked_as(TopMeta, (folder / META).read_bytes())
            for name, size in self.top.file_bytes.items():
                if not is_plain_name(name):
                    raise ValueError(f"{META} names {name!r}")
                found = (folder / name).stat().st_size
                if found != size:
                    raise ValueError(f"{name} has {found} bytes, {META} asks for {size}")
            self._top = {name: IndexedDataset(str(folder / name)) for name in DTYPES}
        except (AssertionError, OSError, TypeError, ValueError) as error:
            raise UserError(f"{folder}: damaged ({error}); run score_topk again") from None
        if self.top.documents != documents_digest(path):
            raise UserError(f"{folder}: is of other documents than {path}; run score_topk on these")

    def __getitem__(self, index: int) -> Row:
        """Return a row; raises as a ``PackedDataset`` does."""
        row = super().__getitem__(index)
        starts = row["cu_seqlens_padded"].tolist()
        return row | self._laid_out(self.packs[index].tolist(), starts)

    def padding_row(self) -> Row:
        """A row without documents, which adds nothing to the loss."""
        return super().padding_row() | self._laid_out([], [])

    def _laid_out(self, documents: list[int], starts: list[int]) -> Row:
        shape = self.meta.seq_length, self.top.top_k
        ids = np.full(shape, UNKNOWN_ID, dtype=np.int64)
        logprobs = np.full(shape, -np.inf, dtype=np.float32)
        for document, start in zip(documents, starts, strict=False):
            for name, laid in ((IDS, ids), (LOGPROBS, logprobs)):
                values = self._top[name][document].reshape(-1, self.top.top_k)
                laid[start : start + len(values) - 1] = values[1:]
        return {IDS: ids, LOGPROBS: logprobs}
