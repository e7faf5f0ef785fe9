"""Stage import_responses: responses that a teacher wrote elsewhere."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import batched
from pathlib import Path

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.sources import ImportResponses
from megatron_dasd.errors import UserError
from megatron_dasd.json_values import Figures
from megatron_dasd.manifests import MODEL
from megatron_dasd.progress import progress
from megatron_dasd.records import Response
from megatron_dasd.records_io import RawRow, SetAside, parse_line
from megatron_dasd.sources.foreign import foreign_files, foreign_rows, num_foreign_rows
from megatron_dasd.sources.joined import Joined
from megatron_dasd.sources.response_rows import Row, failing, make_response, read_row, shown
from megatron_dasd.text.encoding import load_tokenizer

PART_RECORDS = 32


def run(settings: ImportResponses, inputs: Mapping[str, Path], folder: StageFolder) -> Figures:
    """Write parts of :class:`Response`, some records each, in the order of the files."""
    files = [file for name in settings.files for file in foreign_files(inputs[name])]
    if settings.logprobs:
        assert settings.tokenizer is not None  # as the settings make sure
        path = inputs[settings.tokenizer]
        tokenizer = load_tokenizer(path / MODEL if (path / MODEL).is_dir() else path)
        parquet = [file for name in settings.logprobs for file in foreign_files(inputs[name])]
        source: Joined | _Plain = Joined(settings, files, parquet, tokenizer)
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
        raise UserError(f"{files[0]}: holds no record")
    return {}


class _Plain:
    """Rows that each hold a whole response."""

    def __init__(self, settings: ImportResponses, files: Sequence[Path]) -> None:
        self._settings = settings
        self._files = files
        self._candidates: Counter[str] = Counter()

    def num_rows(self) -> int:
        """Number of rows in all files."""
        return sum(num_foreign_rows(file) for file in self._files)

    def rows(self) -> Iterator[Row]:
        """Yield them in order."""
        for file in self._files:
            for number, row in foreign_rows(file):
                yield self._row(f"{file}: record {number}", row)

    def _row(self, place: str, row: RawRow) -> Row:
        # Candidates are counted here and not in make(), which a resumed run does not call for parts
        # that exist.
        try:
            parsed = parse_line(row) if isinstance(row, str) else row
            prompt, text, calls, reason = read_row(self._settings, parsed)
        except ValueError as error:
            return Row(place, failing(error), lambda: shown(row))
        candidate = self._candidates[prompt.prompt_id]
        self._candidates[prompt.prompt_id] += 1
        return Row(
            place,
            lambda: make_response(self._settings, prompt, text, candidate, None, calls, reason),
            lambda: shown(row),
        )
