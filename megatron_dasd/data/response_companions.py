"""Companions of a response's document: teacher log-probs, sentence classes, writers."""

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from megatron_dasd.data.companions import ResponseTokens, TokenBytes
from megatron_dasd.data.examples import Example
from megatron_dasd.data.meta import (
    CLASS_NAMES,
    COMPANIONS,
    SENTENCE_CLASSES,
    TEACHER_LOGPROBS,
    WRITER_NAMES,
    WRITERS,
)
from megatron_dasd.data.responses import NumberLists, ResponseBatch
from megatron_dasd.records import Span
from megatron_dasd.text.layout import Laid


class CompanionColumns:
    """The columns of a batch that companions are made from."""

    def __init__(self, batch: ResponseBatch) -> None:
        self._text_spans = [
            [Span(**span) for span in spans]
            for spans in batch.columns.column("text_spans").to_pylist()
        ]
        self._ids, self._num_bytes = (
            batch.number_lists("tokens", np.int64, name) for name in ("token_ids", "num_bytes")
        )
        self._logprobs = batch.number_lists("tokens", np.float64, "logprobs")
        sentences = batch.columns.column("sentences")
        classes = pc.index_in(sentences.values.field("provenance"), pa.array(CLASS_NAMES))
        offsets = np.asarray(sentences.offsets, dtype=np.int64)
        sizes = pc.binary_length(sentences.values.field("text"))
        self._sizes = NumberLists(sizes.to_numpy(zero_copy_only=False).astype(np.int64), offsets)
        numbers = classes.to_numpy(zero_copy_only=False)
        self._classes = NumberLists((numbers + 1).astype(np.uint8), offsets)

    def mean_teacher_logprob(self, row: int) -> float | None:
        """Mean ln p of the tokens that the teacher wrote; None where there are none."""
        logprobs = self._logprobs[row]
        return float(logprobs.mean()) if logprobs.size else None

    def companions(
        self, row: int, laid: Laid, example: Example, table: TokenBytes, num_prefix_tokens: int
    ) -> dict[str, npt.NDArray[np.number]]:
        """Companions of a row's document by name; on the prompt's tokens they are unknown.

        Raises:
            ValueError: the record's fields do not fit each other.
        """
        response = ResponseTokens(laid.spelled, example.response_ids, table, laid.spans)
        known: dict[str, npt.NDArray[np.number]] = {
            TEACHER_LOGPROBS: response.teacher_logprobs(
                self._text_spans[row], self._ids[row], self._num_bytes[row], self._logprobs[row]
            ),
            SENTENCE_CLASSES: response.sentence_classes(self._sizes[row], self._classes[row]),
            WRITERS: writers(example.response_ids.size, num_prefix_tokens),
        }
        return {
            name: np.concatenate([COMPANIONS[name].unknowns(example.prompt_ids.size), values])
            for name, values in known.items()
        }


def writers(num_tokens: int, num_prefix_tokens: int) -> npt.NDArray[np.uint8]:
    """[tokens] For each response token, who wrote it: 1 + index into ``WRITER_NAMES``."""
    if not num_prefix_tokens:
        return np.full(num_tokens, _RESPONSE, np.uint8)
    values = np.full(num_tokens, _PREFIX, np.uint8)
    # A rollout that was kept whole is all prefix, and may have an end-of-turn token behind it,
    # which is the student's too.  More tokens than that are the teacher's continuation.
    if num_tokens > num_prefix_tokens + 1:
        values[num_prefix_tokens:] = _CONTINUATION
    return values


_RESPONSE, _PREFIX, _CONTINUATION = range(1, 1 + len(WRITER_NAMES))
