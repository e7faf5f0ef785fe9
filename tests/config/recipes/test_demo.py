"""The graph of ``examples/demo``: its description of teacher and student follows from it."""

from pathlib import Path

from megatron_dasd.config.evaluation import Evaluate, Report
from megatron_dasd.config.pipeline import load_pipeline
from megatron_dasd.config.sources import RandomModel, WorkedSums
from megatron_dasd.config.training import Train

DEMO = Path(__file__).parents[3] / "examples" / "demo" / "pipeline.yaml"


def num_weights(model: RandomModel) -> int:
    """Weights of the matrices of a layer, times the layers."""
    attention = 4 * model.hidden_size**2
    return model.num_layers * (attention + 3 * model.hidden_size * model.intermediate_size)


def test_the_teacher_and_the_student_are_trained_by_this_program() -> None:
    stages = load_pipeline(DEMO).stages
    for name in ("teacher", "student"):
        lessons, trained = stages[f"{name}_lessons"], stages[f"{name}_trained"]
        assert isinstance(lessons, WorkedSums)
        assert isinstance(trained, Train)
        assert lessons.without == "prompts"  # neither has seen what it is asked
        assert len(lessons.styles) >= 3
        assert trained.data == f"{name}_data"
        assert stages[f"{name}_data"].model_dump()["responses"] == f"{name}_lessons"
    teacher, student = stages["teacher_random"], stages["student_random"]
    assert isinstance(teacher, RandomModel)
    assert isinstance(student, RandomModel)
    assert 2 * num_weights(student) <= num_weights(teacher)
    assert stages["student_lessons"].model_dump()["carries"] == "none"
    assert stages["teacher_lessons"].model_dump()["carries"] == "any"


def test_all_models_are_evaluated_and_compared_with_the_student_before() -> None:
    pipeline = load_pipeline(DEMO)
    evaluate, report = pipeline.stages["evaluate"], pipeline.stages["report"]
    assert isinstance(evaluate, Evaluate)
    assert isinstance(report, Report)
    assert evaluate.models == {
        "before": "student",
        "stage1": "stage1_hf",
        "stage2": "stage2_hf",
        "stage3": "stage3_hf",
        "teacher": "teacher",
    }
    assert next(iter(evaluate.models)) == "before"
    assert report.evaluate == "evaluate"
    prompts = pipeline.stages["prompts"].model_dump()
    assert prompts["tasks"][0]["size"] * prompts["heldout_fraction"] >= 300
