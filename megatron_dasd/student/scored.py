"""Records before and after scoring, whoever scores: Megatron or a server."""

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from megatron_dasd.config.selection import ScoreStudent
from megatron_dasd.errors import UserError
from megatron_dasd.records import FilteredResponse, Message, ScoredResponse, TokenLogprobs
from megatron_dasd.records_io import SetAside, read_records
from megatron_dasd.text.encoding import token_num_bytes
from megatron_dasd.text.layout import Laid, Layout, bytes_in_output, encode_laid


def read_split(file: Path, settings: ScoreStudent, aside: SetAside) -> list[FilteredResponse]:
    """The records of a file that belong to the settings' split; the others are counted."""
    chosen = []
    for record in read_records(file, FilteredResponse, aside.malformed):
        if settings.split in ("all", record.prompt.split):
            chosen.append(record)
        else:
            aside.counts["other split"] += 1
    return chosen


class StudentReader:
    """Prompts and responses as the student reads them, by its own chat template."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        settings: ScoreStudent,
        few_shot: Sequence[Message] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._layout = Layout(
            tokenizer, settings.system_prompt, few_shot, settings.chat_template_kwargs
        )

    def encode(self, record: FilteredResponse) -> tuple[list[int], list[int]]:
        """(prompt ids, response ids), the end of turn included.

        Raises:
            UserError: the chat template refuses the turns.
        """
        prompt_ids, ids = encode_laid(self._tokenizer, self._lay_out(record))
        return prompt_ids, [*record.student_prefix_ids, *ids]

    def scored(
        self,
        record: FilteredResponse,
        response_ids: list[int],
        logprobs: list[float],
        student_model: str,
    ) -> ScoredResponse:
        """The record with the student's log-probs.

        Args:
            logprobs: [tokens] ln p of ``response_ids``.
            student_model: name of the scoring model, kept in the record.
        """
        sizes = token_num_bytes(self._tokenizer, response_ids)
        laid = self._lay_out(record)
        # a record may name no content, as a rollout that is kept whole does
        spans = laid.spans if record.output_spans else ()
        if (laid.spelled, list(spans)) != (record.output, record.output_spans):
            sizes = bytes_in_output(sizes, spans, record.output, record.output_spans)
        return ScoredResponse(
            **vars(record),
            student_tokens=TokenLogprobs(
                token_ids=response_ids, num_bytes=sizes, logprobs=logprobs
            ),
            student_model=student_model,
        )

    def _lay_out(self, record: FilteredResponse) -> Laid:
        try:
            return self._layout.lay_out(record, ends=True)
        except ValueError as error:
            raise UserError(f"response {record.prompt.prompt_id}: {error}") from None
