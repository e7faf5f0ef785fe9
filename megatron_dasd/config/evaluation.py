"""Settings of evaluation and report."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from megatron_dasd.config.base import (
    Engine,
    Input,
    OnMalformed,
    Positive,
    Settings,
    Stage,
    TemplateVariables,
)
from megatron_dasd.config.benchmarks import BenchmarkName, LiveCodeBench, PlainQuestions
from megatron_dasd.config.products import Comparison, Model, Page, TrainedCheckpoint
from megatron_dasd.records import (
    FilteredResponse,
    Graded,
    Prompt,
    Response,
    Rollout,
    ScoredResponse,
    SelectedResponse,
)


class Evaluate(Settings):
    """Accuracy on published benchmarks, or on held-out prompts that carry a reference answer."""

    kind: Literal["evaluate"]
    stage: ClassVar[Stage] = Stage(
        module="megatron_dasd.evaluation.runner",
        warning_seconds=120,
        over_mpi=True,
        makes=Graded,
        reads={"prompts": Prompt, "benchmarks": (), "models": Model},
    )
    prompts: Input | None = None
    """Prompts; the held-out ones with a reference answer are asked.  None: ``benchmarks`` are."""
    benchmarks: dict[BenchmarkName, Input] = {}
    """Your own copies of published benchmarks, by name: files, or folders of them, as they are
    published (docs/evaluate.md).  Nothing is fetched.  Every ``filter_responses`` of the pipeline
    keeps their questions out of the training data."""
    livecodebench: LiveCodeBench = LiveCodeBench()
    """Which questions of LiveCodeBench are asked, and how long a program may take."""
    plain: PlainQuestions = PlainQuestions()
    """How the file of the benchmark ``plain`` is read, which is any file of questions and
    answers."""
    models: dict[str, Input] = Field(min_length=1)
    """Hugging Face folders by the name that the report shows; the others' differences are taken to
    the first one.  Each writes the normalised form."""
    num_samples: Positive | None = None
    """Answers to each question; None: 64 to those of benchmarks, as the report has it, else 1."""
    temperature: Annotated[float, Field(ge=0)] = 1.0
    """0: greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Only the smallest set of likeliest tokens with this probability is drawn from; 1: all
    tokens."""
    max_new_tokens: Positive | None = None
    """Longest answer, in tokens of the model that writes it; None: the report's for each
    benchmark."""
    system_prompt: str | None = None
    """System turn before every prompt; None: none."""
    chat_template_kwargs: TemplateVariables = {}
    """Variables of the model's chat template."""
    engine: Engine = Engine()
    """How the texts are generated."""
    on_malformed: OnMalformed = "stop"
    """``stop``: the first malformed record ends the stage; ``set_aside``: such records are kept
    beside the result with the reason, and counted."""

    @model_validator(mode="after")
    def _asks_something(self) -> "Evaluate":
        if (self.prompts is None) == (not self.benchmarks):
            raise ValueError("give prompts or benchmarks")
        if self.prompts is not None and self.max_new_tokens is None:
            raise ValueError("max_new_tokens: must be given with prompts")
        return self

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
    stage: ClassVar[Stage] = Stage(
        module="megatron_dasd.evaluation.report",
        describes_run=True,
        makes=Page,
        reads={
            "heldout_scores": ScoredResponse,
            "exposure_scores": ScoredResponse,
            "sample": Response,
            "filters": FilteredResponse,
            "select": SelectedResponse,
            "train": TrainedCheckpoint,
            "rollouts": Rollout,
            "continuations": Response,
            "evaluate": Graded,
            "verify": Comparison,
            "export": Model,
        },
    )
    title: str
    """Title of the page."""
    heldout_scores: dict[str, Input] = Field(min_length=1)
    """score_student stages of held-out responses, by the student that they score: before, stage1,
    stage2, stage3."""
    exposure_scores: dict[str, Input] = {}
    """score_student stages of the teacher's held-out continuations of the student's own prefixes,
    by names in ``heldout_scores``: they give the exposure bias."""
    sample: Input
    """The ``sample_teacher`` or ``import_responses`` stage."""
    filters: list[Input] = []
    """The ``filter_responses`` stages, in the order in which they are shown."""
    select: Input
    """The ``select_das`` stage."""
    train: list[Input] = []
    """The ``train`` stages, in the order in which they are shown."""
    rollouts: Input | None = None
    """The ``roll_out_student`` stage of training prompts; None: there is none."""
    continuations: Input | None = None
    """The ``continue_teacher`` stage of training prompts; None: there is none."""
    evaluate: Input | None = None
    """The ``evaluate`` stage; None: accuracy is not shown."""
    verify: Input | None = None
    """The ``verify_conversion`` stage; None: its figures are not shown."""
    export: Input
    """The ``export_hf`` stage of the finished student."""

    @model_validator(mode="after")
    def _exposure_of_students_that_are_scored(self) -> "Report":
        for name in self.exposure_scores:
            if name not in self.heldout_scores:
                raise ValueError(f"exposure_scores.{name}: heldout_scores has no {name}")
        return self
