"""Which attention kernel the shipped recipes get on this machine, for the doctor."""

import json
from dataclasses import asdict
from pathlib import Path

from megatron_dasd.config.pipeline import load_pipeline
from megatron_dasd.config.training import Train
from megatron_dasd.device.doctor import Finding, is_installed, run_python
from megatron_dasd.models.attention_backend import AttentionShape
from megatron_dasd.planning.estimate import recipe_of
from megatron_dasd.planning.memory import Recipe
from megatron_dasd.shipped import shipped_folder

_ASK = """
import json
from megatron_dasd.models.attention_backend import AttentionShape, chosen
shapes = json.loads({shapes!r})
print(json.dumps([chosen(AttentionShape(**shape)) for shape in shapes]))
"""
_NAME = "attention"


def findings(has_gpu: bool) -> list[Finding]:
    """One line for each kind of packed row that the shipped recipes have.

    Args:
        has_gpu: whether this machine has a GPU that torch can use.
    """
    if not has_gpu or not is_installed("transformer_engine"):
        return [_local(has_gpu)]
    recipes = of_recipes()
    works, said = run_python(_ASK.format(shapes=json.dumps([asdict(shape) for shape in recipes])))
    if not works:
        return [Finding(_NAME, "broken", "", said)]
    return [
        _finding(kernel, shape, names)
        for kernel, (shape, names) in zip(json.loads(said), recipes.items(), strict=True)
    ]


def _local(has_gpu: bool) -> Finding:
    kernel = "torch.nn.attention.varlen" if has_gpu else "torch's SDPA, a document at a time"
    gain = "with Transformer Engine on an H100, cuDNN's fused attention takes packed rows whole"
    return Finding(_NAME, "on", kernel, gain)


def _finding(kernel: str, shape: AttentionShape, names: list[str]) -> Finding:
    where = f"packed rows of {', '.join(names)} ({_words(shape)})"
    if kernel:
        return Finding(_NAME, "on", kernel, where)
    wrong = f"no kernel takes {where}: is cuDNN older than 9.12, or NVTE_FUSED_ATTN set to 0?"
    return Finding(_NAME, "broken", "", wrong)


def _words(shape: AttentionShape) -> str:
    heads = f"{shape.num_heads} heads of {shape.head_dim}, {shape.num_groups} key-value heads"
    return f"{heads}, {shape.num_tokens:,} tokens, CP{shape.context_parallel}"


def of_recipes() -> dict[AttentionShape, list[str]]:
    """What a rank's attention is given in the shipped recipes, and which recipes these are."""
    found: dict[AttentionShape, list[str]] = {}
    for path in sorted(shipped_folder("examples").glob("qwen3_*/h100_*.yaml")):
        pipeline = load_pipeline(path, Path("run"))
        stage = next(name for name, s in pipeline.stages.items() if isinstance(s, Train))
        shape = shape_of(recipe_of(pipeline, stage))
        found.setdefault(shape, []).append(f"{path.parent.name}/{path.stem}")
    return found


def shape_of(recipe: Recipe) -> AttentionShape:
    """What a rank's attention is given in a training."""
    a, launch = recipe.architecture, recipe.launch
    return AttentionShape(
        num_heads=a.num_attention_heads // launch.tensor_parallel,
        num_groups=a.num_query_groups // launch.tensor_parallel,
        head_dim=a.head_dim,
        num_tokens=recipe.seq_length // launch.context_parallel,
        context_parallel=launch.context_parallel,
    )
