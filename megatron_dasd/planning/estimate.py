"""Time, money and disk of every stage of a pipeline, from shapes, lengths and stated rates."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from megatron_dasd.config.base import Launch, Settings
from megatron_dasd.config.pipeline import Pipeline
from megatron_dasd.config.planning import Corpus, Plan
from megatron_dasd.config.selection import ScoreStudent
from megatron_dasd.config.training import Train
from megatron_dasd.data.meta import META, TOKENS, data_folder
from megatron_dasd.errors import UserError
from megatron_dasd.losses.slices import default_bytes
from megatron_dasd.manifests import model_folder
from megatron_dasd.models.architecture import Architecture, read_architecture
from megatron_dasd.models.flops import FLOAT32_SHARE, PEAK_FLOPS, products_of
from megatron_dasd.models.sizes import checkpoint_bytes
from megatron_dasd.planning.memory import Recipe, parameters

_FORWARD_SHARE = 1 / 3
"""Share of the forward pass in the operations of training."""
_DTYPE_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "fp8": 1}
"""Bytes of an element by Megatron's names of types."""
_DATA_BYTES = 4 + 1 + 4 + 1
"""Of a token of packed data: id, mask, teacher's log-prob, class."""


@dataclass(frozen=True)
class TokenTotals:
    """Token counts of some documents, as the cost formulas need them."""

    num_tokens: float
    squared: float
    """Sum of the squares of the documents' lengths."""

    def plus(self, other: "TokenTotals") -> "TokenTotals":
        """The totals of both sets of documents together."""
        return TokenTotals(self.num_tokens + other.num_tokens, self.squared + other.squared)

    def times(self, factor: float) -> "TokenTotals":
        """Scale by ``factor``, e.g. epochs."""
        return TokenTotals(self.num_tokens * factor, self.squared * factor)


@dataclass(frozen=True)
class Cost:
    """Cost of a stage."""

    stage: str
    kind: str
    gpus: int
    hours: float
    num_tokens: float
    flops: float = 0.0
    disk_bytes: float = 0.0

    @property
    def gpu_hours(self) -> float:
        """GPUs times hours."""
        return self.gpus * self.hours

    @property
    def tokens_per_second(self) -> float:
        """Rate over all GPUs or servers of the stage; 0 for a stage without hours."""
        return self.num_tokens / (3600 * self.hours) if self.hours else 0.0


def token_totals(pipeline: Pipeline, reference: str) -> TokenTotals:
    """Count the documents of packed data that exists; otherwise take ``plan.corpora``.

    Raises:
        UserError: neither exists.
    """
    path = pipeline.resolve(reference)
    if (path / META).exists() or (path / "data" / META).exists():
        from megatron.core.datasets.indexed_dataset import IndexedDataset

        sizes = IndexedDataset(str(data_folder(path) / TOKENS)).sequence_lengths.astype(np.float64)
        return TokenTotals(float(sizes.sum()), float(np.square(sizes).sum()))
    if reference not in pipeline.plan.corpora:
        raise UserError(
            f"{pipeline.path}: {reference} does not exist yet; give the number and length of its "
            f"documents in plan.corpora.{reference} (num_documents, mean_tokens)"
        )
    return corpus_totals(pipeline.plan.corpora[reference])


def corpus_totals(corpus: Corpus) -> TokenTotals:
    """Totals of log-normal lengths: E[n^2] = E[n]^2 exp(sigma^2)."""
    squared = corpus.num_documents * corpus.mean_tokens**2 * math.exp(corpus.sigma**2)
    return TokenTotals(corpus.num_tokens, squared)


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
                f"{pipeline.path}: model {reference} does not exist yet; run that stage first"
            ) from None
        raise


def recipe_of(pipeline: Pipeline, stage: str) -> Recipe:
    """Describe the training of a train stage."""
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
        fp8=settings.precision.startswith("fp8"),
        chunked_loss=settings.chunked_loss,
        slice_bytes=_slice_bytes(settings.loss_slice_mib, pipeline.plan.gpu_memory_gb),
        recompute="full" if flags.get("recompute-granularity") == "full" else "none",
        moment_bytes=moment_bytes,
        gradient_bytes=gradient_bytes,
        num_micro_batches=max(1, settings.global_batch_size * of_a_row // launch.num_ranks),
    )


def _slice_bytes(mib: int | None, gpu_memory_gb: float) -> int:
    return mib * 2**20 if mib else default_bytes(gpu_memory_gb * 1e9)


def _optimizer_bytes(flags: Mapping[str, object]) -> tuple[int, int]:
    """Bytes per weight of both of Adam's moments, and of the gradient.

    Megatron's precision-aware optimizer keeps them in the types that its flags name.  The copy in
    float32 is counted whole, though Transformer Engine may keep only half of it.
    """
    types = flags if flags.get("use-precision-aware-optimizer") else {}
    first, second, gradient = (
        _DTYPE_BYTES[str(types.get(name, "fp32"))]
        for name in ("exp-avg-dtype", "exp-avg-sq-dtype", "main-grads-dtype")
    )
    return first + second, gradient


