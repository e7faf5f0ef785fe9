"""Assumptions of ``dasd plan``: rates and prices that no file holds before a run."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from megatron_dasd.config.base import Positive

AboveZero = Annotated[float, Field(gt=0)]

MEASURED_RATES: Mapping[str, float] = {
    # student tokens a second
    "import_responses": 1.4e7,
    "filter_responses": 8e5,
    "select_das": 5.1e5,
    "preprocess_data": 1.0e6,
    # prompts a second
    "make_prompts": 1.2e4,
    # bytes of weights a second, in the checkpoint's own type
    "import_hf": 1e8,
    "export_hf": 1e8,
    "verify_conversion": 1e8,
}
"""By kind, what one core does in a second.  ``make bench`` measures them; docs/planning.md has the
last figures and the machine."""
MEASURED_BYTES: Mapping[str, float] = {
    "import_responses": 0.6,
    "sample_teacher": 4.6,
    "filter_responses": 5.1,
    "score_student": 9.1,
    "select_das": 11.0,
    "preprocess_data": 10.1,
}
"""By kind, bytes on disk of each token of the stage's result; measured like the rates."""


class Corpus(BaseModel):
    """Documents that are not there yet, their lengths log-normal."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_documents: Positive | None = None
    """Documents of the stage's result.  None: of a stage that samples, its prompts times
    temperatures times candidates, where ``plan.num_prompts`` gives the prompts."""
    mean_tokens: AboveZero
    """In tokens of the student, prompt and response."""
    sigma: Annotated[float, Field(ge=0)] = 0.8
    """Standard deviation of the lengths' logarithm; attention's cost goes by it."""


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
    server_requests_per_second: dict[str, AboveZero] = {}
    """By service, the most requests that one of its servers answers, however short; None given: as
    many as its tokens allow."""
    num_prompts: Positive | None = None
    """Prompts of the pipeline, for corpora without ``num_documents`` and for ``make_prompts``."""
    cpu_rates: dict[str, AboveZero] = {}
    """By kind of stage, what one core does in a second, in place of ``MEASURED_RATES``: tokens,
    prompts of ``make_prompts``, bytes of weights where checkpoints are converted."""
    start_seconds: Annotated[float, Field(ge=0)] = 60.0
    """What passes between the end of a stage and the work of the next one: a job's start, imports,
    a model's first loading."""
    corpora: dict[str, Corpus] = {}
    """By stage, what it will make: responses, or packed data."""

    def cpu_rate(self, kind: str) -> float | None:
        """What one core does in a second in stages of a kind; None: nothing worth counting."""
        return self.cpu_rates.get(kind, MEASURED_RATES.get(kind))
