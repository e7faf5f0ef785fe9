"""Stage keep_rollouts: the student's whole rollouts, as responses that are packed like any other.

For distillation on the student's own text: score_topk adds the teacher's distribution at every
token, and the tokens themselves are not targets.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.teacher import KeepRollouts
from megatron_dasd.json_values import Figures
from megatron_dasd.manifests import model_folder
from megatron_dasd.progress import progress
from megatron_dasd.records import FilteredResponse, Rollout, student_response
from megatron_dasd.records_io import SetAside, read_records, record_files
from megatron_dasd.text.encoding import load_tokenizer
from megatron_dasd.text.harmony import text_bytes


def run(settings: KeepRollouts, inputs: Mapping[str, Path], folder: StageFolder) -> Figures:
    """Write parts of :class:`FilteredResponse`; all of each text is student prefix."""
    tokenizer = load_tokenizer(model_folder(inputs[settings.model]))
    files = record_files(inputs[settings.rollouts])
    with progress("keeping rollouts", total=len(files), unit="files") as bar:
        for index, file in enumerate(files):
            if not folder.has_part(index):
                aside, kept = SetAside(settings.on_malformed), []
                for rollout in read_records(file, Rollout, aside.malformed):
                    pieces = text_bytes(tokenizer, rollout.token_ids)
                    if response := whole_response(rollout, [len(piece) for piece in pieces]):
                        kept.append(response)
                    else:
                        aside.drop("empty", rollout)
                aside.counts["kept"] = len(kept)
                folder.write_part(index, FilteredResponse, kept, aside.counts, aside.rows)
            bar.advance(1)
    return {}


def whole_response(rollout: Rollout, num_bytes: Sequence[int]) -> FilteredResponse | None:
    """A rollout as a response; None when there is no text.

    Args:
        num_bytes: [tokens] bytes of each token.  Tokens of a character that the cap cut are left
            out, since the text lacks it.
    """
    size, token_ids = len(rollout.text.encode()), list(rollout.token_ids)
    covered = sum(num_bytes)
    while token_ids and covered > size:
        token_ids.pop()
        covered -= num_bytes[len(token_ids)]
    if not token_ids or covered != size:
        return None
    response = replace(
        student_response(rollout), student_prefix=rollout.text, student_prefix_ids=token_ids
    )
    return FilteredResponse(
        **vars(response),
        output=rollout.text,
        output_spans=[],
        text_spans=[],
    )
