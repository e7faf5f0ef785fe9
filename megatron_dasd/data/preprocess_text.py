"""Stage preprocess_text: cuts plain texts into documents and packs them; loss on every token."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.resources import files as package_files
from itertools import batched
from pathlib import Path

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.data import PreprocessText
from megatron_dasd.data.indexed import DataFormat, ShardWriter, write_data
from megatron_dasd.data.meta import DATA, LOSS_MASK, TOKENS, Document, read_meta
from megatron_dasd.data.tokenizer import load_vocabulary
from megatron_dasd.errors import UserError
from megatron_dasd.json_values import Figures, require
from megatron_dasd.manifests import model_folder
from megatron_dasd.progress import progress
from megatron_dasd.records_io import (
    count_records,
    holds_rows,
    numbered_rows,
    parse_line,
    record_files,
)
from megatron_dasd.text.encoding import encode
from megatron_dasd.text.layout import end_of_turn_id


def run(settings: PreprocessText, inputs: Mapping[str, Path], folder: StageFolder) -> Figures:
    """Write the packed data, and a record of every document beside it.

    Raises:
        UserError: there is no text, a text cannot be read, or documents are longer than rows.
    """
    if settings.document_tokens > settings.seq_length:
        raise UserError(
            f"document_tokens {settings.document_tokens} exceeds seq_length {settings.seq_length}"
        )
    if not folder.has_part(0):
        _write(settings, inputs, folder)
    return asdict(read_meta(folder.path))


def _write(settings: PreprocessText, inputs: Mapping[str, Path], folder: StageFolder) -> None:
    tokenizer, vocab_size = load_vocabulary(model_folder(inputs[settings.model]))
    scratch = folder.scratch(DATA)
    data_format = DataFormat(
        settings.seq_length, settings.pack_align, vocab_size, end_of_turn_id(tokenizer)
    )
    writer = ShardWriter(scratch, data_format)
    documents: list[Document] = []
    room = settings.max_tokens
    num_texts = sum(_num_texts(inputs[name]) for name in settings.files)
    with progress("tokenising", total=len(settings.packages) + num_texts, unit="texts") as bar:
        for name, text in _texts(settings, inputs):
            token_ids = encode(tokenizer, text, parse_special=False)[:room]
            for number, piece in enumerate(batched(token_ids, settings.document_tokens)):
                size = len(piece)
                if size > 1:  # a token alone has nothing to be predicted from
                    own = f"{name} {number}"
                    writer.add(own, {TOKENS: piece, LOSS_MASK: [0] + [1] * (size - 1)})
                    documents.append(Document(name=own, num_tokens=size, num_loss_tokens=size - 1))
            room = None if room is None else room - len(token_ids)
            bar.advance(1)
    writer.close()
    if not documents:
        raise UserError("packages and files: hold no text")
    write_data(scratch, [scratch], data_format)
    folder.commit(scratch)
    folder.write_part(0, Document, documents, {"kept": len(documents)})


def _texts(settings: PreprocessText, inputs: Mapping[str, Path]) -> Iterator[tuple[str, str]]:
    """Name and text of every source, in the order of the settings.

    Raises:
        UserError: naming the package or file that cannot be read.
    """
    for package, path in settings.packages.items():
        name = f"{package}/{path}"
        try:
            yield name, package_files(package).joinpath(path).read_text(encoding="utf-8")
        except ModuleNotFoundError:
            raise UserError(f"packages: {package} is not installed") from None
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"packages: {name}: {error}") from None
    for reference in settings.files:
        source = inputs[reference]
        if _has_rows(source):
            yield from _column(reference, source, settings.text_field)
            continue
        try:  # as bytes, so that Windows newlines stay; a byte order mark is no part of the text
            yield reference, source.read_bytes().decode("utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{source}: {error}") from None


def _has_rows(source: Path) -> bool:
    return source.is_dir() or holds_rows(source)


def _num_texts(source: Path) -> int:
    return sum(map(count_records, record_files(source))) if _has_rows(source) else 1


def _column(reference: str, path: Path, field: str) -> Iterator[tuple[str, str]]:
    """Name and text of every row of a file or folder of rows.

    Raises:
        UserError: a file cannot be read, or a row has no such text.
    """
    for file in record_files(path):
        for number, raw in numbered_rows(file):
            try:
                text = require(parse_line(raw) if isinstance(raw, str) else raw, field, str)
            except ValueError as error:
                raise UserError(f"{file}: record {number}: {error}") from None
            yield f"{reference} {file.name} {number}", text
