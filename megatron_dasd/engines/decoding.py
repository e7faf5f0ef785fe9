"""Generated tokens to text, byte by byte (no model in here)."""

from collections.abc import Sequence


def decode_pieces(pieces: Sequence[bytes]) -> tuple[str, list[int]]:
    """Join the bytes of tokens and decode them as UTF-8, leaving out what is no character.

    A token may hold a part of a character only.  Bytes that never become one (a character cut off
    by the end, or byte tokens drawn at random) are left out of the text and of the counts, so that
    the counts always sum to the size of the text.

    Args:
        pieces: bytes of each token; none for special tokens.

    Returns:
        (text, UTF-8 bytes of the text that each token adds).
    """
    data = b"".join(pieces)
    try:
        return data.decode(), list(map(len, pieces))
    except UnicodeDecodeError:
        pass
    text, kept = [], bytearray()
    for character in data.decode(errors="surrogateescape"):  # in time linear in the bytes
        if "\udc80" <= character <= "\udcff":  # stands for a byte that is no character's
            kept.append(0)
        else:
            text.append(character)
            kept += b"\x01" * len(character.encode())
    num_bytes, start = [], 0
    for piece in pieces:
        num_bytes.append(sum(kept[start : start + len(piece)]))
        start += len(piece)
    return "".join(text), num_bytes


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the first of the stop texts begins, in characters; None when none occurs."""
    found = [at for stop in stops if (at := text.find(stop)) >= 0]
    return min(found, default=None)


def cut_num_bytes(num_bytes: Sequence[int], size: int) -> list[int]:
    """The counts of the tokens that begin in the first ``size`` bytes, the last one's cut to fit.

    Tokens that add nothing count to where they stand; none are kept after the last byte.
    """
    kept: list[int] = []
    for count in num_bytes:
        if size == 0:
            break
        kept.append(min(count, size))
        size -= kept[-1]
    return kept
