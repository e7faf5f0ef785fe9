"""What the student thinks of the same responses after training: a second scoring of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from megatron_dasd.divergence.provenance import Floats, Ints, ModelTokens
from megatron_dasd.errors import UserError
from megatron_dasd.record_batches import read_batches
from megatron_dasd.records import ResponseKey, ScoredResponse
from megatron_dasd.records_io import SetAside, record_files


@dataclass(frozen=True)
class DistilledTokens:
    """The parts of a scoring, each of the same responses as one part of the first scoring."""

    files: Sequence[Path]

    @classmethod
    def of(cls, folder: Path | None, first_scoring: Sequence[Path]) -> Self | None:
        """The second scoring that lies in a folder; None without one.

        Raises:
            UserError: it has another number of parts than the first.
        """
        if folder is None:
            return None
        files = record_files(folder)
        if len(files) != len(first_scoring):
            raise UserError(
                f"{folder}: distilled: has {len(files)} parts, the responses "
                f"{len(first_scoring)}; score the same responses before and after training"
            )
        return cls(files)

    def of_file(self, index: int) -> "DistilledPart":
        """Read the scoring that belongs to the responses' file of that number."""
        return DistilledPart(self.files[index])


class DistilledPart:
    """One part, held in memory."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._found: dict[ResponseKey, tuple[str, Ints, Floats]] = {}
        # a response that is malformed here is told of as one that is missing
        for batch in read_batches(file, ScoredResponse, SetAside("set_aside").malformed):
            for row, response in enumerate(batch.records):
                tokens = batch.tokens("student_tokens", row)
                self._found[response.key] = (response.output, *tokens)

    def of(self, response: ScoredResponse) -> ModelTokens:
        """The distilled student's reading of a response.

        Raises:
            ValueError: it has not been scored, or another text of that name has.
        """
        output, num_bytes, logprobs = self._found.get(response.key, ("", None, None))
        if num_bytes is None or logprobs is None:
            raise ValueError(f"distilled: {self._file} has no score of this response")
        if output != response.output:
            raise ValueError(f"distilled: {self._file} has scored another output")
        return ModelTokens(response.output, response.output_spans, num_bytes, logprobs)
