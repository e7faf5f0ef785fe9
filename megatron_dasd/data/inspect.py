"""Packed data for human eyes: a row decoded, or what is wrong with the whole.

Masked text is dim, sentences have the colours of their classes, and a line stands where a document
begins and where padding does.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.rule import Rule
from rich.text import Text
from transformers import PreTrainedTokenizerBase

from megatron_dasd.data.integrity import faults
from megatron_dasd.data.meta import CLASS_NAMES, LOSS_MASK, SENTENCE_CLASSES, TOKENS
from megatron_dasd.data.packed_dataset import PackedDataset
from megatron_dasd.data.rows import Row
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import model_folder, part_files, read_manifest
from megatron_dasd.printing import one_line, say, shown
from megatron_dasd.records_io import open_parquet, parquet_errors
from megatron_dasd.text.encoding import load_tokenizer

STYLES = ("default", "green", "red", "default", "magenta")
"""Of a target by its sentence's class: none, teacher, student, shared, boosted."""


def show_row(folder: Path, row: int, model: Path | None = None) -> None:
    """Print a row.

    Args:
        folder: a preprocessing stage's.
        row: its number, from 0.
        model: folder of the tokenizer, or of its stage; None: as the stage's manifest says.

    Raises:
        UserError: no such row, no packed data or no tokenizer.
    """
    data = PackedDataset(folder)
    tokenizer = load_tokenizer(_tokenizer_folder(folder, model))
    console = Console(highlight=False)
    for line in row_lines(data, folder, row, tokenizer, in_words=not console.is_terminal):
        console.print(line)


def check(folder: Path) -> bool:
    """Print every fault of a data set, a line each; returns whether there is any.

    Raises:
        UserError: no packed data there.
    """
    found = False
    for fault in faults(folder):
        found = True
        say(fault)
    if not found:
        meta = PackedDataset(folder).meta
        say(f"{folder}: {meta.num_documents:,} documents in {meta.num_packs:,} rows, no fault")
    return found


def row_lines(
    data: PackedDataset,
    folder: Path,
    row: int,
    tokenizer: PreTrainedTokenizerBase,
    in_words: bool = False,
) -> Iterator[Text | Rule]:
    """What is shown of a row.

    Args:
        in_words: name the mask and the classes in the text, for where colours are not shown.

    Raises:
        UserError: no such row.
    """
    if not 0 <= row < len(data):
        raise UserError(f"{folder}: no row {row}, rows go from 0 to {len(data) - 1}")
    documents = data.packs[row].tolist()
    names = _names(folder, documents)
    used = data.datasets[TOKENS].sequence_lengths[documents].sum()
    yield Text(
        f"row {row} of {len(data)}: {len(documents)} documents, {used:,} tokens in "
        f"{data.meta.seq_length:,} positions"
    )
    if SENTENCE_CLASSES in data.datasets:
        yield Text("sentences: ") + Text(" ").join(
            Text(name, style) for name, style in zip(CLASS_NAMES, STYLES[1:], strict=True)
        )
    start = 0
    for place, number in enumerate(documents, start=1):
        document = data.document(number)
        length = len(document[TOKENS])
        slot = -(-length // data.meta.pack_align) * data.meta.pack_align
        end = data.meta.seq_length if place == len(documents) else start + slot
        title = one_line(f"document {number}, {names[number]}: {start} to {start + length - 1}")
        yield Rule(Text(title), align="left")
        yield _document_text(document, tokenizer, in_words)
        if end > start + length:
            yield Rule(Text(f"padding to {end - 1}", "dim"), style="dim", align="left")
        start = end


def _document_text(document: Row, tokenizer: PreTrainedTokenizerBase, in_words: bool) -> Text:
    """A document, runs of tokens of one kind decoded together."""
    classes = document.get(SENTENCE_CLASSES, np.zeros(len(document[TOKENS]), np.uint8))
    kinds = [
        number if target else None
        for target, number in zip(document[LOSS_MASK], classes.tolist(), strict=True)
    ]
    name = _kind_in_words if in_words else _style
    labels = map(name, kinds)
    text = Text()
    for label, run in groupby(zip(labels, document[TOKENS], strict=True), key=lambda pair: pair[0]):
        words = shown(tokenizer.decode([int(token) for _, token in run]))
        text.append(f"[{label}]{words}" if in_words else words, "" if in_words else label)
    return text


def _style(kind: int | None) -> str:
    return "dim" if kind is None else STYLES[kind]


def _kind_in_words(kind: int | None) -> str:
    """Whether a token has a loss, and the class of its sentence."""
    if kind is None:
        return "no loss"
    return f"loss, {CLASS_NAMES[kind - 1]}" if kind else "loss"


def _names(folder: Path, documents: Sequence[int]) -> dict[int, str]:
    """Names of documents by their records; their parts are counted, not read, on the way there."""
    names = dict.fromkeys(documents, "no record")
    first = 0
    for part in part_files(folder):
        with parquet_errors(part), open_parquet(part) as file:
            count = file.metadata.num_rows
            here = [number for number in documents if first <= number < first + count]
            if here:
                column = file.read(columns=["name"]).column("name")
                names.update((number, column[number - first].as_py()) for number in here)
        first += count
    return names


def _tokenizer_folder(folder: Path, given: Path | None) -> Path:
    """Where the tokenizer lies: as given, or in the stage that the manifest names as the model."""
    if given:
        return model_folder(given)
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder}: no finished stage here; name the tokenizer with --model")
    model = str(manifest.settings["model"])
    for path in (folder.parent / model, Path(model)):
        if path.is_dir():
            return model_folder(path)
    raise UserError(f"{folder}: its model {model} is not beside it; name it with --model")
