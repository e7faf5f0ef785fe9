"""Memory of a step's live tensors, by part, beside what ``tools/plan.py`` counts from shapes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_dasd.config.pipeline import load_pipeline
from megatron_dasd.planning.estimate import recipe_of
from megatron_dasd.planning.memory import Recipe, layer_backward, memory
from tests.gpu_dry.conftest import Play
from tests.gpu_dry.test_training import DENSE, EXAMPLES, EXPERTS, FP8

ROOT = Path(__file__).parents[2]
TOLERANCE = 0.05
ROW = 20e6
"""Bytes of a row's tokens, borders and rotary table, which the plan leaves out."""
PARTS = ("weights", "gradients", "optimizer", "activations", "loss")


def planned(example: str, num_layers: int | None, settings: tuple[str, ...] = ()) -> Recipe:
    """What the plan counts with, of so many layers and one row; None: the model's own depth."""
    overrides = [f"stage1.{setting}" for setting in settings]
    recipe = recipe_of(load_pipeline(ROOT / "examples" / example, Path("run"), overrides), "stage1")
    architecture = recipe.architecture
    if num_layers is not None:
        architecture = replace(architecture, num_layers=num_layers)
    return replace(recipe, architecture=architecture, num_micro_batches=1)


def compare(
    play: Play, example: str, num_layers: int | None, settings: tuple[str, ...] = ()
) -> None:
    """Each part within the tolerance, and the most that lives at a time."""
    recipe = planned(example, num_layers, settings)
    plan = memory(recipe, 0)
    depth = recipe.architecture.num_layers
    given = {"settings": settings, "num_layers": depth, "memory": True}
    found = play(example, "stage1", **given).memory
    found["weights"] += found.pop("fp8_caches")
    both = {part: (found[part], getattr(plan, part)) for part in PARTS}
    both["peak"] = (found["peak"], plan.total)
    print(json.dumps({"example": example, "layers": depth, "settings": settings, **both}))
    if layer_backward(recipe, 0) > found["loss"]:
        del both["loss"]  # it is not what takes most; the peak shows what does
    for part, (live, counted) in both.items():
        assert live == pytest.approx(counted, rel=TOLERANCE, abs=ROW), part


@pytest.mark.slow
def test_a_rank_of_two_layers(play: Play) -> None:
    compare(play, DENSE, 2)


@pytest.mark.exhaustive
@pytest.mark.parametrize("example", [DENSE, EXPERTS])
@pytest.mark.parametrize("precision", FP8)
def test_cached_weights_and_inputs_in_fp8(play: Play, example: str, precision: str) -> None:
    compare(play, example, 2, (f"precision={precision}",))


@pytest.mark.exhaustive
@pytest.mark.parametrize("example", EXAMPLES)
def test_two_layers_of_every_example(play: Play, example: str) -> None:
    compare(play, example, 2)


@pytest.mark.exhaustive
@pytest.mark.parametrize("example", EXAMPLES)
def test_the_whole_depth_of_every_example(play: Play, example: str) -> None:
    compare(play, example, None)
