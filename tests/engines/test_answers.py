import pytest

from megatron_dasd.engines.answers import share_characters


@pytest.mark.parametrize(
    ("told", "shared"),
    [
        ([b"", b"", "😀".encode()], [b"\xf0", b"\x9f", b"\x98\x80"]),
        ([b"a", b"", "日b".encode(), b""], [b"a", b"\xe6", b"\x97\xa5b", b""]),
        ([b"", b"a"], [b"", b"a"]),  # special: no character is under way
        ([b"", b"", "é".encode()], [b"", b"\xc3", b"\xa9"]),
        ([], []),
    ],
)
def test_a_character_is_shared_by_its_tokens(told: list[bytes], shared: list[bytes]) -> None:
    assert share_characters(told) == shared
    assert b"".join(shared) == b"".join(told)
