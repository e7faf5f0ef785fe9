"""What packed data says of itself; read without torch, so that a plan is made in no time.

::

    <stage>/
      part-00000.parquet     Document records: row i describes document i
      data/
        meta.json            DataMeta
        tokens.bin/.idx      Megatron indexed dataset, a sequence a document
        loss_mask.bin/.idx   the same shape, uint8: 1 marks a token that is a target
        pack_documents.npy   [documents] document ids, those of a pack next to each other
        pack_offsets.npy     [packs + 1] where each pack begins among them
"""

import json
from dataclasses import dataclass
from pathlib import Path

from megatron_dasd.errors import UserError

DATA = "data"
META = "meta.json"
TOKENS = "tokens"
LOSS_MASK = "loss_mask"
PACK_DOCUMENTS = "pack_documents.npy"
PACK_OFFSETS = "pack_offsets.npy"


@dataclass(frozen=True, kw_only=True)
class Document:
    """One document of packed data.  Producer: preprocess_text, preprocess_data."""

    name: str
    """Where it comes from."""
    num_tokens: int
    num_loss_tokens: int


@dataclass(frozen=True, kw_only=True)
class DataMeta:
    """Sizes of packed data.  Producer: preprocess_text, preprocess_data.  Consumer: train."""

    seq_length: int
    """Tokens of a row."""
    num_documents: int
    num_tokens: int
    num_loss_tokens: int
    """Tokens that are targets."""
    num_packs: int
    """Rows."""
    fill: float
    """Share of the rows' positions that hold a token."""
    vocab_size: int
    """Token ids are below it."""
    eod_id: int
    """The token that ends an assistant turn."""
    file_bytes: dict[str, int]
    """Size of every file beside ``meta.json``."""


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
    except (json.JSONDecodeError, TypeError) as error:
        raise UserError(f"{file}: damaged ({error}); run the preprocessing stage again") from None
