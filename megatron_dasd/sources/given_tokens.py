"""Token ids and log-probs that came beside a text, brought to the bytes of that text.

A text that is written with ``<think>`` may have been sampled with other delimiters (harmony's
channels).  Thinking part and answer must be the same bytes in what the tokens spell; what the
tokens of the delimiters spell is of no use, and the delimiters as written are put in its place.
"""

from collections.abc import Sequence

from megatron_dasd.records import TokenLogprobs
from megatron_dasd.text.thinking import NORMALISED, span_text, split_thinking


def tokens_of_text(
    text: str, pieces: Sequence[bytes], token_ids: Sequence[int], logprobs: Sequence[float]
) -> TokenLogprobs:
    """The tokens of a text, with the bytes that each adds to it.

    Args:
        text: as it is written.
        pieces: [tokens] bytes that each token spells, none for special tokens.
        token_ids: [tokens]
        logprobs: [tokens]

    Raises:
        ValueError: the tokens spell another text.
    """
    sizes = [len(piece) for piece in pieces]
    spelled = b"".join(pieces)
    if spelled != text.encode():
        sizes = _with_delimiters_of(text, spelled, sizes)
    return TokenLogprobs(token_ids=list(token_ids), num_bytes=sizes, logprobs=list(logprobs))


def _with_delimiters_of(text: str, spelled: bytes, sizes: Sequence[int]) -> list[int]:
    """[tokens] bytes of the text that each token adds, its own delimiters left out."""
    spans = split_thinking(text, NORMALISED)
    if spans is None:
        raise ValueError("token_ids: spell another text than output")
    places, at = [], 0
    for name, span in zip(("thinking part", "answer"), spans, strict=True):
        content = span_text(text, span).encode()
        start = spelled.find(content, at)
        if start < 0:
            raise ValueError(f"token_ids: spell another {name} than output")
        at = start + len(content)
        places.append((start, at))
    kept, begin = [], 0
    firsts: list[int | None] = [None, None]  # the first token of each part
    for token, size in enumerate(sizes):
        end = begin + size
        inside = 0
        for part, (start, stop) in enumerate(places):
            overlap = min(end, stop) - max(begin, start)
            if overlap > 0:
                inside += overlap
                firsts[part] = token if firsts[part] is None else firsts[part]
        kept.append(inside)
        begin = end
    thinking, answer = firsts
    if not thinking or not answer:  # a delimiter's bytes need a token before the part
        raise ValueError("token_ids: have no token before the thinking part")
    kept[thinking - 1] += spans[0].start
    kept[answer - 1] += spans[1].start - spans[0].end
    kept[-1] += len(text.encode()) - spans[1].end
    return kept
