"""Checks that a server's log-probs are untempered: those of sampled tokens against a rescoring.

Sentence probabilities need ln p at temperature 1 over the whole vocabulary, whatever temperature
and top-p drew the text.  Some servers, depending on their settings, return those of the
distribution that they drew from.  Scoring the same tokens as a prompt, where nothing is drawn,
shows which.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from megatron_dasd.engines.answers import Sampled, keeps_bytes, read_sampled
from megatron_dasd.engines.base import Failure, GenerationRequest, Scored
from megatron_dasd.engines.client import Client
from megatron_dasd.errors import UserError
from megatron_dasd.json_values import JsonObject

_NUM_PROBES = 4
_MAX_TOKENS = 64
_TOLERANCE_NATS = 0.02
_TOLERANCE_SHARE = 0.05
_TOLERANCE_MEAN = 0.025
"""Rounding in bfloat16 differs between drawing and scoring; see docs/sampling.md."""
LOSES_BYTES = (
    "the server tells neither the ids nor the bytes of its tokens, so an answer with a character "
    "that is spread over tokens (emoji, rare scripts) will be set aside; start a server that knows "
    "return_token_ids (vLLM), or use api: chat with one that gives the tokens' bytes"
)
"""What a server is missing that writes parts of characters as U+FFFD."""


def choose_probes(requests: Sequence[GenerationRequest]) -> list[GenerationRequest]:
    """The requests furthest from temperature 1, where tempering shows most; shortened."""
    ranked = sorted(requests, key=lambda request: -abs(request.temperature - 1.0))
    return [
        replace(request, max_new_tokens=min(request.max_new_tokens, _MAX_TOKENS))
        for request in ranked[:_NUM_PROBES]
    ]


def untempered(sampled: Sequence[float], rescored: Sequence[float]) -> bool:
    """Whether two lists of log-probs of the same tokens belong to one distribution, up to rounding.

    Tempering shows in the size of the differences.  Truncation adds the same to every token, -ln of
    the share that was kept, which shows in their mean long before it does in their size.
    """
    expected = np.asarray(rescored)
    gaps = np.asarray(sampled) - expected
    largest = _TOLERANCE_NATS + _TOLERANCE_SHARE * float(np.mean(np.abs(expected)))
    return float(np.mean(np.abs(gaps))) <= largest and abs(float(np.mean(gaps))) <= _TOLERANCE_MEAN


@dataclass(frozen=True)
class Sample:
    """A request that draws a few tokens."""

    path: str
    body: JsonObject
    read: Callable[[bytes], Sampled] = read_sampled
    """Gives the log-probs, and the ids of prompt and response where the answer tells them."""
    temperature: float = 1.0
    top_p: float = 1.0


async def check_untempered(
    client: Client,
    samples: Sequence[Sample],
    score: Callable[[Sequence[int], Sequence[int]], Awaitable[Scored | Failure]],
    rescore_by: str,
) -> None:
    """Sample a little, score the same tokens, and compare.

    Args:
        samples: a few requests.
        score: gives the log-probs of (prompt ids, response ids).
        rescore_by: the field that scoring uses, for the error.

    Raises:
        UserError: the log-probs are tempered or truncated, or the server gives too little to tell.
    """
    sampled: list[float] = []
    rescored: list[float] = []
    failure: Failure | None = None
    for sample in samples:
        answer = await client.ask(sample.path, sample.body, partial(_read, sample))
        if isinstance(answer, Failure):  # of this request alone, or of all
            failure = answer
            continue
        (logprobs, ids), lost = answer
        if ids is None:
            raise UserError(_cannot("it gives no token ids (return_token_ids)") + lost)
        found = await score(*ids)
        if isinstance(found, Failure):
            raise UserError(
                _cannot(f"{rescore_by} was not answered well: {found.kind}: {found.detail}")
            )
        sampled += logprobs
        rescored += found.logprobs
    if failure and not sampled:
        raise UserError(f"the first requests failed: {failure.kind}: {failure.detail}")
    if sampled and not untempered(sampled, rescored):
        temperature, top_p = samples[0].temperature, samples[0].top_p
        gap = np.mean(np.abs(np.subtract(sampled, rescored)))
        raise UserError(
            f"the server's log-probs at temperature {temperature:g} and top-p {top_p:g} are not "
            f"those of the untempered distribution: {gap:.3f} nats a token apart from a rescoring "
            "of the same text; start vLLM with --logprobs-mode raw_logprobs"
        )


def _read(sample: Sample, raw: bytes) -> tuple[Sampled, str]:
    found = sample.read(raw)
    return found, "" if found[1] or keeps_bytes(raw) else f"; {LOSES_BYTES}"


def _cannot(why: str) -> str:
    return (
        f"whether the server's log-probs are untempered cannot be checked: {why}; if they are, "
        "go on with the server's setting probe: false"
    )