def seq_length_of(pipeline: Pipeline, reference: str) -> int:
    """Tokens of a row of packed data that exists or that a stage will make.

    Raises:
        UserError: the reference is neither such a stage nor packed data.
    """
    length = getattr(pipeline.stages.get(reference), "seq_length", None)
    if length is None:
        from megatron_dasd.data.meta import read_meta

        return read_meta(pipeline.resolve(reference)).seq_length
    return int(length)


def costs(pipeline: Pipeline) -> list[Cost]:
    """Costs of the stages that run a model, in running order.

    Raises:
        UserError: a figure that the plan needs is missing.
    """
    found = (_cost(pipeline, stage) for stage in pipeline.stages)
    return [cost for cost in found if cost is not None]


def training_cost(pipeline: Pipeline, stage: str, recipe: Recipe | None = None) -> Cost:
    """Cost of a train stage.

    Args:
        recipe: another layout; None: the stage's own.
    """
    settings = pipeline.stages[stage]
    assert isinstance(settings, Train)
    recipe = recipe or recipe_of(pipeline, stage)
    lengths = token_totals(pipeline, settings.data)
    if settings.ramp_data:
        lengths = lengths.plus(token_totals(pipeline, settings.ramp_data))
    passes = settings.epochs
    if settings.max_steps is not None:
        most_tokens = settings.max_steps * settings.global_batch_size * recipe.seq_length
        passes = min(passes, most_tokens / max(lengths.num_tokens, 1))
    lengths = lengths.times(passes)
    flops = products_of(recipe.architecture).training_flops(lengths.num_tokens, lengths.squared)
    # recomputation repeats the forward pass, which does not count as model operations
    made = flops * (1 + _FORWARD_SHARE * (recipe.recompute == "full"))
    ranks = recipe.launch.num_ranks
    hours = made / (ranks * _rate(pipeline.plan)) / 3600
    checkpoints = settings.keep_checkpoints + 1  # one more while the newest is being written
    disk = checkpoints * checkpoint_bytes(num_weights(recipe), recipe.bf16)
    return Cost(stage, "train", ranks, hours, lengths.num_tokens, flops, disk)


def num_weights(recipe: Recipe) -> int:
    """Weights of the whole model."""
    return sum(parameters(replace(recipe, launch=Launch()), 0))


def _cost(pipeline: Pipeline, stage: str) -> Cost | None:
    settings = pipeline.stages[stage]
    if isinstance(settings, Train):
        return training_cost(pipeline, stage)
    if services := settings.services:
        return _server_cost(pipeline, stage, settings, services[0])
    if isinstance(settings, ScoreStudent) and settings.checkpoint is not None:
        lengths = token_totals(pipeline, settings.responses)
        products = products_of(architecture_of(pipeline, settings.model))
        flops = _FORWARD_SHARE * products.training_flops(lengths.num_tokens, lengths.squared)
        ranks = settings.launch.num_ranks
        rate = _rate(pipeline.plan) * (FLOAT32_SHARE if settings.dtype == "float32" else 1)
        hours = flops / (ranks * rate) / 3600
        return Cost(stage, settings.kind, ranks, hours, lengths.num_tokens, flops)
    if settings.kind == "preprocess_data" and stage in pipeline.plan.corpora:
        lengths = token_totals(pipeline, stage)
        disk = _DATA_BYTES * lengths.num_tokens
        return Cost(stage, settings.kind, 0, 0.0, lengths.num_tokens, disk_bytes=disk)
    return None


def _server_cost(pipeline: Pipeline, stage: str, settings: Settings, service: str) -> Cost:
    plan, cluster = pipeline.plan, pipeline.cluster
    if service not in plan.server_tokens_per_second:
        raise UserError(
            f"{pipeline.path}: stage {stage} uses service {service}; give the rate of one of its "
            f"servers in plan.server_tokens_per_second.{service}"
        )
    if service not in cluster.servers:
        raise UserError(f"{pipeline.path}: service {service} is not among cluster.servers")
    server = cluster.servers[service]
    lengths = token_totals(pipeline, stage)
    rate = plan.server_tokens_per_second[service] * server.count
    per_node = cluster.gpus_per_node if server.gpus_per_node is None else server.gpus_per_node
    gpus = server.count * (server.nodes or 1) * per_node
    return Cost(stage, settings.kind, gpus, lengths.num_tokens / rate / 3600, lengths.num_tokens)


def _rate(plan: Plan) -> float:
    """Model operations per second of one GPU."""
    return PEAK_FLOPS[plan.gpu] * plan.mfu


def total_disk_bytes(pipeline: Pipeline, found: list[Cost]) -> float:
    """Checkpoints, packed data and exported models; not responses, whose size varies."""
    exports = [s for s in pipeline.stages.values() if s.kind == "export_hf"]
    trained = [s for s in pipeline.stages if isinstance(pipeline.stages[s], Train)]
    of_export = 0
    if trained:
        recipe = recipe_of(pipeline, trained[0])
        of_export = num_weights(recipe) * recipe.element_bytes
    return sum(cost.disk_bytes for cost in found) + len(exports) * of_export
