"""Assumptions of ``dasd plan``: rates and prices that no file holds before a run."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from megatron_dasd.config.base import Positive

AboveZero = Annotated[float, Field(gt=0)]


class Corpus(BaseModel):
    """Documents that are not there yet, their lengths log-normal."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_documents: Positive
    """Documents of the stage's result."""
    mean_tokens: AboveZero
    """In tokens of the student, prompt and response."""
    sigma: Annotated[float, Field(ge=0)] = 0.8
    """Standard deviation of the lengths' logarithm; attention's cost goes by it."""

    @property
    def num_tokens(self) -> float:
        """Of all documents."""
        return self.num_documents * self.mean_tokens


class Plan(BaseModel):
    """The ``plan`` part of a pipeline file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    gpu: Literal["H100", "H200", "A100", "B200"] = "H100"
    """The GPU, whose dense bfloat16 peak is assumed."""
    gpu_memory_gb: AboveZero = 80.0
    """Memory of a GPU, in units of 1e9 bytes."""
    memory_reserve: Annotated[float, Field(ge=0, lt=1)] = 0.12
    """Of a GPU's memory, what CUDA, NCCL, workspaces and holes between tensors take."""
    mfu: Annotated[float, Field(gt=0, le=1)] = 0.35
    """Model operations as a share of the GPU's dense bfloat16 peak, in training and scoring."""
    price_per_gpu_hour: AboveZero | None = None
    """In any currency."""
    server_tokens_per_second: dict[str, AboveZero] = {}
    """By service, what one of its servers generates, all requests together."""
    corpora: dict[str, Corpus] = {}
    """By stage, what it will make: responses, or packed data."""
