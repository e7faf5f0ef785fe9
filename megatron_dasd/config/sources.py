"""Settings of the sources: models and prompts."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator

from megatron_dasd.config.base import Input, NumWorkers, Positive, Settings, Stage
from megatron_dasd.config.formats import Column, UserFiles

Carries = Literal["any", "none"]
Style = Literal["terse", "explained", "wordy"]


class ImportGguf(Settings):
    """A GGUF file that a Python package carries, dequantised to a Hugging Face folder."""

    kind: Literal["import_gguf"]
    stage: ClassVar[Stage] = Stage(module="megatron_dasd.sources.gguf")
    package: str
    """Name of the installed Python package."""
    file: str
    """The GGUF file's name inside the package."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Type of the weights that are written."""


class RandomModel(Settings):
    """A small Llama-shaped Hugging Face model with random weights and a byte-level tokenizer."""

    kind: Literal["random_model"]
    stage: ClassVar[Stage] = Stage(module="megatron_dasd.sources.random_model")
    num_layers: Positive
    """Transformer layers."""
    hidden_size: Positive
    """Channels of a position's hidden state."""
    num_attention_heads: Positive
    """Attention heads; they divide ``hidden_size``."""
    num_key_value_heads: Positive
    """Heads of keys and values; they divide ``num_attention_heads``."""
    intermediate_size: Positive
    """Channels inside the feed-forward part of a layer."""
    alphabet: Annotated[str, Field(min_length=1)] | None = None
    """ASCII characters that the model writes with its random weights, and hardly any others.  None:
    it favours none, as a model should that is to be trained."""
    max_position_embeddings: Positive = 1024
    """Longest context, in tokens."""
    initializer_std: float = 0.02
    """Standard deviation of the normal distribution that weights are drawn from."""


class PruneLayers(Settings):
    """A student made from a model by removing layers, the rest evenly spaced."""

    kind: Literal["prune_layers"]
    stage: ClassVar[Stage] = Stage(module="megatron_dasd.sources.prune")
    model: Input
    """Hugging Face folder of the model that layers are removed from."""
    num_layers_removed: Positive
    """Layers to remove."""
    num_key_value_heads: Positive | None = None
    """More heads than the model has, for a layout that does not divide the model's number; the
    added heads are zero and stay zero.  None: the model's."""


class ReasoningGymTask(BaseModel):
    """One generator of the ``reasoning-gym`` package."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    generator: str
    """Name of the generator, e.g. ``chain_sum``."""
    size: Positive
    """Prompts to draw; repeated ones are left out."""
    config: dict[str, Any] = {}
    """The generator's own settings; ``dasd`` sets its seed and size."""


class ColumnAddition(BaseModel):
    """Sums of two numbers of three digits, see ``tasks.column_addition``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    generator: Literal["column_addition"]
    """``column_addition``, which tells these tasks from those of ``reasoning-gym``."""
    size: Positive
    """Prompts to draw; repeated ones are left out."""
    carries: Carries = "any"
    """``none``: no column's sum exceeds 9."""


def _generator_of(task: object) -> str:
    generator = task.get("generator") if isinstance(task, dict) else getattr(task, "generator", "")
    return "own" if generator == "column_addition" else "reasoning_gym"


Task = Annotated[
    Annotated[ColumnAddition, Tag("own")] | Annotated[ReasoningGymTask, Tag("reasoning_gym")],
    Discriminator(_generator_of),
]


class MakePrompts(UserFiles):
    """Tasks from generators and prompts from files, with a held-out part."""

    kind: Literal["make_prompts"]
    stage: ClassVar[Stage] = Stage(module="megatron_dasd.sources.prompts")
    files: list[Input] = []
    """JSON lines, JSON arrays, Parquet, Arrow, or folders of them: of Prompt records, or of other
    programs' rows where ``format`` or columns are given, whose responses are left out."""
    reference_answer_field: Column = None
    """Column of the right answer; None: these prompts are not graded."""
    grader: str | None = None
    """Grader of the answers to prompts with a right answer, e.g. ``math``."""
    tasks: list[Task] = []
    """Generators of the ``reasoning-gym`` package, and ``column_addition``."""
    heldout_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Share of the prompts that no stage trains on."""

    @model_validator(mode="after")
    def _some(self) -> "MakePrompts":
        if not self.files and not self.tasks:
            raise ValueError("give files, tasks or both")
        if bool(self.reference_answer_field) != bool(self.grader):
            raise ValueError("give reference_answer_field and grader, or neither")
        return self


class ImportResponses(UserFiles):
    """Responses that a teacher wrote elsewhere, with or without its log-probs."""

    kind: Literal["import_responses"]
    stage: ClassVar[Stage] = Stage(module="megatron_dasd.sources.responses", over_mpi=True)
    files: list[Input] = Field(min_length=1)
    """JSON lines, JSON arrays, Parquet, Arrow, or folders of them; also those of ``datasets``'
    ``save_to_disk``.  Without ``format`` and columns, the one format is taken that the first
    record fits."""
    logprobs: list[Input] = []
    """Parquet of ``sample_uuid``, ``token_ids``, ``logprobs`` (superior-reasoning only)."""
    tokenizer: Input | None = None
    """Hugging Face folder of the teacher's tokenizer, which decodes ``token_ids``."""
    temperature: Annotated[float, Field(gt=0)]
    """Temperature at which the responses were sampled; the files do not record it."""
    model: str = "teacher"
    """The teacher's name."""
    num_workers: NumWorkers = None
    """Processes that read and make records; None: one a core.  Ignored under MPI, where its ranks
    do."""

    @model_validator(mode="after")
    def _logprobs(self) -> "ImportResponses":
        if self.logprobs and self.format != "superior-reasoning":
            raise ValueError("logprobs go with format superior-reasoning only")
        if bool(self.logprobs) != (self.tokenizer is not None):
            raise ValueError("give logprobs and tokenizer, or neither")
        return self


class WorkedSums(Settings):
    """Worked solutions of column addition, as responses: what a small model is trained on first."""

    kind: Literal["worked_sums"]
    stage: ClassVar[Stage] = Stage(module="megatron_dasd.sources.worked_sums")
    size: Positive
    """Problems, each worked once, in a style drawn at random."""
    carries: Carries = "any"
    """``none``: no column's sum exceeds 9."""
    styles: list[Style] = Field(["terse", "explained", "wordy"], min_length=1)
    """See ``tasks.column_addition.STYLES``."""
    without: Input | None = None
    """Prompts that are not among the problems."""
