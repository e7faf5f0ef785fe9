import pytest

from megatron_dasd.engines.decoding import cut_num_bytes, decode_pieces, first_stop


@pytest.mark.parametrize(
    ("pieces", "text", "num_bytes"),
    [
        ([], "", []),
        ([b"ab", b"", b"c"], "abc", [2, 0, 1]),
        ([b"a\xe6", b"\x97", b"\xa5b"], "a日b", [2, 1, 2]),  # a character over three tokens
        ([b"a", b"\xe6\x97"], "a", [1, 0]),  # cut off by the end
        ([b"a\xff", b"b"], "ab", [1, 1]),  # a byte that is in no character
        ([b"\xe6", b"ab"], "ab", [0, 2]),  # a character that was begun only
        ([b"\x97", b"\xa5", b"\xe6\x97\xa5"], "日", [0, 0, 3]),
    ],
)
def test_decode_leaves_out_what_is_no_character(
    pieces: list[bytes], text: str, num_bytes: list[int]
) -> None:
    assert decode_pieces(pieces) == (text, num_bytes)
    assert sum(num_bytes) == len(text.encode())


def test_first_stop_is_the_earliest_of_any() -> None:
    assert first_stop("abcab", ["c", "b"]) == 1
    assert first_stop("abc", ["x"]) is None
    assert first_stop("abc", []) is None


@pytest.mark.parametrize(
    ("size", "kept"),
    [(0, []), (1, [1]), (2, [2]), (3, [2, 0, 1]), (5, [2, 0, 3])],
)
def test_counts_cut_to_a_size(size: int, kept: list[int]) -> None:
    assert cut_num_bytes([2, 0, 3, 0], size) == kept
