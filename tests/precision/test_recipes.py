from argparse import Namespace
from typing import get_args

import pytest

from megatron_dasd.config.choices import Precision
from megatron_dasd.precision.recipes import (
    RECIPES,
    precision_flags,
    precision_of,
    weights_dtype,
)


def test_every_precision_is_known() -> None:
    assert set(RECIPES) == set(get_args(Precision)) - {"fp32", "bf16"}
    assert [weights_dtype(p) for p in get_args(Precision)] == ["float32"] + ["bfloat16"] * 4


@pytest.mark.parametrize(
    ("precision", "flags"),
    [
        ("fp32", {}),
        ("bf16", {}),
        ("fp8-blockwise", {"fp8-format": "e4m3", "fp8-recipe": "blockwise"}),
        ("fp8-tensorwise", {"fp8-format": "hybrid", "fp8-recipe": "tensorwise"}),
        (
            "fp8-delayed",
            {
                "fp8-format": "hybrid",
                "fp8-recipe": "delayed",
                "fp8-amax-history-len": 1024,
                "fp8-amax-compute-algo": "max",
                "fp8-margin": 0,
            },
        ),
    ],
)
def test_flags(precision: Precision, flags: dict[str, object]) -> None:
    assert precision_flags(precision) == flags


@pytest.mark.parametrize("precision", RECIPES)
def test_the_precision_is_found_from_megatrons_arguments(precision: Precision) -> None:
    recipe = RECIPES[precision].flags["fp8-recipe"]
    assert precision_of(Namespace(fp8_recipe=recipe)) == precision


def test_other_recipes_of_megatrons_are_not_ours() -> None:
    assert precision_of(Namespace(fp8_recipe="mxfp8")) is None
