"""Settings of evaluation and report."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from megatron_dasd.config.base import Engine, Input, OnMalformed, Positive, Settings, Stage


class Evaluate(Settings):
    """Accuracy on the held-out prompts that carry a reference answer."""

    kind: Literal["evaluate"]
    stage: ClassVar[Stage] = Stage(module="megatron_dasd.evaluation.runner", warning_seconds=120)
    prompts: Input
    models: dict[str, Input] = Field(min_length=1)
    """Hugging Face folders by the name that the report shows; the others' differences are taken to
    the first one.  Each writes the normalised form."""
    num_samples: Positive = 1
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """0: greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    max_new_tokens: Positive
    system_prompt: str | None = None
    engine: Engine = Engine()
    on_malformed: OnMalformed = "stop"

    @model_validator(mode="after")
    def _one_model_a_server(self) -> "Evaluate":
        if self.engine.server is not None and len(self.models) > 1:
            raise ValueError("engine.server: servers run one model; give one in models")
        return self

    @property
    def needs_gpus(self) -> bool:
        """Whether the engine runs in this process."""
        return self.engine.in_process


class Report(Settings):
    """``report.html`` and ``report.json`` of a run."""

    kind: Literal["report"]
    stage: ClassVar[Stage] = Stage(module="megatron_dasd.evaluation.report", describes_run=True)
    title: str
    heldout_scores: dict[str, Input] = Field(min_length=1)
    """score_student stages of held-out responses, by the student that they score: before, stage1,
    stage2, stage3."""
    exposure_scores: dict[str, Input] = {}
    """score_student stages of the teacher's held-out continuations of the student's own prefixes,
    by names in ``heldout_scores``: they give the exposure bias."""
    sample: Input
    filters: list[Input] = []
    select: Input
    train: list[Input] = []
    rollouts: Input | None = None
    continuations: Input | None = None
    evaluate: Input | None = None
    verify: Input | None = None
    export: Input

    @model_validator(mode="after")
    def _exposure_of_students_that_are_scored(self) -> "Report":
        for name in self.exposure_scores:
            if name not in self.heldout_scores:
                raise ValueError(f"exposure_scores.{name}: heldout_scores has no {name}")
        return self
