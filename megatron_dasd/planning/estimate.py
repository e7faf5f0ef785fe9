"""Time, money and disk of every stage of a pipeline, from shapes, lengths and stated rates."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from megatron_dasd.config.base import Launch, Settings
from megatron_dasd.config.pipeline import Pipeline
from megatron_dasd.config.planning import Corpus, Plan
from megatron_dasd.config.selection import ScoreStudent
from megatron_dasd.config.training import Train
from megatron_dasd.data.meta import META, TOKENS, data_folder
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import model_folder
from megatron_dasd.models.architecture import Architecture, read_architecture
from megatron_dasd.models.flops import PEAK_FLOPS, Products
from megatron_dasd.planning.memory import Recipe, parameters

_FORWARD_SHARE = 1 / 3
"""Of the operations of training, those of its forward pass."""
_TRAINING_BYTES, _EXPORT_BYTES = 2 + 4 + 4 + 4, 2
"""Of a weight in a checkpoint with Adam's moments, and in an exported model (bfloat16)."""
_DTYPE_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "fp8": 1}
"""By Megatron's names."""
_DATA_BYTES = 4 + 1 + 4 + 1
"""Of a token of packed data: id, mask, teacher's log-prob, class."""


@dataclass(frozen=True)
class Lengths:
    """Tokens of some documents, as far as cost goes by them."""

    num_tokens: float
    squared: float
    """Sum of the squares of the documents' lengths."""

    def plus(self, other: "Lengths") -> "Lengths":
        """Of both together."""
        return Lengths(self.num_tokens + other.num_tokens, self.squared + other.squared)

    def times(self, factor: float) -> "Lengths":
        """So many times over."""
        return Lengths(self.num_tokens * factor, self.squared * factor)


@dataclass(frozen=True)
class Cost:
    """What a stage takes."""

    stage: str
    kind: str
    gpus: int
    hours: float
    num_tokens: float
    flops: float = 0.0
    disk_bytes: float = 0.0

    @property
    def gpu_hours(self) -> float:
        """Of all its GPUs."""
        return self.gpus * self.hours

    @property
    def tokens_per_second(self) -> float:
        """Over all its GPUs or servers."""
        return self.num_tokens / (3600 * self.hours) if self.hours else 0.0


def lengths_of(pipeline: Pipeline, reference: str) -> Lengths:
    """Documents of packed data that is there, else of ``plan.corpora``.

    Raises:
        UserError: neither says.
    """
    path = pipeline.resolve(reference)
    if (path / META).exists() or (path / "data" / META).exists():
        from megatron.core.datasets.indexed_dataset import IndexedDataset

        sizes = IndexedDataset(str(data_folder(path) / TOKENS)).sequence_lengths.astype(np.float64)
        return Lengths(float(sizes.sum()), float(np.square(sizes).sum()))
    if reference not in pipeline.plan.corpora:
        raise UserError(
            f"{pipeline.path}: {reference} is not there; say in plan.corpora.{reference} how many "
            "documents it will have and how long (num_documents, mean_tokens)"
        )
    return of_corpus(pipeline.plan.corpora[reference])


def of_corpus(corpus: Corpus) -> Lengths:
    """Of a log-normal distribution: E[n^2] = E[n]^2 exp(sigma^2)."""
    squared = corpus.num_documents * corpus.mean_tokens**2 * math.exp(corpus.sigma**2)
    return Lengths(corpus.num_tokens, squared)


def products_of(architecture: Architecture) -> Products:
    """What the model's operations go by."""
    a, experts = architecture, architecture.experts
    return Products(
        num_layers=a.num_layers,
        hidden_size=a.hidden_size,
        query_channels=a.num_attention_heads * a.head_dim,
        key_channels=a.num_query_groups * a.head_dim,
        ffn_hidden_size=experts.ffn_hidden_size if experts else a.ffn_hidden_size,
        vocab_size=a.vocab_size,
        experts_per_token=experts.experts_per_token if experts else 1,
        num_experts=experts.num_experts if experts else 0,
    )


def architecture_of(pipeline: Pipeline, reference: str) -> Architecture:
    """Of a model's folder, or of the model that a stage will make its own of.

    Raises:
        UserError: there is none yet.
    """
    path = pipeline.resolve(reference)
    try:
        return read_architecture(model_folder(path))
    except UserError:
        if reference in pipeline.stages and not path.exists():
            raise UserError(
                f"{pipeline.path}: model {reference} is not there yet; run that stage first"
            ) from None
        raise


