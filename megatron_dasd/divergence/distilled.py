"""A second scoring of the same responses: by the student after training."""

from collections.abc import Sequence
from pathlib import Path

from megatron_dasd.arrays import Floats, Ints
from megatron_dasd.divergence.provenance import ModelTokens
from megatron_dasd.errors import UserError
from megatron_dasd.record_batches import read_batches
from megatron_dasd.records import ResponseKey, ScoredResponse
from megatron_dasd.records_io import SetAside, record_files


def distilled_files(folder: Path | None, first_scoring: Sequence[Path]) -> Sequence[Path | None]:
    """The file of the second scoring for each file of the first; None for each without a folder.

    Raises:
        UserError: the folder has another number of parts than the first scoring.
    """
    if folder is None:
        return [None] * len(first_scoring)
    files = record_files(folder)
    if len(files) != len(first_scoring):
        raise UserError(
            f"{folder}: distilled: has {len(files)} parts, the responses "
            f"{len(first_scoring)}; score the same responses before and after training"
        )
    return files


class DistilledPart:
    """One part, held in memory."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._found: dict[ResponseKey, tuple[str, Ints, Floats]] = {}
        # A malformed response is skipped here; `find` then reports it as missing.
        for batch in read_batches(file, ScoredResponse, SetAside("set_aside").malformed):
            for row, response in enumerate(batch.records):
                tokens = batch.tokens("student_tokens", row)
                self._found[response.key] = (response.output, *tokens)

    def find(self, response: ScoredResponse) -> ModelTokens:
        """Look up the distilled student's tokens of a response.

        Raises:
            ValueError: the response has no score here, or its score belongs to another text.
        """
        output, num_bytes, logprobs = self._found.get(response.key, ("", None, None))
        if num_bytes is None or logprobs is None:
            raise ValueError(f"distilled: {self._file} has no score of this response")
        if output != response.output:
            raise ValueError(f"distilled: {self._file} has scored another output")
        return ModelTokens(response.output, response.output_spans, num_bytes, logprobs)
