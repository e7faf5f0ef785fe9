"""What packed data says of itself; read without torch, so that a plan is made in no time.

::

    <stage>/
      part-00000.parquet     Document records of a shard; over all parts, record i is document i
      data/
        meta.json            DataMeta
        tokens.bin/.idx      Megatron indexed dataset, a sequence a document
        loss_mask.bin/.idx   the same shape, uint8: 1 marks a token that is a target
        <companion>.bin/.idx the same shape, where there is something to say: see COMPANIONS
        sequence_weights.npy [documents] float32, where asked for: factors of the documents' losses
        document_groups.npy  [documents, kinds] uint16, of responses: numbers of ``groups``
        pack_documents.npy   [documents] document ids, those of a pack next to each other
        pack_offsets.npy     [packs + 1] where each pack begins among them
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_dasd.errors import UserError

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


@dataclass(frozen=True)
class Companion:
    """A dataset of one value a token, aligned with the tokens."""

    dtype: type[np.number]
    unknown: float
    """Stands where nothing is known of a token, and on padding."""

    def unknowns(self, size: int) -> npt.NDArray[Any]:
        """[size] of tokens of which nothing is known."""
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
"""Whose a token is, in the order of the numbers, from 1: the teacher's, of a response that it wrote
from the start; the student's; the teacher's behind those."""
GROUPS = ("domain", "temperature")
"""Kinds of groups that documents belong to: fields of :class:`Document`, and of a row."""


@dataclass(frozen=True, kw_only=True)
class Document:
    """One document of packed data.  Producer: preprocess_text, preprocess_data."""

    name: str
    """Where it comes from."""
    num_tokens: int
    num_loss_tokens: int
    prompt_id: str | None = None
    """Of a response, as all that follows."""
    domain: str | None = None
    temperature: float | None = None
    candidate: int | None = None
    mean_teacher_logprob: float | None = None
    """Mean ln p of the tokens that the teacher wrote, its own tokens, untempered."""
    num_prefix_tokens: int = 0
    """Tokens behind the prompt that the student wrote; 0: the teacher wrote the whole response."""


@dataclass(frozen=True, kw_only=True)
class DataMeta:
    """Sizes of packed data.  Producer: preprocess_text, preprocess_data.  Consumer: train."""

    seq_length: int
    """Tokens of a row."""
    pack_align: int
    """In a row every document is padded to a multiple of so many positions."""
    num_documents: int
    num_tokens: int
    num_loss_tokens: int
    """Tokens that are targets."""
    num_packs: int
    """Rows."""
    fill: float
    """Share of the rows' positions that hold a token; what aligns documents is padding."""
    vocab_size: int
    """Token ids are below it."""
    eod_id: int
    """The token that ends an assistant turn."""
    companions: list[str]
    """Those of ``COMPANIONS`` that are there."""
    file_bytes: dict[str, int]
    """Size of every file beside ``meta.json``."""
    groups: dict[str, list[str]] = field(default_factory=dict)
    """By kind the names of the documents' groups, in the order of their numbers from 1."""


def token_dtype(vocab_size: int) -> type[np.number]:
    """The type of ids, by Megatron's rule: two bytes where they do."""
    return np.uint16 if vocab_size < 65_500 else np.int32


def dtypes(meta: DataMeta) -> dict[str, type[np.number]]:
    """Types of the values of all datasets that are there, the tokens first."""
    companions = {name: COMPANIONS[name].dtype for name in meta.companions}
    return {TOKENS: token_dtype(meta.vocab_size), LOSS_MASK: np.uint8, **companions}


def data_folder(path: Path) -> Path:
    """The folder that holds the packed data of an input: the path itself or ``data`` inside it.

    Raises:
        UserError: neither does.
    """
    for folder in (path, path / DATA):
        if (folder / META).is_file():
            return folder
    raise UserError(f"{path}: no packed data here (no {META})")


def read_meta(path: Path) -> DataMeta:
    """Read the meta data of a preprocessing stage's folder.

    Raises:
        UserError: it is missing or damaged.
    """
    file = data_folder(path) / META
    try:
        return DataMeta(**json.loads(file.read_text()))
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
        raise UserError(f"{file}: damaged ({error}); run the preprocessing stage again") from None
