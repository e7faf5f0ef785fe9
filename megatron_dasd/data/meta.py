"""Metadata of packed data, read without torch so that planning stays fast.

::

    <stage>/
      part-00000.parquet     Document records of a shard; over all parts, record i is document i
      data/
        meta.json            DataMeta
        tokens.bin/.idx      Megatron indexed dataset, a sequence a document
        loss_mask.bin/.idx   the same shape, uint8: 1 marks a token that is a target
        <companion>.bin/.idx the same shape, where anything is known: see COMPANIONS
        sequence_weights.npy [documents] float32, optional: factors of the documents' losses
        document_groups.npy  [documents, kinds] uint16, of responses: numbers of ``groups``
        pack_documents.npy   [documents] document ids, those of a pack next to each other
        pack_offsets.npy     [packs + 1] where each pack begins among them
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_dasd.errors import UserError
from megatron_dasd.json_values import read_as
from megatron_dasd.paths import is_plain_name

DATA = "data"
META = "meta.json"
TOKENS = "tokens"
LOSS_MASK = "loss_mask"
TEACHER_LOGPROBS = "teacher_logprobs"
SENTENCE_CLASSES = "sentence_classes"
WRITERS = "writers"
SEQUENCE_WEIGHTS = "sequence_weights.npy"
DOCUMENT_GROUPS = "document_groups.npy"
PACK_DOCUMENTS = "pack_documents.npy"
PACK_OFFSETS = "pack_offsets.npy"
_MOST = 10**12
"""A larger size is damage."""


@dataclass(frozen=True)
class Companion:
    """A dataset of one value a token, aligned with the tokens."""

    dtype: type[np.number]
    unknown: float
    """Value of tokens of which nothing is known, and of padding."""

    def unknowns(self, size: int) -> npt.NDArray[np.number]:
        """[size] The companion of tokens of which nothing is known."""
        return np.full(size, self.unknown, self.dtype)


COMPANIONS = {
    # ln p(token | prefix) under the teacher, untempered
    TEACHER_LOGPROBS: Companion(np.float32, float("nan")),
    # 1 + index into CLASS_NAMES; 0: in no sentence
    SENTENCE_CLASSES: Companion(np.uint8, 0),
    # 1 + index into WRITER_NAMES
    WRITERS: Companion(np.uint8, 1),
}
CLASS_NAMES = ("teacher", "student", "shared", "boosted")
"""Sentence classes in the order of their numbers, from 1."""
WRITER_NAMES = ("response", "prefix", "continuation")
"""Who wrote a token, in the order of the numbers from 1: the teacher, in a response of its own; the
student, in a prefix; the teacher, continuing such a prefix."""
GROUPS = ("domain", "temperature")
"""Kinds of groups that documents belong to; fields of :class:`Document` and of a row."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """One document of packed data.  Producer: preprocess_text, preprocess_data."""

    name: str
    """Where the document comes from."""
    num_tokens: int
    num_loss_tokens: int
    prompt_id: str | None = None
    """This and the fields below are set for responses."""
    domain: str | None = None
    temperature: float | None = None
    candidate: int | None = None
    mean_teacher_logprob: float | None = None
    """Mean ln p of the tokens that the teacher wrote, its own tokens, untempered."""
    num_prefix_tokens: int = 0
    """Response tokens that the student wrote; 0: the teacher wrote the whole response."""


@dataclass(frozen=True, kw_only=True)
class DataMeta:
    """Sizes of packed data.  Producer: preprocess_text, preprocess_data.  Consumer: train."""

    seq_length: int
    """Tokens of a row."""
    pack_align: int
    """In a row every document is padded to a multiple of this many positions."""
    num_documents: int
    num_tokens: int
    num_loss_tokens: int
    """Tokens that are targets."""
    num_packs: int
    """Rows."""
    fill: float
    """Share of the rows' positions that hold a token; alignment counts as padding."""
    vocab_size: int
    """Token ids are below it."""
    eod_id: int
    """The token that ends an assistant turn."""
    companions: list[str]
    """Names of ``COMPANIONS`` that the data has."""
    file_bytes: dict[str, int]
    """Size of every file beside ``meta.json``."""
    groups: dict[str, list[str]] = field(default_factory=dict)
    """Names of the documents' groups by kind, in the order of their numbers from 1."""


def token_dtype(vocab_size: int) -> type[np.number]:
    """The type of token ids, by Megatron's rule: two bytes where those suffice."""
    return np.uint16 if vocab_size < 65_500 else np.int32


def dtypes(meta: DataMeta) -> dict[str, type[np.number]]:
    """Types of the values of all datasets of the data, the tokens first."""
    companions = {name: COMPANIONS[name].dtype for name in meta.companions}
    return {TOKENS: token_dtype(meta.vocab_size), LOSS_MASK: np.uint8, **companions}


def data_folder(path: Path) -> Path:
    """The folder that holds the packed data of an input: the path itself or ``data`` inside it.

    Raises:
        UserError: neither holds any.
    """
    for folder in (path, path / DATA):
        if (folder / META).is_file():
            return folder
    raise UserError(f"{path}: no packed data here (no {META})")


def read_meta(path: Path) -> DataMeta:
    """Read the metadata of a preprocessing stage's folder.

    Raises:
        UserError: it is missing or damaged.
    """
    file = data_folder(path) / META
    advice = "run the preprocessing stage again"
    meta = read_as(file, DataMeta, advice)
    wrong = [name for name in meta.file_bytes if not is_plain_name(name)]
    wrong += [name for name in meta.companions if name not in COMPANIONS]
    sizes = (meta.seq_length, meta.pack_align, meta.num_packs, meta.vocab_size)
    if wrong or min(sizes) < 1 or max(sizes) > _MOST:
        what = f"unknown name {wrong[0]!r}" if wrong else "a size is out of range"
        raise UserError(f"{file}: damaged ({what}); {advice}")
    return meta
