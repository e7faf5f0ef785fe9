"""Layouts that fit into a GPU's memory, the plainest first; and their efficiency."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product

from megatron_dasd.config.base import Launch
from megatron_dasd.config.planning import Plan
from megatron_dasd.errors import UserError
from megatron_dasd.models.context_parallel import slot_multiple
from megatron_dasd.planning.memory import Memory, Recipe, highest, parameters

TENSOR = (1, 2, 4, 8)
"""At most a node's GPUs, which NVLink connects."""
PIPELINE = (1, 2, 4, 8)
CONTEXT = (1, 2, 4, 8, 16)
EXPERT = (1, 2, 4, 8, 16)
NODE_GPUS = 8
LINK_BYTES_PER_SECOND = 50e9
"""Between nodes, per GPU: a 400 Gb/s adapter."""
NVLINK_BYTES_PER_SECOND = 450e9
"""Within a node, per GPU and direction: NVLink of an H100."""


@dataclass(frozen=True)
class Fit:
    """A layout and the memory that it needs."""

    recipe: Recipe
    memory: Memory

    @property
    def plainness(self) -> tuple[float, ...]:
        """Sort key, smaller is plainer: no recomputation, few ranks per row, short pipelines."""
        launch = self.recipe.launch
        ranks = launch.tensor_parallel * launch.pipeline_parallel * launch.context_parallel
        return (
            self.recipe.recompute == "full",
            ranks,
            launch.pipeline_parallel,
            launch.tensor_parallel,
            launch.expert_parallel,
        )


def usable_bytes(plan: Plan) -> float:
    """Memory of a GPU without the reserve."""
    return plan.gpu_memory_gb * 1e9 * (1 - plan.memory_reserve)


def fitting(recipe: Recipe, plan: Plan, global_batch_size: int) -> list[Fit]:
    """Find all layouts on the same number of ranks that fit, the plainest first."""
    found = [
        Fit(candidate, highest(candidate)) for candidate in _candidates(recipe, global_batch_size)
    ]
    room = usable_bytes(plan)
    return sorted((f for f in found if f.memory.total <= room), key=lambda f: f.plainness)


def _candidates(recipe: Recipe, global_batch_size: int) -> Iterator[Recipe]:
    a, ranks = recipe.architecture, recipe.launch.num_ranks
    experts = EXPERT if a.experts else (1,)
    for tensor, pipeline, context, expert in product(TENSOR, PIPELINE, CONTEXT, experts):
        of_a_row = tensor * pipeline * context
        if ranks % of_a_row or a.num_layers % pipeline:
            continue
        data = ranks // of_a_row
        if global_batch_size % data or recipe.seq_length % (slot_multiple(context) * tensor):
            continue
        try:
            a.check_layout(tensor, expert, context_parallel=context)
            launch = Launch(
                num_ranks=ranks,
                tensor_parallel=tensor,
                pipeline_parallel=pipeline,
                context_parallel=context,
                expert_parallel=expert,
                distributed_optimizer=True,
            )
        except (UserError, ValueError):  # heads, vocabulary or experts that do not divide
            continue
        for recompute in ("none", "full"):
            yield replace(
                recipe,
                launch=launch,
                recompute=recompute,
                num_micro_batches=global_batch_size // data,
            )


def efficiency(recipe: Recipe, step_seconds: float) -> float:
    """Share of a step's time spent computing, if no exchange is hidden behind computing.

    A lower bound: Megatron hides most of the data-parallel exchange.  Counted are the pipeline's
    idle time, (p - 1) / (v m) of the rest (arXiv 2104.04473, 2.2); the data-parallel exchange of
    gradients (float32, reduce-scatter) and weights (bfloat16, all-gather), once a step; and the
    keys and values that context-parallel ranks pass on, in the forward pass, and twice as much in
    the backward pass.

    Args:
        step_seconds: computing time of a step.
    """
    launch, a = recipe.launch, recipe.architecture
    p, v, m = launch.pipeline_parallel, launch.virtual_pipeline, recipe.num_micro_batches
    empty = (p - 1) / (v * m) * step_seconds
    sharing = recipe.data_parallel * launch.context_parallel
    num_own = sum(parameters(recipe, 0))
    exchanged = (4 + 2) * num_own * (sharing - 1) / sharing if sharing > 1 else 0.0
    wide = launch.tensor_parallel * sharing > NODE_GPUS
    seconds = exchanged / (LINK_BYTES_PER_SECOND if wide else NVLINK_BYTES_PER_SECOND)
    c = launch.context_parallel
    if c > 1:
        most_layers = max(recipe.stage_layers)
        keys = 2 * recipe.seq_length / c * a.num_query_groups * a.head_dim / launch.tensor_parallel
        passed = 3 * 2 * keys * (c - 1) * most_layers * m
        beyond = launch.tensor_parallel * c > NODE_GPUS
        seconds += passed / (LINK_BYTES_PER_SECOND if beyond else NVLINK_BYTES_PER_SECOND)
    return step_seconds / (step_seconds + empty + seconds)
