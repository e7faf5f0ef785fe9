"""Stage import_responses: responses that a teacher wrote elsewhere."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import batched
from pathlib import Path

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.formats import PRESETS, Columns
from megatron_dasd.config.sources import ImportResponses
from megatron_dasd.errors import UserError
from megatron_dasd.json_values import Figures
from megatron_dasd.manifests import MODEL, fingerprint_of, input_digest, read_manifest
from megatron_dasd.printing import say
from megatron_dasd.progress import progress
from megatron_dasd.records_io import numbered_rows, parse_line
from megatron_dasd.sources.joined import Joined
from megatron_dasd.sources.numbering import ScannedRows
from megatron_dasd.sources.plain import (
    PART_RECORDS,
    cut_shards,
    make_parts,
    number_shards,
    scan_shard,
    write_rows,
)
from megatron_dasd.sources.row_fields import fitting_formats
from megatron_dasd.sources.user_files import UserFile, user_files
from megatron_dasd.text.encoding import load_tokenizer
from megatron_dasd.workers import Workers


def run(settings: ImportResponses, inputs: Mapping[str, Path], folder: StageFolder) -> Figures:
    """Write parts of :class:`Response`, some records each, in the order of the files.

    Raises:
        UserError: a file cannot be read, a row is malformed, or one id belongs to two questions.
    """
    files = [file for name in settings.files for file in user_files(inputs[name], settings.splits)]
    not_read = dict(
        _join(settings, files, inputs, folder)
        if settings.logprobs
        else _import(settings, files, folder)
    )
    if not folder.has_part(0):
        raise UserError(f"{files[0].path}: holds no record")
    if not_read:
        fields = ", ".join(f"{name} ({count:,})" for name, count in not_read.items())
        say(f"fields that are not read: {fields}")
    return {"fields_not_read": not_read}


def _import(
    settings: ImportResponses, files: Sequence[UserFile], folder: StageFolder
) -> list[tuple[str, int]]:
    """Import rows that each hold whole responses; returns the fields that are not read."""
    shards = cut_shards(settings, _columns_of(settings, files), files)
    scans: list[ScannedRows] = []
    not_read: Counter[str] = Counter()
    with Workers(settings.num_workers, len(shards)) as workers:
        with progress("reading", total=len(shards), unit="shards") as bar:
            for scan in workers.in_order(scan_shard, shards):
                scans.append(scan.rows)
                not_read += scan.not_read
                bar.advance(1)
        jobs, num_records = number_shards(shards, scans, folder.path)
        with progress("importing", total=num_records, unit="records") as bar:
            for made in workers.in_order(make_parts, jobs):
                bar.advance(made)
    return not_read.most_common()


def _join(
    settings: ImportResponses,
    files: Sequence[UserFile],
    inputs: Mapping[str, Path],
    folder: StageFolder,
) -> list[tuple[str, int]]:
    """Import texts whose log-probs lie in other files; returns the fields that are not read."""
    assert settings.tokenizer is not None  # as the settings make sure
    path = inputs[settings.tokenizer]
    tokenizer = load_tokenizer(path / MODEL if (path / MODEL).is_dir() else path)
    parquet = [file.path for name in settings.logprobs for file in user_files(inputs[name])]
    source = Joined(settings, [file.path for file in files], parquet, tokenizer)
    with progress("importing", total=source.num_rows(), unit="records") as bar:
        for index, chunk in enumerate(batched(source.rows(), PART_RECORDS)):
            if not folder.has_part(index):
                write_rows(folder.path, index, chunk, settings)
            bar.advance(len(chunk))
    return source.not_read.most_common()


def import_files(settings: ImportResponses, folder: Path) -> Path:
    """Turn users' files into records in a folder, without a pipeline file.

    The folder is then what a stage of these settings would have written.  It is left as it is where
    it holds that already, and work that was interrupted goes on.

    Args:
        settings: their ``files`` are paths.
        folder: made where it does not exist.

    Raises:
        UserError: as :func:`run`; or the folder holds something else.
    """
    references = [*settings.files, *settings.logprobs, *filter(None, [settings.tokenizer])]
    inputs = {name: Path(name) for name in references}
    digests = {name: input_digest(path) for name, path in inputs.items()}
    given = settings.identity()
    done = read_manifest(folder)
    if done is None or done.fingerprint != fingerprint_of(settings.kind, given, digests):
        with StageFolder(folder, folder.name, settings.kind, given, digests) as stage:
            stage.finish(figures=run(settings, inputs, stage))
    return folder


def _columns_of(settings: ImportResponses, files: Sequence[UserFile]) -> Columns:
    """The columns to read: as the settings say, else those of the format that a record fits.

    Raises:
        UserError: the first record fits no format, or several.
    """
    if settings.names_a_shape:
        return settings.columns()
    for file in files:
        for number, row in numbered_rows(file.path):
            place = f"{file.path}: record {number}"
            try:
                parsed = parse_line(row) if isinstance(row, str) else row
            except ValueError:  # reported when it is read
                continue
            fits = fitting_formats(parsed)
            if len(fits) != 1:
                given = f"the fields {', '.join(parsed)} are those of "
                known = " and ".join(fits) if fits else "no format that is known"
                raise UserError(f"{place}: {given}{known}; set format, or the columns")
            say(f"{file.path}: read as format: {fits[0]}")
            return settings.columns(PRESETS[fits[0]])
    raise UserError(f"{files[0].path}: holds no record")
