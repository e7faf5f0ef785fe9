"""Settings of the sources: models and prompts."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from megatron_dasd.config.base import Input, OnMalformed, Positive, Settings, Stage


class ImportGguf(Settings):
    """A GGUF file that a Python package carries, dequantised to a Hugging Face folder."""

    kind: Literal["import_gguf"]
    stage: ClassVar[Stage] = Stage(module="megatron_dasd.sources.gguf")
    package: str
    file: str
    """The GGUF file's name inside the package."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"


class RandomModel(Settings):
    """A small Llama-shaped Hugging Face model with random weights and a byte-level tokenizer."""

    kind: Literal["random_model"]
    stage: ClassVar[Stage] = Stage(module="megatron_dasd.sources.random_model")
    num_layers: Positive
    hidden_size: Positive
    num_attention_heads: Positive
    num_key_value_heads: Positive
    intermediate_size: Positive
    alphabet: str = Field(min_length=1)
    """The ASCII characters that the tokenizer knows besides its special tokens, one token each."""
    max_position_embeddings: Positive = 1024
    initializer_std: float = 0.02


class PruneLayers(Settings):
    """A student made from a model by removing layers, the rest evenly spaced."""

    kind: Literal["prune_layers"]
    stage: ClassVar[Stage] = Stage(module="megatron_dasd.sources.prune")
    model: Input
    num_layers_removed: Positive
    num_key_value_heads: Positive | None = None
    """More heads than the model has, for a layout that does not divide the model's number; the
    added heads are zero and stay zero.  None: the model's."""


class ReasoningGymTask(BaseModel):
    """One generator of the ``reasoning-gym`` package."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    generator: str
    size: Positive
    config: dict[str, Any] = {}


class MakePrompts(Settings):
    """Tasks from reasoning-gym and prompts from files, with a held-out part."""

    kind: Literal["make_prompts"]
    stage: ClassVar[Stage] = Stage(module="megatron_dasd.sources.prompts")
    files: list[Input] = []
    """JSON lines or Parquet of Prompt records."""
    tasks: list[ReasoningGymTask] = []
    heldout_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.2
    on_malformed: OnMalformed = "stop"

    @model_validator(mode="after")
    def _some(self) -> "MakePrompts":
        if not self.files and not self.tasks:
            raise ValueError("give files, tasks or both")
        return self


class ImportResponses(Settings):
    """Responses that a teacher wrote elsewhere, with or without its log-probs."""

    kind: Literal["import_responses"]
    stage: ClassVar[Stage] = Stage(module="megatron_dasd.sources.responses")
    format: Literal["superior-reasoning", "messages", "prompt-response"]
    """``superior-reasoning``: the fields ``uuid``, ``input``, ``output``, ``domain`` of the
    released Superior-Reasoning-SFT data.  ``messages``: a list of turns (``role``, ``content``) of
    which the last one is the assistant's.  ``prompt-response``: two columns."""
    files: list[Input] = Field(min_length=1)
    """JSON lines, Parquet, folders of them, or folders of ``datasets``' ``save_to_disk``."""
    logprobs: list[Input] = []
    """Parquet of ``sample_uuid``, ``token_ids``, ``logprobs`` (superior-reasoning only)."""
    tokenizer: Input | None = None
    """Hugging Face folder of the teacher's tokenizer, which decodes ``token_ids``."""
    temperature: Annotated[float, Field(gt=0)]
    """Temperature at which the responses were sampled; the files do not record it."""
    model: str = "teacher"
    """The teacher's name."""
    messages_field: str = "messages"
    prompt_field: str = "prompt"
    """A text, or a list of turns up to the user's."""
    response_field: str = "response"
    id_field: str | None = None
    """Column of the prompt's id; None: the id is a hash of the prompt's text."""
    domain_field: str = "domain"
    """Column of the domain; where it is absent or empty, the domain is ``unknown``."""
    on_malformed: OnMalformed = "stop"

    @model_validator(mode="after")
    def _logprobs(self) -> "ImportResponses":
        if self.logprobs and self.format != "superior-reasoning":
            raise ValueError("logprobs go with format superior-reasoning only")
        if bool(self.logprobs) != (self.tokenizer is not None):
            raise ValueError("give logprobs and tokenizer, or neither")
        return self
