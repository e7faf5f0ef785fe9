"""pass@k and majority@k, by hand and against all subsets one by one."""

from collections import Counter
from itertools import combinations
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_dasd.evaluation.subsets import majority_at, pass_at


def test_pass_at_k() -> None:
    # 1 right of 4: a pair holds it in 3 of 6 cases
    assert pass_at(1, 4, 2) == 0.5
    assert pass_at(1, 4, 1) == 0.25
    assert pass_at(0, 4, 4) == 0.0
    assert pass_at(3, 4, 2) == 1.0


def test_majority_at_k() -> None:
    # right twice, wrong once: of 3 pairs one is right, two are drawn by lot
    assert majority_at([2], [1], 3, 2) == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert majority_at([2], [1], 3, 3) == 1.0
    # with k = 1 it is the accuracy, texts without an answer counted
    assert majority_at([2, 1], [3], 8, 1) == pytest.approx(3 / 8)
    # one right among two texts without an answer: right wherever it is drawn
    assert majority_at([1], [], 3, 2) == pytest.approx(2 / 3)
    assert majority_at([], [2], 4, 2) == 0.0


ANSWERS = st.lists(
    st.sampled_from(["right", "also right", "a", "b", "c", None]), min_size=1, max_size=8
)


@given(ANSWERS, st.integers(1, 8))
def test_they_are_means_over_all_subsets(answers: list[str | None], k: int) -> None:
    k = min(k, len(answers))
    good = {"right", "also right"}

    def vote(subset: tuple[str | None, ...]) -> float:
        votes = Counter(answer for answer in subset if answer is not None)
        first = [answer for answer, number in votes.items() if number == max(votes.values())]
        return len(good & {*first}) / len(first) if first else 0.0

    counts = Counter(answer for answer in answers if answer is not None)
    right = [number for answer, number in counts.items() if answer in good]
    wrong = [number for answer, number in counts.items() if answer not in good]
    subsets = list(combinations(answers, k))
    assert majority_at(right, wrong, len(answers), k) == pytest.approx(fmean(map(vote, subsets)))
    held = fmean(bool(good & {*subset}) for subset in subsets)
    assert pass_at(sum(right), len(answers), k) == pytest.approx(held)


@pytest.mark.parametrize("k", [0, 5])
def test_k_is_a_number_of_answers(k: int) -> None:
    with pytest.raises(ValueError, match="k:"):
        pass_at(1, 4, k)
    with pytest.raises(ValueError, match="k:"):
        majority_at([1], [], 4, k)


def test_no_more_votes_than_answers() -> None:
    with pytest.raises(ValueError, match="num_answers"):
        majority_at([3], [2], 4, 2)
