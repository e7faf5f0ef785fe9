"""Settings from responses to the chosen ones: filters, scores, divergence-aware selection."""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from megatron_dasd.config.base import (
    Fraction,
    Input,
    Launch,
    NumWorkers,
    OnMalformed,
    Positive,
    Server,
    Settings,
    Stage,
    TemplateVariables,
    ThinkingFormat,
)
from megatron_dasd.config.benchmarks import BenchmarkName
from megatron_dasd.config.execution import Execution
from megatron_dasd.config.products import RECORDS, Checkpoint, Model
from megatron_dasd.records import FilteredResponse, Response, ScoredResponse, SelectedResponse


class Repetition(BaseModel):
    """How often something may occur in a response.

    A text of 64K tokens repeats a line or a sentence more often than one of 500.  One that occurs
    no more often than a ``max_share`` of all lines, or sentences, is therefore not too often.
    docs/filters.md shows by which texts the bounds were chosen.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_repeated_lines: Positive = 40
    """Times that one line (of at least 3 words) may occur."""
    max_repeated_sentences: Positive = 30
    """Times that one sentence (of at least 3 words) may occur."""
    max_share: Fraction = 0.05
    """Share of all lines, or sentences, that one may make up, however often that is."""
    max_copied_words: Positive = 120
    """Words that copies of one paragraph may have, the first two left out."""
    ngram_words: Positive = 4
    """Words of a run; marks in a row are a word, and so is every CJK character."""
    max_stretch: Positive = 120
    """Words of prose in a stretch of runs that all occur twice before.  A CJK character is half
    a word."""
    loop_repeats: Annotated[int, Field(gt=1)] = 4
    """A piece that follows itself this many times is a loop."""
    loop_characters: Positive = 200
    """Letters of a loop; shorter ones are none.  Digits and marks count a fifth."""


class Decontamination(BaseModel):
    """Which texts of a benchmark may occur in no prompt and no response."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fields: list[str] = []
    """Fields of the benchmarks' records that are searched for; none: every string field."""
    ngram_words: Positive = 13
    """Words in a row that give a benchmark away (Brown et al., arXiv 2005.14165, appendix C)."""
    min_words: Positive = 8
    """A benchmark's text of fewer words than a run, but at least this many, is searched for as a
    whole."""
    common_prompts: Positive = 100
    """A run that at least this many prompts of the data share is an instruction and gives nothing
    away; a tenth of all prompts is enough, and five at least."""


class FilterResponses(Settings):
    """Quality filters with named reasons, over responses and over continuations."""

    kind: Literal["filter_responses"]
    stage: ClassVar[Stage] = Stage(
        module="megatron_dasd.filters.runner",
        over_mpi=True,
        in_rounds=True,
        makes=FilteredResponse,
        reads={
            "responses": Response,
            "student": Model,
            "benchmarks": RECORDS,
            "evaluated": (),
        },
    )
    responses: list[Input] = Field(min_length=1)
    """Stages or files of responses; all of them are filtered together."""
    student: Input
    """Hugging Face folder; its tokenizer measures the length."""
    thinking: ThinkingFormat | None = ThinkingFormat()
    """The teacher's delimiters; what is kept is normalised to ``<think>`` ... ``</think>``.  None:
    responses are plain answers, for students that do not think."""
    tool_calls: Literal["drop", "keep"] = "drop"
    """Whether responses that call a tool, or follow on such calls, are dropped."""
    max_length: Positive
    """Longest prompt + response, in student tokens."""
    system_prompt: str | None = None
    """As in training: it counts towards the length."""
    chat_template_kwargs: TemplateVariables = {}
    """Variables of the model's chat template."""
    repetition: Repetition = Repetition()
    """Bounds of repetition."""
    benchmarks: list[Input] = []
    """JSON lines, Parquet or plain text (a text a line): what is to be measured later on, and must
    not be trained on."""
    evaluated: dict[BenchmarkName, Input] = {}
    """Copies of published benchmarks whose questions must not be trained on.  A pipeline adds those
    that its ``evaluate`` stages ask."""
    decontamination: Decontamination = Decontamination()
    """How texts of ``benchmarks`` and ``evaluated`` are found."""
    num_workers: NumWorkers = None
    """Processes that judge; None: one a core.  Ignored under MPI, where its ranks judge."""
    on_malformed: OnMalformed = "stop"
    """``stop``: the first malformed record ends the stage; ``set_aside``: such records are kept
    beside the result with the reason, and counted."""


