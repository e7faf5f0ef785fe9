"""Stage import_responses: responses that a teacher wrote elsewhere."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
from megatron_dasd.prompt_ids import PromptIds, question_of
from megatron_dasd.records import Response
from megatron_dasd.records_io import RawRow, SetAside, count_records, numbered_rows, parse_line
from megatron_dasd.sources.joined import Joined
from megatron_dasd.sources.response_rows import Row, failing, make_response, read_row, shown
from megatron_dasd.sources.row_fields import fitting_formats
from megatron_dasd.sources.user_files import UserFile, user_files
from megatron_dasd.text.encoding import load_tokenizer

PART_RECORDS = 32


def run(settings: ImportResponses, inputs: Mapping[str, Path], folder: StageFolder) -> Figures:
    """Write parts of :class:`Response`, some records each, in the order of the files.

    Raises:
        UserError: a file cannot be read, a row is malformed, or one id belongs to two questions.
    """
    files = [file for name in settings.files for file in user_files(inputs[name], settings.splits)]
    if settings.logprobs:
        assert settings.tokenizer is not None  # as the settings make sure
        path = inputs[settings.tokenizer]
        tokenizer = load_tokenizer(path / MODEL if (path / MODEL).is_dir() else path)
        parquet = [file.path for name in settings.logprobs for file in user_files(inputs[name])]
        texts = [file.path for file in files]
        source: Joined | _Plain = Joined(settings, texts, parquet, tokenizer)
    else:
        source = _Plain(settings, files)
    with progress("importing", total=source.num_rows(), unit="records") as bar:
        for index, chunk in enumerate(batched(source.rows(), PART_RECORDS)):
            if not folder.has_part(index):
                aside, responses = SetAside(settings.on_malformed), []
                for row in chunk:
                    try:
                        responses.append(row.make())
                    except ValueError as error:
                        aside.malformed(f"{row.place}: {error}", row.shown())
                aside.counts["imported"] = len(responses)
                folder.write_part(index, Response, responses, aside.counts, aside.rows)
            bar.advance(len(chunk))
    if not folder.has_part(0):
        raise UserError(f"{files[0].path}: holds no record")
    not_read = dict(source.not_read.most_common())
    if not_read:
        fields = ", ".join(f"{name} ({count:,})" for name, count in not_read.items())
        say(f"fields that are not read: {fields}")
    return {"fields_not_read": not_read}


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


class _Plain:
    """Rows that each hold whole responses."""

    def __init__(self, settings: ImportResponses, files: Sequence[UserFile]) -> None:
        self._settings = settings
        self._files = files
        self._columns = _columns_of(settings, files)
        self._candidates: Counter[str] = Counter()
        self._splits: dict[bytes, str] = {}
        self._ids = PromptIds()
        self.not_read: Counter[str] = Counter()
        """Fields that have a value and are not read, by name: rows that have them."""

    def num_rows(self) -> int:
        """Number of rows in all files."""
        return sum(count_records(file.path) for file in self._files)

    def rows(self) -> Iterator[Row]:
        """Yield the responses of all rows in order."""
        for file in self._files:
            for number, row in numbered_rows(file.path):
                yield from self._rows(f"{file.path}: record {number}", row, file)

    def _rows(self, place: str, row: RawRow, file: UserFile) -> Iterator[Row]:
        # Candidates are counted here and not in make(), which a resumed run does not call for parts
        # that exist.
        try:
            parsed = parse_line(row) if isinstance(row, str) else row
            example = read_row(self._columns, parsed, file.split)
            prompt = example.prompt
            self._ids.check(prompt, place)
            question = question_of(prompt.messages)
            if self._splits.setdefault(question, file.split) != file.split:
                other = self._splits[question]
                raise ValueError(f"the same question is in a file of the split {other} too")
        except ValueError as error:
            yield Row(place, failing(error), lambda: shown(row))
            return
        self.not_read += example.not_read
        for answer in example.answers:
            candidate = self._candidates[prompt.prompt_id]
            self._candidates[prompt.prompt_id] += 1
            yield Row(
                place,
                lambda answer=answer, candidate=candidate: make_response(  # type: ignore[misc]
                    self._settings, prompt, answer, candidate, None
                ),
                lambda: shown(row),
            )
