"""Settings of the sources: models and prompts."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from megatron_dasd.config.base import Input, OnMalformed, Positive, Settings


class ImportGguf(Settings):
    """A GGUF file that a Python package carries, dequantised to a Hugging Face folder."""

    kind: Literal["import_gguf"]
    package: str
    file: str
    """The GGUF file's name inside the package."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"


class RandomModel(Settings):
    """A small Llama-shaped Hugging Face model with random weights and a byte-level tokenizer."""

    kind: Literal["random_model"]
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
    model: Input
    num_layers_removed: Positive
    num_key_value_heads: Positive | None = None
    """More than the model has, for a layout that does not divide the model's: the added heads are
    zero and stay so.  None: the model's."""


class ReasoningGymTask(BaseModel):
    """One generator of the ``reasoning-gym`` package."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    generator: str
    size: Positive
    config: dict[str, Any] = {}


class MakePrompts(Settings):
    """Tasks from reasoning-gym and prompts from files, with a held-out part."""

    kind: Literal["make_prompts"]
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
