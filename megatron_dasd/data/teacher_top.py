"""The teacher's likeliest tokens at every position, as companions of packed data.

::

    <stage>/data/
      meta.json             TopMeta
      teacher_topk.bin/.idx Megatron indexed dataset, uint8: bytes of ``data.top_codec``

The k values at place i describe the distribution that token i was drawn from, the likeliest first.
Nothing precedes the first token, so its values are unknown: id -1, log-prob -inf.  They belong to
documents, not to rows, and so serve any packing order, micro-batch and layout.

Older folders hold ``teacher_topk_ids`` (int32) and ``teacher_topk_logprobs`` (float32) in place of
``teacher_topk``, n x k values for a document of n tokens; they are read too.
"""

import hashlib
import json
import shutil
from collections.abc import Iterable, Sequence
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
from megatron_dasd.data.top_codec import decode_top
from megatron_dasd.errors import UserError
from megatron_dasd.json_values import checked_as
from megatron_dasd.paths import is_plain_name

TOP = "teacher_topk"
IDS = "teacher_topk_ids"
LOGPROBS = "teacher_topk_logprobs"
UNKNOWN_ID = -1


@dataclass(frozen=True, kw_only=True)
class TopMeta:
    """Producer: score_topk.  Consumer: train."""

    top_k: int
    documents: str
    """SHA-256 of the token index, and so of the documents' lengths, that this belongs to."""
    mean_mass: float
    """Total probability of the teacher's k likeliest tokens, mean over places."""
    teachers: dict[str, str] = field(default_factory=dict)
    """Name of each teacher, by the domain of the documents that it has scored; ``""``: one teacher
    has scored all."""
    unscored: dict[str, int] = field(default_factory=dict)
    """Documents of which nothing is known because no server answered well, by the last fault."""
    file_bytes: dict[str, int] = field(default_factory=dict)
    """Size of every file beside ``meta.json``."""


def documents_digest(data: Path) -> str:
    """Identifies the documents of packed data, as ``TopMeta.documents``."""
    return hashlib.sha256((data_folder(data) / f"{TOKENS}.idx").read_bytes()).hexdigest()


def write_top(
    folder: Path, shards: Iterable[Path], sizes: npt.NDArray[np.integer], meta: TopMeta
) -> None:
    """Concatenate shards into an indexed dataset.

    Args:
        folder: an empty folder.
        shards: files of compressed documents, in the order of the documents.
        sizes: [documents] compressed bytes of each.
    """
    with (folder / f"{TOP}.bin").open("wb") as target:
        for shard in shards:
            with shard.open("rb") as file:
                shutil.copyfileobj(file, target)
    write_index(folder / f"{TOP}.idx", np.uint8, sizes)
    files = {path.name: path.stat().st_size for path in sorted(folder.iterdir())}
    (folder / META).write_text(json.dumps(asdict(replace(meta, file_bytes=files)), indent=2))


def unknown_top(
    num_tokens: int, top_k: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """(ids, log-probs), each ``[tokens, k]``, of which none is known."""
    shape = (num_tokens, top_k)
    return np.full(shape, UNKNOWN_ID, np.int64), np.full(shape, -np.inf, np.float32)


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
        folder = self._top_folder = data_folder(top)
        try:
            self.top = checked_as(TopMeta, (folder / META).read_bytes())
            for name, size in self.top.file_bytes.items():
                if not is_plain_name(name):
                    raise ValueError(f"{META} names {name!r}")
                found = (folder / name).stat().st_size
                if found != size:
                    raise ValueError(f"{name} has {found} bytes, {META} asks for {size}")
            names_of_files = (TOP,) if f"{TOP}.idx" in self.top.file_bytes else (IDS, LOGPROBS)
            self._top = [IndexedDataset(str(folder / name)) for name in names_of_files]
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
            known_ids, known_logprobs = self._of_document(document)
            end = start + len(known_ids) - 1
            ids[start:end], logprobs[start:end] = known_ids[1:], known_logprobs[1:]
        return {IDS: ids, LOGPROBS: logprobs}

    def _of_document(self, document: int) -> tuple[npt.NDArray[np.number], npt.NDArray[np.number]]:
        """(ids, log-probs) of a document, each ``[tokens, k]``."""
        if len(self._top) == 2:
            ids, logprobs = (one[document].reshape(-1, self.top.top_k) for one in self._top)
            return ids, logprobs
        num_tokens = int(self.datasets[TOKENS].sequence_lengths[document])
        try:
            return decode_top(self._top[0][document], num_tokens, self.top.top_k)
        except ValueError as error:
            raise UserError(
                f"{self._top_folder}: document {document}: damaged ({error}); run score_topk again"
            ) from None
