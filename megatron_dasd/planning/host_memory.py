"""Memory of a node's host while a training saves, counted from shapes alone.

An interim save copies what each rank has of weights and optimizer.  The last one, one on a signal,
and a gathering pass gather the distributed optimizer's state of a rank's weights on every
data-parallel rank (Megatron's ``fully_reshardable``): copy and both moments, all in float32.
"""

from dataclasses import dataclass

from megatron_dasd.models.sizes import ADAM_MOMENT_BYTES, optimizer_bytes
from megatron_dasd.planning.layouts import NODE_GPUS
from megatron_dasd.planning.memory import Recipe, memory, parameters

_GATHERED_BYTES = 4 + ADAM_MOMENT_BYTES
"""Of a weight."""


@dataclass(frozen=True)
class HostMemory:
    """Bytes of a node with as many ranks as it has GPUs."""

    interim: float
    """While an interim checkpoint is written."""
    last: float
    """While the last checkpoint is written, or an interim one gathered."""


def host_memory(recipe: Recipe) -> HostMemory:
    """Memory of the node whose ranks are the fullest."""
    launch = recipe.launch
    ranks = min(NODE_GPUS, launch.num_ranks)
    replicas = recipe.data_parallel * launch.context_parallel
    stages = range(launch.pipeline_parallel)
    numbers = [sum(parameters(recipe, stage)) for stage in stages]
    # what ranks hold alike, one of them writes: weights, and a state that is not divided
    copied = [recipe.element_bytes * n / replicas for n in numbers]
    if launch.distributed_optimizer:
        states = [memory(recipe, stage).optimizer for stage in stages]
    else:
        whole = optimizer_bytes(recipe.bf16, recipe.moment_bytes)
        states = [whole * n / replicas for n in numbers]
    interim = max(weights + state for weights, state in zip(copied, states, strict=True))
    gathered = _GATHERED_BYTES * max(numbers) if launch.distributed_optimizer else interim
    return HostMemory(interim=ranks * interim, last=ranks * gathered)
