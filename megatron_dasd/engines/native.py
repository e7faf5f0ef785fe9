"""SGLang's own API: log-probs of a given text from any position on, with the likeliest tokens' ids.

Its OpenAI-compatible API names tokens by their text alone.
"""

from collections.abc import Iterator, Sequence
from itertools import chain

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Struct

from megatron_dasd.engines.answers import UNKNOWN_ID
from megatron_dasd.engines.faults import Fault
from megatron_dasd.engines.network import decode
from megatron_dasd.engines.top_answers import (
    SLICE,
    TokenId,
    Top,
    Vocabulary,
    joined,
    ranked,
    require_sound,
    without_content,
)
from megatron_dasd.json_values import JsonObject

type _Entry = tuple[float, TokenId, object]
"""(log-prob, id, text)"""
type _OwnEntry = tuple[float | None, TokenId, object]


class _Meta(Struct):
    input_token_logprobs: list[_OwnEntry] = []
    input_top_logprobs: list[msgspec.Raw] = []
    output_token_logprobs: list[_OwnEntry] = []


class _Answer(Struct):
    meta_info: _Meta | None = None
    error: msgspec.Raw = msgspec.Raw()


_decoder = msgspec.json.Decoder(_Answer)
_entries = msgspec.json.Decoder(list[_Entry])


def scoring_body(ids: Sequence[int], start: int, top_k: int = 0) -> JsonObject:
    """A request for the log-probs of ``ids[start:]``, and the likeliest tokens there.

    SGLang gives nothing at the position where the log-probs begin, so they begin one before.
    """
    return {
        "input_ids": list(ids),
        "sampling_params": {"max_new_tokens": 1, "temperature": 1.0},
        "return_logprob": True,
        "logprob_start_len": start - 1,
        "top_logprobs_num": top_k,
        "return_text_in_logprobs": False,
    }


def sampling_body(ids: Sequence[int], num_tokens: int) -> JsonObject:
    """A request for some tokens after a text, drawn at temperature 1, with their log-probs."""
    return {
        "input_ids": list(ids),
        "sampling_params": {"max_new_tokens": num_tokens, "temperature": 1.0, "top_p": 1.0},
        "return_logprob": True,
        "return_text_in_logprobs": False,
    }


def read_scores(raw: bytes, ids: Sequence[int], start: int) -> list[float]:
    """Log-probs of ``ids[start:]``.

    Raises:
        Fault: the answer is not sound, or of another text.
    """
    own = _own(_meta(raw), ids, start)
    if not np.isfinite(own).all():
        raise Fault("no log-probs", f"token {int(np.isfinite(own).argmin())} has none")
    values: list[float] = own.tolist()
    return values


def read_top(raw: bytes, ids: Sequence[int], start: int, top_k: int, vocabulary: Vocabulary) -> Top:
    """The likeliest tokens at ``ids[start:]``.

    Raises:
        Fault: as above.
    """
    found = _meta(raw)
    own = _own(found, ids, start)
    given = found.input_top_logprobs[1:]
    if len(given) != len(own):
        raise Fault("log-probs of another length", f"{len(given)} for {len(own)} tokens")
    parts = [
        _top(given[at : at + SLICE], own[at : at + SLICE], top_k, vocabulary)
        for at in range(0, len(own), SLICE)
    ]
    return joined(parts, top_k)


def read_sampled(raw: bytes) -> tuple[list[float], list[int]]:
    """(log-probs, ids) of the tokens that were drawn.

    Raises:
        Fault: the answer is not sound.
    """
    found = _meta(raw).output_token_logprobs
    values = [value for value, _, _ in found if value is not None]
    if not found or len(values) != len(found):
        raise Fault("no log-probs", "output_token_logprobs is empty or has gaps")
    return values, [token for _, token, _ in found]


def _meta(raw: bytes) -> _Meta:
    answer = decode(_decoder, raw)
    if answer.meta_info is None:
        raise without_content(answer.error)
    return answer.meta_info


def _own(found: _Meta, ids: Sequence[int], start: int) -> npt.NDArray[np.float64]:
    """[positions] ln p of ``ids[start:]``; NaN where there is none."""
    given = found.input_token_logprobs[1:]
    if len(given) != len(ids) - start:
        raise Fault("log-probs of another length", f"{len(given)} for {len(ids) - start} tokens")
    if [token for _, token, _ in given] != list(ids[start:]):
        raise Fault("log-probs of another text", "the answer lists other tokens than were sent")
    return np.array([np.nan if value is None else value for value, _, _ in given], np.float64)


def _top(
    given: Sequence[msgspec.Raw],
    own: npt.NDArray[np.float64],
    top_k: int,
    vocabulary: Vocabulary,
) -> Top:
    positions = [decode(_entries, raw) for raw in given]
    counts = np.fromiter(map(len, positions), np.int64, len(positions))
    total = int(counts.sum())
    ids = np.fromiter((token for _, token, _ in _flat(positions)), np.int64, total)
    logprobs = np.fromiter((value for value, _, _ in _flat(positions)), np.float64, total)
    require_sound(ids, logprobs, vocabulary)
    top = ranked(ids, logprobs, counts, own.astype(np.float32), top_k, vocabulary)
    by_id = np.sort(top.ids, axis=1)
    if ((np.diff(by_id, axis=1) == 0) & (by_id[:, 1:] != UNKNOWN_ID)).any():
        raise Fault("malformed answer", "a token is listed twice at one position")
    return top


def _flat(positions: Sequence[list[_Entry]]) -> Iterator[_Entry]:
    return chain.from_iterable(positions)