class ScoreStudent(Settings):
    """Student log-probs of every response token, by Megatron's forward pass or from servers."""

    kind: Literal["score_student"]
    stage: ClassVar[Stage] = Stage(
        module="megatron_dasd.student.scoring",
        warning_seconds=120,
        over_mpi=True,
        in_rounds=True,
        makes=ScoredResponse,
        reads={
            "responses": FilteredResponse,
            "model": Model,
            "checkpoint": Checkpoint,
            "few_shot": (),
        },
    )
    responses: Input
    """Filtered responses."""
    model: Input
    """Hugging Face folder: architecture and tokenizer."""
    checkpoint: Input | None = None
    """Megatron checkpoint of the weights."""
    server: Server | None = None
    """In place of ``checkpoint``: servers that run the exported student."""
    split: Literal["train", "heldout", "all"] = "all"
    """Which prompts' responses are scored."""
    system_prompt: str | None = None
    """System turn before every prompt; None: none."""
    chat_template_kwargs: TemplateVariables = {}
    """Variables of the model's chat template."""
    few_shot: Input | None = None
    """JSON lines of Message records put before the prompt: they show a student that has not learnt
    the form of the responses what it is, so that the scores reflect the content."""
    batch_tokens: Positive = 4096
    """Padded tokens of one forward pass."""
    dtype: Literal["bfloat16", "float32"] = "float32"
    """Precision of the forward pass."""
    launch: Annotated[Launch, Execution()] = Launch()
    """Ranks of the forward pass and their layout."""
    on_malformed: OnMalformed = "stop"
    """``stop``: the first malformed record ends the stage; ``set_aside``: such records are kept
    beside the result with the reason, and counted."""

    @model_validator(mode="after")
    def _one_source(self) -> "ScoreStudent":
        if (self.checkpoint is None) == (self.server is None):
            raise ValueError("give checkpoint or server")
        return self

    @property
    def needs_gpus(self) -> bool:
        """Whether Megatron computes the scores, not servers."""
        return self.server is None

    @property
    def num_ranks(self) -> int:
        """Ranks of the forward pass."""
        return self.launch.num_ranks


Strategy = Literal["count", "ratio", "longest", "random", "fewest"]


class Budget(BaseModel):
    """How much is kept of all prompts together: a number of tokens, or of responses."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: Positive | None = None
    """Student tokens of the responses, end of turn included, prompts left out."""
    responses: Positive | None = None
    """Number of responses."""

    @model_validator(mode="after")
    def _one(self) -> "Budget":
        if (self.tokens is None) == (self.responses is None):
            raise ValueError("give tokens or responses")
        return self


class SelectDas(Settings):
    """Divergence-aware sampling: per prompt and temperature, the candidates that teach most."""

    kind: Literal["select_das"]
    stage: ClassVar[Stage] = Stage(
        module="megatron_dasd.divergence.runner",
        over_mpi=True,
        makes=SelectedResponse,
        reads={"responses": ScoredResponse, "distilled": ScoredResponse},
    )
    responses: Input
    """Scored by the student before training."""
    distilled: Input | None = None
    """The same responses scored by the student after training: tells boosted sentences apart."""
    temperature: float | None = None
    """Only responses of this temperature; None: all."""
    beta: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Gap between two models' probabilities of a sentence from which on it is the one's."""
    alpha: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Largest gap between any two of three models in a shared sentence; None: beta."""
    strategy: Strategy = "count"
    """How candidates are ranked: ``divergence/strategies.py``."""
    keep: Positive = 1
    """Candidates kept a prompt and temperature."""
    budget: Budget | None = None
    """Instead of ``keep``: all candidates are ranked together, and the best are kept until the
    budget is used up."""
    num_workers: NumWorkers = None
    """Processes that compare and select; None: one a core.  Ignored under MPI, where its ranks
    do."""
    on_malformed: OnMalformed = "stop"
    """``stop``: the first malformed record ends the stage; ``set_aside``: such records are kept
    beside the result with the reason, and counted."""

    @model_validator(mode="after")
    def _keep_or_budget(self) -> "SelectDas":
        if self.budget is not None and "keep" in self.model_fields_set:
            raise ValueError("give keep (a prompt) or budget (of all prompts), not both")
        if self.alpha is not None and self.distilled is None:
            raise ValueError("alpha compares three models: give distilled too")
        return self
