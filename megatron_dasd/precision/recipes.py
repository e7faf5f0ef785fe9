"""FP8 recipes as a table: Megatron's flags and what the hardware must have.

The recipes are Transformer Engine's (2.20, ``transformer_engine.common.recipe``); docs/precision.md
sets them side by side.
"""

from argparse import Namespace
from dataclasses import dataclass
from typing import Literal

from megatron_dasd.config.choices import Precision
from megatron_dasd.device import cpu_adapter
from megatron_dasd.models.architecture import Flags


@dataclass(frozen=True)
class Recipe:
    """One way of scaling tensors into FP8."""

    flags: Flags
    """Megatron's flags for the recipe, beside ``bf16``."""
    min_engine: tuple[int, ...]
    """Transformer Engine from which Megatron takes the recipe."""
    min_capability: tuple[int, int]
    """Compute capability of the GPU, major and minor; an H100's is 9.0."""
    min_cuda: tuple[int, int]


RECIPES: dict[Precision, Recipe] = {
    "fp8-blockwise": Recipe(
        flags={"fp8-format": "e4m3", "fp8-recipe": "blockwise"},
        min_engine=(2, 3),
        min_capability=(9, 0),
        min_cuda=(12, 9),
    ),
    "fp8-tensorwise": Recipe(
        flags={"fp8-format": "hybrid", "fp8-recipe": "tensorwise"},
        min_engine=(2, 2),
        min_capability=(8, 9),
        min_cuda=(12, 1),
    ),
    "fp8-delayed": Recipe(
        flags={
            "fp8-format": "hybrid",
            "fp8-recipe": "delayed",
            # Transformer Engine's own defaults; Megatron's (1, most_recent) look back one step.
            "fp8-amax-history-len": 1024,
            "fp8-amax-compute-algo": "max",
            "fp8-margin": 0,
        },
        min_engine=(1, 11),
        min_capability=(8, 9),
        min_cuda=(12, 1),
    ),
}


def weights_dtype(precision: Precision) -> Literal["float32", "bfloat16"]:
    """The type of the weights that a forward pass sees before it quantises them."""
    return "float32" if precision == "fp32" else "bfloat16"


def precision_flags(precision: Precision) -> Flags:
    """Megatron's flags for a precision, beside those of :func:`weights_dtype`."""
    return dict(RECIPES[precision].flags) if precision in RECIPES else {}


def where_fp8_runs() -> str:
    """Where FP8 products are made on this machine, in words."""
    if cpu_adapter.needed():
        return "emulated on the CPU, no GPU here: its rounding, not its speed"
    return "Transformer Engine on the GPU"


def precision_of(args: Namespace) -> Precision | None:
    """The FP8 precision with the recipe of Megatron's parsed arguments; None: not one of ours."""
    for precision, recipe in RECIPES.items():
        if recipe.flags["fp8-recipe"] == args.fp8_recipe:
            return precision
    return None
