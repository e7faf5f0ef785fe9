"""Time, money and disk of every stage of a pipeline, from shapes, lengths and stated rates."""

from collections.abc import Mapping
from dataclasses import replace

from megatron_dasd.config.base import Launch, Settings
from megatron_dasd.config.pipeline import Pipeline
from megatron_dasd.config.planning import Plan
from megatron_dasd.config.selection import ScoreStudent
from megatron_dasd.config.teacher import ScoreTopk
from megatron_dasd.config.training import ExportHf, ImportHf, Train, VerifyConversion
from megatron_dasd.errors import UserError
from megatron_dasd.losses.slices import default_bytes
from megatron_dasd.manifests import model_folder
from megatron_dasd.models.architecture import Architecture
from megatron_dasd.models.flops import FLOAT32_SHARE, PEAK_FLOPS, products_of
from megatron_dasd.models.hf_config import read_architecture
from megatron_dasd.models.sizes import checkpoint_bytes, element_bytes
from megatron_dasd.planning.cost import Cost
from megatron_dasd.planning.data_path import data_cost, stored_bytes
from megatron_dasd.planning.memory import Recipe, parameters
from megatron_dasd.planning.totals import TokenTotals, token_totals

_FORWARD_SHARE = 1 / 3
"""Share of the forward pass in the operations of training."""
_DTYPE_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "fp8": 1}
"""Bytes of an element by Megatron's names of types."""
_TOP_BYTES = 4 + 4
"""Of one of the teacher's likeliest tokens: id and log-prob."""


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
    bf16 = settings.precision != "fp32"
    return Recipe(
        architecture=architecture_of(pipeline, settings.model),
        launch=launch,
        seq_length=seq_length_of(pipeline, settings.data),
        bf16=bf16,
        fp8=settings.precision.startswith("fp8"),
        chunked_loss=settings.chunked_loss,
        slice_bytes=_slice_bytes(settings.loss_slice_mib, pipeline.plan.gpu_memory_gb),
        recompute="full" if flags.get("recompute-granularity") == "full" else "none",
        moment_bytes=moment_bytes,
        # of the float32 copy that optimizer keeps the half that the bfloat16 weight lacks
        saved_copy_bytes=2 if bf16 and flags.get("use-precision-aware-optimizer") else 0,
        gradient_bytes=gradient_bytes,
        num_micro_batches=max(1, settings.global_batch_size * of_a_row // launch.num_ranks),
    )


def _slice_bytes(mib: int | None, gpu_memory_gb: float) -> int:
    return mib * 2**20 if mib else default_bytes(gpu_memory_gb * 1e9)


def _optimizer_bytes(flags: Mapping[str, object]) -> tuple[int, int]:
    """Bytes per weight of both of Adam's moments, and of the gradient.

    Megatron's precision-aware optimizer keeps them in the types that its flags name.
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
    """Costs of all stages, in running order.

    Raises:
        UserError: a figure that the plan needs is missing.
    """
    return [_cost(pipeline, stage) for stage in pipeline.stages]


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


def _cost(pipeline: Pipeline, stage: str) -> Cost:
    settings = pipeline.stages[stage]
    if isinstance(settings, Train):
        return training_cost(pipeline, stage)
    if services := settings.services:
        return _server_cost(pipeline, stage, settings, services[0])
    if isinstance(settings, ScoreStudent):
        slower = FLOAT32_SHARE if settings.dtype == "float32" else 1
        lengths = token_totals(pipeline, settings.responses)
        cost = _forward_cost(pipeline, stage, settings.model, lengths, slower)
        return replace(cost, disk_bytes=stored_bytes(settings.kind, lengths.num_tokens))
    if isinstance(settings, ScoreTopk) and settings.teacher:
        slower = FLOAT32_SHARE if settings.dtype == "float32" else 1
        lengths = token_totals(pipeline, settings.data)
        cost = _forward_cost(pipeline, stage, settings.teacher, lengths, slower)
        return replace(cost, disk_bytes=_TOP_BYTES * settings.top_k * lengths.num_tokens)
    return data_cost(pipeline, stage, _weight_bytes(pipeline, settings))


def _forward_cost(
    pipeline: Pipeline, stage: str, model: str, lengths: TokenTotals, slower: float
) -> Cost:
    """Cost of a forward pass on the ranks that the stage has; one, where it is not distributed.

    Args:
        slower: share of the bfloat16 rate at which it computes.
    """
    settings = pipeline.stages[stage]
    products = products_of(architecture_of(pipeline, model))
    flops = _FORWARD_SHARE * products.training_flops(lengths.num_tokens, lengths.squared)
    ranks = settings.num_ranks or 1
    hours = flops / (ranks * _rate(pipeline.plan) * slower) / 3600
    return Cost(stage, settings.kind, ranks, hours, lengths.num_tokens, flops)


def _weight_bytes(pipeline: Pipeline, settings: Settings) -> float | None:
    """Of the model that a stage converts or compares, in bfloat16; None: it does neither."""
    if not isinstance(settings, ImportHf | ExportHf | VerifyConversion):
        return None
    model = settings.model
    while isinstance(export := pipeline.stages.get(model), ExportHf):
        model = export.model
    recipe = Recipe(architecture_of(pipeline, model), Launch(), seq_length=1)
    return float(num_weights(recipe) * element_bytes(bf16=True))


def _server_cost(pipeline: Pipeline, stage: str, settings: Settings, service: str) -> Cost:
    """By the servers' tokens, or by their requests where these take longer."""
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
    seconds = lengths.num_tokens / (plan.server_tokens_per_second[service] * server.count)
    if requests := plan.server_requests_per_second.get(service):
        seconds = max(seconds, lengths.num_documents / (requests * server.count))
    per_node = cluster.gpus_per_node if server.gpus_per_node is None else server.gpus_per_node
    gpus = server.count * (server.nodes or 1) * per_node
    disk = stored_bytes("sample_teacher", lengths.num_tokens)
    hours, tokens = seconds / 3600, lengths.num_tokens
    return Cost(stage, settings.kind, gpus, hours, tokens, disk_bytes=disk)


def _rate(plan: Plan) -> float:
    """Model operations per second of one GPU."""
    return PEAK_FLOPS[plan.gpu] * plan.mfu
