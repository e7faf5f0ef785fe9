"""Answers of servers that list the likeliest tokens at every position of a given text, as arrays.

vLLM gives all positions of the text at once, some 75 bytes of JSON an entry.  An answer is decoded
a slice of positions at a time: beside its bytes, memory holds the objects of one slice and the
arrays.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from operator import attrgetter
from typing import Annotated

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta, Struct

from megatron_dasd.engines.answers import UNKNOWN_ID
from megatron_dasd.engines.faults import Fault
from megatron_dasd.engines.network import decode

SLICE = 256
"""Positions whose entries exist as objects at a time."""
_SENTINEL = -9999.0
"""What vLLM writes in place of a log-prob that is not finite."""
_MOST_MASS = 1.0 + 1e-3
"""Rounding aside, probabilities of distinct tokens sum to no more."""
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]


@dataclass(frozen=True)
class Top:
    """The likeliest next tokens at consecutive positions, the likeliest first."""

    ids: npt.NDArray[np.int32]
    """``[positions, k]``; -1 where fewer than k are known."""
    logprobs: npt.NDArray[np.float32]
    """``[positions, k]``: ln p, untempered; -inf where there is no token."""
    own: npt.NDArray[np.float32]
    """``[positions]``: ln p of the token that the text has there."""


@dataclass(frozen=True)
class Vocabulary:
    """Sizes of the two models' output layers, which share a tokenizer."""

    student: int
    """Ids from here on are the teacher's padding: they are left out, as if unknown."""
    teacher: int
    """Ids from here on do not exist."""


class _Entry(Struct, gc=False):
    logprob: float


class _Choice(Struct):
    prompt_logprobs: list[msgspec.Raw] | None = None


class _Answer(Struct):
    choices: list[_Choice] = []
    error: msgspec.Raw = msgspec.Raw()


_decoder = msgspec.json.Decoder(_Answer)
_entries = msgspec.json.Decoder(dict[TokenId, _Entry])
_logprob = attrgetter("logprob")


def read_prompt_logprobs(raw: bytes, ids: Sequence[int], top_k: int, vocabulary: Vocabulary) -> Top:
    """The likeliest tokens at ``ids[1:]``, from vLLM's ``prompt_logprobs`` of the text ``ids``.

    Every position lists the k likeliest tokens and the text's own, which may be one of them.

    Raises:
        Fault: the answer is not whole and sound; its kind says in what.
    """
    answer = decode(_decoder, raw)
    if not answer.choices:
        raise without_content(answer.error)
    given = answer.choices[0].prompt_logprobs
    if given is None:
        raise Fault("no log-probs", "no prompt_logprobs in the answer")
    if len(given) != len(ids):
        raise Fault("log-probs of another length", f"{len(given)} for {len(ids)} tokens")
    own = np.asarray(ids[1:], np.int64)
    parts = [
        _of_entries(given[1 + at : 1 + at + SLICE], own[at : at + SLICE], top_k, vocabulary)
        for at in range(0, len(own), SLICE)
    ]
    return joined(parts, top_k)


def _of_entries(
    given: Sequence[msgspec.Raw], own_ids: npt.NDArray[np.int64], top_k: int, vocabulary: Vocabulary
) -> Top:
    positions = [decode(_entries, raw) for raw in given]
    counts = np.fromiter(map(len, positions), np.int64, len(positions))
    total = int(counts.sum())
    ids = np.fromiter(chain.from_iterable(positions), np.int64, total)
    values = map(_logprob, chain.from_iterable(map(dict.values, positions)))
    logprobs = np.fromiter(values, np.float64, total)
    own = ids == np.repeat(own_ids, counts)
    at = np.repeat(np.arange(len(positions)), counts)
    has_own = np.bincount(at[own], minlength=len(positions)) > 0
    if not has_own.all():
        raise Fault("no log-probs", f"the text's own token has none ({int((~has_own).sum())} x)")
    require_sound(ids, logprobs, vocabulary)
    return ranked(ids, logprobs, counts, logprobs[own].astype(np.float32), top_k, vocabulary)


def require_sound(
    ids: npt.NDArray[np.int64], logprobs: npt.NDArray[np.float64], vocabulary: Vocabulary
) -> None:
    """Make sure that entries are tokens of the teacher with logarithms of probabilities.

    Raises:
        Fault: some are not.
    """
    if len(ids) and ids.max() >= vocabulary.teacher:
        raise Fault(
            "malformed answer",
            f"token {ids.max()} is outside of the teacher's vocabulary of {vocabulary.teacher}",
            of_content=True,
        )
    if len(logprobs) and not logprobs.max() <= _MOST_MASS - 1.0:
        what = f"the value {logprobs.max():g} is given as a log-prob"
        raise Fault("no log-probs", what, of_content=True)


def ranked(
    ids: npt.NDArray[np.int64],
    logprobs: npt.NDArray[np.float64],
    counts: npt.NDArray[np.int64],
    own: npt.NDArray[np.float32],
    top_k: int,
    vocabulary: Vocabulary,
) -> Top:
    """The first k of each position, from the entries of all positions one after the other.

    Args:
        counts: [positions] entries of each.

    Raises:
        Fault: a position has fewer finite ones, or their probabilities sum to more than 1.
    """
    most = int(counts.max(initial=0))
    if most > top_k + 1:  # bounds the memory too
        raise Fault("malformed answer", f"{most} tokens are listed at a position, not {top_k}")
    shape = (len(counts), top_k + 1)
    listed = np.arange(shape[1]) < counts[:, None]
    all_ids, values = np.full(shape, UNKNOWN_ID, np.int32), np.full(shape, -np.inf, np.float32)
    all_ids[listed], values[listed] = ids, logprobs
    values[values <= _SENTINEL] = -np.inf
    finite = (values > -np.inf).sum(1)
    if finite.min(initial=top_k) < top_k:
        raise Fault(
            "no log-probs",
            f"{finite.min()} tokens at a position have finite ones, {top_k} are needed",
            of_content=True,
        )
    values[all_ids >= vocabulary.student] = -np.inf
    order = np.argsort(-values, axis=1, kind="stable")[:, :top_k]
    kept = np.take_along_axis(values, order, axis=1)
    mass = np.exp(kept.astype(np.float64)).sum(1).max(initial=0.0)
    if mass > _MOST_MASS:
        raise Fault(
            "no log-probs",
            f"the probabilities at a position sum to {mass:.3f}: does the server give logits?",
            of_content=True,
        )
    kept_ids = np.take_along_axis(all_ids, order, axis=1)
    return Top(np.where(kept > -np.inf, kept_ids, np.int32(UNKNOWN_ID)), kept, own)


def joined(parts: Sequence[Top], top_k: int) -> Top:
    """Consecutive positions, one after the other."""
    if not parts:
        shape = (0, top_k)
        return Top(np.empty(shape, np.int32), np.empty(shape, np.float32), np.empty(0, np.float32))
    return Top(
        np.concatenate([part.ids for part in parts]),
        np.concatenate([part.logprobs for part in parts]),
        np.concatenate([part.own for part in parts]),
    )


def without_content(error: msgspec.Raw) -> Fault:
    """The fault of an answer that holds nothing but perhaps an error."""
    said = bytes(error)
    if said and said != b"null":
        text = said.decode(errors="replace")
        return Fault("error in the answer", f"status 200 with the error {text}")
    return Fault("no choices", "the answer is empty")
