from collections import Counter

import pytest

from megatron_dasd.revision.cuts import choose_cut, cut_positions, is_border


def anywhere(prefix: str) -> bool:
    return bool(prefix)


@pytest.mark.parametrize(
    ("num_tokens", "cut_from", "positions"),
    [
        (10, 0.5, [6, 7, 8, 9]),
        (9, 0.5, [5, 6, 7, 8]),
        (3, 0.5, [2]),
        (2, 0.5, []),
        (0, 0.5, []),
        (4, 0.0, [1, 2, 3]),
        (4, 1.0, []),
    ],
)
def test_positions_lie_beyond_the_share_and_before_the_end(
    num_tokens: int, cut_from: float, positions: list[int]
) -> None:
    assert list(cut_positions(num_tokens, cut_from)) == positions


def test_cuts_are_uniform_beyond_half() -> None:
    drawn = Counter(choose_cut("abcdefghij", [1] * 10, 0.5, seed, anywhere) for seed in range(4000))
    assert set(drawn) == {6, 7, 8, 9}
    assert all(900 < count < 1100 for count in drawn.values())  # 1000 expected, deviation 27


def test_the_seed_decides() -> None:
    draws = [choose_cut("abcdefghij" * 9, [1] * 90, 0.5, 5, anywhere) for _ in range(3)]
    assert len(set(draws)) == 1


def test_a_cut_inside_a_character_moves_back_to_its_start() -> None:
    # "ab" and "日" a token a byte: of 3 and 4 tokens kept neither ends a character
    drawn = Counter(choose_cut("ab日c", [1] * 6, 0.0, seed, anywhere) for seed in range(5000))
    assert set(drawn) == {1, 2, 5}
    assert 2880 < drawn[2] < 3120  # 2, 3 and 4 of five: 3000 expected, deviation 35


def test_a_cut_never_moves_back_beyond_the_share() -> None:
    # "日" ends with the third of six tokens; beyond 0.2 begins with the second, in the character
    drawn = {choose_cut("日abc", [1] * 6, 0.2, seed, anywhere) for seed in range(200)}
    assert drawn == {3, 4, 5}
    assert choose_cut("日a", [1] * 4, 0.0, 0, anywhere) == 3
    assert choose_cut("a日", [1] * 4, 0.5, 0, anywhere) is None


def test_tokens_that_add_nothing_are_positions_too() -> None:
    drawn = {choose_cut("ab", [1, 0, 1], 0.0, seed, anywhere) for seed in range(50)}
    assert drawn == {1, 2}


def test_only_accepted_prefixes_are_chosen() -> None:
    def ends_in_d(prefix: str) -> bool:
        return prefix.endswith("d")

    assert {choose_cut("abcdefgh", [1] * 8, 0.0, s, ends_in_d) for s in range(20)} == {4}
    assert choose_cut("abcdefgh", [1] * 8, 0.5, 0, ends_in_d) is None


def test_borders() -> None:
    assert [is_border("é!".encode(), at) for at in range(4)] == [True, False, True, True]
