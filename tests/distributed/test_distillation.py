"""Token-level distillation through the stages, the teacher's tokens scored by itself."""

from pathlib import Path
from typing import Any

import pytest

from megatron_dasd.config.teacher import ScoreTopk
from megatron_dasd.teacher import top_tokens
from tests.distributed.test_layouts import LAYOUTS, assert_same


@pytest.fixture(scope="module")
def top(workshop: Any) -> Path:
    """Of a teacher that is the student before training."""
    settings = ScoreTopk(
        kind="score_topk", data="data", model="llama", teacher="llama", top_k=8, dtype="float32"
    )
    inputs = {"data": workshop.data, "llama": workshop.models["llama"]}
    folder: Path = workshop.run("top tokens", top_tokens.run, settings, **inputs).path
    return folder


@pytest.fixture(scope="module")
def one_rank(workshop: Any, top: Path) -> list[dict[str, Any]]:
    metrics: list[dict[str, Any]] = workshop.train("distilled", teacher_topk=top, epochs=1)
    return metrics


def test_a_teacher_that_is_the_student_is_no_distance_away(
    workshop: Any, one_rank: list[dict[str, Any]]
) -> None:
    first, *_, last = (line for line in one_rank if "loss" in line)
    assert abs(first["distillation_loss"]) < 1e-6
    assert first["student_mass"] == pytest.approx(first["teacher_mass"], rel=1e-5)
    assert 8 / len(workshop.tokenizer) < first["teacher_mass"] < 1.0
    assert last["distillation_loss"] > 1e-4  # the data is not what the teacher would say
    assert "heldout_loss" in one_rank[-1]


@pytest.mark.parametrize("layout", ["tp2", "dp2", "tp2 pp2", "cp2"])
def test_layout_equals_one_rank(
    layout: str, workshop: Any, top: Path, one_rank: list[dict[str, Any]]
) -> None:
    name = f"distilled {layout}"
    metrics = workshop.train(name, teacher_topk=top, launch=LAYOUTS[layout], epochs=1)
    assert_same(metrics, one_rank)
    for line, wanted in zip(metrics, one_rank, strict=True):
        for what in wanted.keys() & {"distillation_loss", "teacher_mass", "student_mass"}:
            assert line[what] == pytest.approx(wanted[what], rel=1e-5, abs=1e-6)


def test_the_teacher_alone(workshop: Any, top: Path, one_rank: list[dict[str, Any]]) -> None:
    """Without cross-entropy nothing draws the student away from a teacher that it is."""
    distillation = {"divergence": "jensen_shannon", "weight": 1.0}
    metrics = workshop.train("teacher alone", teacher_topk=top, distillation=distillation, epochs=1)
    steps = [line for line in metrics if "loss" in line]
    assert steps[0]["grad_norm"] < 1e-3 * one_rank[0]["grad_norm"]
    assert steps[0]["loss"] == pytest.approx(one_rank[0]["loss"], rel=1e-6)