def recipe_of(pipeline: Pipeline, stage: str) -> Recipe:
    """Of a train stage."""
    settings = pipeline.stages[stage]
    assert isinstance(settings, Train)
    flags = {name.replace("_", "-"): value for name, value in settings.megatron.items()}
    launch = settings.launch
    of_a_row = launch.tensor_parallel * launch.pipeline_parallel * launch.context_parallel
    moment_bytes, gradient_bytes = _optimizer_bytes(flags)
    return Recipe(
        architecture=architecture_of(pipeline, settings.model),
        launch=launch,
        seq_length=seq_length_of(pipeline, settings.data),
        bf16=settings.precision != "fp32",
        chunked_loss=settings.chunked_loss,
        recompute="full" if flags.get("recompute-granularity") == "full" else "none",
        moment_bytes=moment_bytes,
        gradient_bytes=gradient_bytes,
        num_micro_batches=max(1, settings.global_batch_size * of_a_row // launch.num_ranks),
    )


def _optimizer_bytes(flags: Mapping[str, Any]) -> tuple[int, int]:
    """Of a weight: both of Adam's moments, and the gradient.

    Megatron's precision-aware optimizer keeps them in the types that it is told.  The copy in
    float32 is counted whole, though Transformer Engine may keep half of it alone.
    """
    told = flags if flags.get("use-precision-aware-optimizer") else {}
    first, second, gradient = (
        _DTYPE_BYTES[str(told.get(name, "fp32"))]
        for name in ("exp-avg-dtype", "exp-avg-sq-dtype", "main-grads-dtype")
    )
    return first + second, gradient


def seq_length_of(pipeline: Pipeline, reference: str) -> int:
    """Tokens of a row of the data that a stage will make.

    Raises:
        UserError: it is neither such a stage nor packed data.
    """
    length = getattr(pipeline.stages.get(reference), "seq_length", None)
    if length is None:
        from megatron_dasd.data.meta import read_meta

        return read_meta(pipeline.resolve(reference)).seq_length
    return int(length)


def costs(pipeline: Pipeline) -> list[Cost]:
    """Of the stages that compute with a model, in running order.

    Raises:
        UserError: something that the plan needs is not said.
    """
    found = (_cost(pipeline, stage) for stage in pipeline.stages)
    return [cost for cost in found if cost is not None]


def training_cost(pipeline: Pipeline, stage: str, recipe: Recipe | None = None) -> Cost:
    """Of a train stage.

    Args:
        recipe: in place of the stage's own layout.
    """
    settings = pipeline.stages[stage]
    assert isinstance(settings, Train)
    recipe = recipe or recipe_of(pipeline, stage)
    lengths = lengths_of(pipeline, settings.data)
    if settings.ramp_data:
        lengths = lengths.plus(lengths_of(pipeline, settings.ramp_data))
    lengths = lengths.times(settings.epochs)
    flops = products_of(recipe.architecture).training_flops(lengths.num_tokens, lengths.squared)
    # recomputation makes the forward pass once more, which does not count as work done
    made = flops * (1 + _FORWARD_SHARE * (recipe.recompute == "full"))
    ranks = recipe.launch.num_ranks
    hours = made / (ranks * _rate(pipeline.plan)) / 3600
    checkpoints = settings.keep_checkpoints + 1  # one more while it is being written
    disk = checkpoints * num_weights(recipe) * _TRAINING_BYTES
    return Cost(stage, "train", ranks, hours, lengths.num_tokens, flops, disk)


def num_weights(recipe: Recipe) -> int:
    """Of the whole model."""
    return sum(parameters(replace(recipe, launch=Launch()), 0))


def _cost(pipeline: Pipeline, stage: str) -> Cost | None:
    settings = pipeline.stages[stage]
    if isinstance(settings, Train):
        return training_cost(pipeline, stage)
    if services := settings.services:
        return _asking_cost(pipeline, stage, settings, services[0])
    if isinstance(settings, ScoreStudent) and settings.checkpoint is not None:
        lengths = lengths_of(pipeline, settings.responses)
        products = products_of(architecture_of(pipeline, settings.model))
        flops = _FORWARD_SHARE * products.training_flops(lengths.num_tokens, lengths.squared)
        ranks = settings.launch.num_ranks
        hours = flops / (ranks * _rate(pipeline.plan)) / 3600
        return Cost(stage, settings.kind, ranks, hours, lengths.num_tokens, flops)
    if settings.kind == "preprocess_data" and stage in pipeline.plan.corpora:
        lengths = lengths_of(pipeline, stage)
        disk = _DATA_BYTES * lengths.num_tokens
        return Cost(stage, settings.kind, 0, 0.0, lengths.num_tokens, disk_bytes=disk)
    return None


def _asking_cost(pipeline: Pipeline, stage: str, settings: Settings, service: str) -> Cost:
    plan, cluster = pipeline.plan, pipeline.cluster
    if service not in plan.server_tokens_per_second:
        raise UserError(
            f"{pipeline.path}: stage {stage} asks service {service}; say in "
            f"plan.server_tokens_per_second.{service} what one of its servers generates"
        )
    if service not in cluster.servers:
        raise UserError(f"{pipeline.path}: service {service} is not among cluster.servers")
    server = cluster.servers[service]
    lengths = lengths_of(pipeline, stage)
    rate = plan.server_tokens_per_second[service] * server.count
    per_node = cluster.gpus_per_node if server.gpus_per_node is None else server.gpus_per_node
    gpus = server.count * (server.nodes or 1) * per_node
    return Cost(stage, settings.kind, gpus, lengths.num_tokens / rate / 3600, lengths.num_tokens)


def _rate(plan: Plan) -> float:
    """Model operations/s of one GPU."""
    return PEAK_FLOPS[plan.gpu] * plan.mfu


def total_disk_bytes(pipeline: Pipeline, found: list[Cost]) -> float:
    """Checkpoints, packed data and exported models; not responses, whose size varies."""
    exports = [s for s in pipeline.stages.values() if s.kind == "export_hf"]
    trained = [s for s in pipeline.stages if isinstance(pipeline.stages[s], Train)]
    of_export = num_weights(recipe_of(pipeline, trained[0])) * _EXPORT_BYTES if trained else 0
    return sum(cost.disk_bytes for cost in found) + len(exports) * of_export
