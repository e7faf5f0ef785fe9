"""Loss and gradient norm are the same under every layout, on real processes over gloo."""

from typing import Any

import pytest

from megatron_dasd.errors import UserError

LAYOUTS = {
    "tp2": {"num_ranks": 2, "tensor_parallel": 2},
    "pp2": {"num_ranks": 2, "pipeline_parallel": 2},
    "dp2": {"num_ranks": 2},
    "tp2 pp2": {"num_ranks": 4, "tensor_parallel": 2, "pipeline_parallel": 2},
}
TOLERANCE = 2e-6
COMPARED = ("loss", "grad_norm", "heldout_loss", "teacher_loss", "student_loss", "shared_loss")


@pytest.fixture(scope="module")
def one_rank(workshop: Any) -> list[dict[str, Any]]:
    metrics: list[dict[str, Any]] = workshop.train("one rank")
    return metrics


def assert_same(metrics: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [line["iteration"] for line in metrics] == [line["iteration"] for line in expected]
    for line, wanted in zip(metrics, expected, strict=True):
        assert line.keys() == wanted.keys()
        for what in COMPARED:
            if what in wanted:
                assert line[what] == pytest.approx(wanted[what], rel=TOLERANCE), (what, line)


def test_one_rank_learns(one_rank: list[dict[str, Any]]) -> None:
    steps = [line for line in one_rank if "loss" in line]
    assert [line["iteration"] for line in steps] == list(range(1, 1 + len(steps)))
    assert len(steps) >= 10
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.1
    assert [line["iteration"] for line in one_rank if "heldout_loss" in line] == [len(steps)]


def test_losses_of_sentence_classes_are_told_where_there_are_any(
    one_rank: list[dict[str, Any]],
) -> None:
    steps = [line for line in one_rank if "loss" in line]
    assert all(0 < line["teacher_loss"] != line["loss"] for line in steps)
    assert 0 < sum("student_loss" in line for line in steps) < len(steps)
    assert not any("boosted_loss" in line for line in steps)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_equals_one_rank(layout: str, workshop: Any, one_rank: list[dict[str, Any]]) -> None:
    assert_same(workshop.train(layout, launch=LAYOUTS[layout]), one_rank)


@pytest.mark.parametrize("layout", ["one rank", "tp2", "tp2 pp2"])
def test_whole_logits_give_the_same(
    layout: str, workshop: Any, one_rank: list[dict[str, Any]]
) -> None:
    launch = LAYOUTS.get(layout, {})
    metrics = workshop.train(f"{layout} whole logits", launch=launch, chunked_loss=False)
    assert_same(metrics, one_rank)


def test_sequences_weigh_the_same_under_every_layout(
    workshop: Any, one_rank: list[dict[str, Any]]
) -> None:
    expected = workshop.train("by sequence", normalise_by="sequence", epochs=1)
    assert expected[0]["loss"] != pytest.approx(one_rank[0]["loss"], rel=1e-4)
    for layout in ("dp2", "tp2 pp2"):
        changes = {"launch": LAYOUTS[layout], "normalise_by": "sequence", "epochs": 1}
        assert_same(workshop.train(f"by sequence {layout}", **changes), expected)


def test_a_checkpoint_goes_on_under_another_layout(
    workshop: Any, one_rank: list[dict[str, Any]]
) -> None:
    name = "tp2 then pp2"
    with pytest.raises(UserError, match="training stopped at iteration 5"):
        workshop.train(name, launch=LAYOUTS["tp2"], megatron={"exit-interval": 5})
    metrics = workshop.train(name, launch=LAYOUTS["pp2"])
    steps = [line for line in metrics if "loss" in line]
    assert_same(steps, [line for line in one_rank if "loss" in line])
