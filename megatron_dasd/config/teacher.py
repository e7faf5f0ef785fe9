"""Settings of sampling and of mixed-policy revision, where the teacher and the student write."""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from megatron_dasd.config.base import (
    Engine,
    Fraction,
    Input,
    OnMalformed,
    Positive,
    Server,
    Settings,
    Stage,
    TemplateVariables,
    ThinkingFormat,
)
from megatron_dasd.config.execution import Execution
from megatron_dasd.config.products import Model, PackedData, TopTokens
from megatron_dasd.records import FilteredResponse, Prompt, Response, Rollout


class TopTeacher(BaseModel):
    """One of several teachers of token-level distillation, behind servers of its own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: Input
    """Hugging Face folder: the teacher's tokenizer and chat template."""
    server: Server
    """Servers that run it."""


class Teacher(TopTeacher):
    """One of several teachers, behind servers of its own."""

    chat_template_kwargs: TemplateVariables = {}
    """Variables of its chat template, added to the stage's."""


class ScoringTeacher(Teacher):
    """One of several teachers that score given texts."""

    thinking: ThinkingFormat | None = None
    """Its own delimiters; None: the stage's."""


class SampleTeacher(Settings):
    """Sample several responses from the teacher, for every prompt and temperature."""

    kind: Literal["sample_teacher"]
    stage: ClassVar[Stage] = Stage(
        module="megatron_dasd.teacher.sampling",
        warning_seconds=120,
        over_mpi=True,
        makes=Response,
        reads={"model": Model, "teachers": Model, "prompts": Prompt, "few_shot": ()},
    )
    model: Input | None = None
    """Hugging Face folder: the model, or with ``engine.server`` its tokenizer and chat template.
    None: a server with ``api: chat`` has its own."""
    prompts: Input
    """Prompts to answer, training and held-out ones."""
    temperatures: list[Annotated[float, Field(gt=0)]] = Field([0.6, 1.0], min_length=1)
    """Each prompt is answered at each of them."""
    num_candidates: Positive = 4
    """Responses for each prompt and temperature."""
    max_new_tokens: Positive
    """Longest response, in the teacher's tokens."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Only the smallest set of likeliest tokens with this probability is drawn from; 1: all
    tokens."""
    system_prompt: str | None = None
    """System turn before every prompt; None: none."""
    chat_template_kwargs: TemplateVariables = {}
    """Variables of the model's chat template."""
    few_shot: Input | None = None
    """JSON lines of Message records put before the prompt; only the teacher reads them."""
    stop: list[str] = []
    """Texts that end a response; they are not part of it."""
    engine: Engine = Engine()
    """How the texts are generated."""
    teachers: dict[str, Teacher] = {}
    """In place of ``model`` and ``engine.server``: the teachers by the domain of the prompts."""
    on_malformed: OnMalformed = "stop"
    """``stop``: the first malformed record ends the stage; ``set_aside``: such records are kept
    beside the result with the reason, and counted."""

    @model_validator(mode="after")
    def _one_or_several(self) -> "SampleTeacher":
        if self.teachers and (self.model or self.engine.server):
            raise ValueError(
                "teachers have models and servers of their own; leave model and engine.server out"
            )
        return self

    @property
    def of_teachers(self) -> "dict[str, SampleTeacher]":
        """The same stage with one teacher each, by domain; under ``""`` the one for all."""
        return {
            domain: self.model_copy(
                update={
                    "teachers": {},
                    "model": teacher.model,
                    "engine": self.engine.model_copy(update={"server": teacher.server}),
                    "chat_template_kwargs": self.chat_template_kwargs
                    | teacher.chat_template_kwargs,
                }
            )
            for domain, teacher in self.teachers.items()
        } or {"": self}

    @property
    def needs_gpus(self) -> bool:
        """Whether the engine runs in this process."""
        return self.engine.in_process and not self.teachers


class ScoreTopk(Settings):
    """The teacher's likeliest tokens at every position of packed data, for distillation.

    The teacher shares the student's tokenizer.
    """

    kind: Literal["score_topk"]
    stage: ClassVar[Stage] = Stage(
        module="megatron_dasd.teacher.top_tokens",
        warning_seconds=120,
        in_rounds=True,
        makes=TopTokens,
        reads={"data": PackedData, "model": Model, "teacher": Model, "teachers": Model},
    )
    data: Input
    """Packed data."""
    model: Input
    """Hugging Face folder of the student, whose tokenizer the data was made with."""
    teacher: Input | None = None
    """Hugging Face folder of the teacher; with ``server`` its tokenizer and config are enough."""
    server: Server | None = None
    """Servers that run the teacher; None: it runs in this process."""
    teachers: dict[str, TopTeacher] = {}
    """In place of ``teacher``: the teachers by the domain of the documents."""
    top_k: Positive = 64
    """Tokens kept at each position; some 4 bytes each."""
    only_rollouts: bool = False
    """Score only the documents that the student wrote to the end (``keep_rollouts``); the others
    are trained on with the cross-entropy alone."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of a teacher in this process."""
    memory_mib: Annotated[Positive, Execution()] = 2048
    """Most memory, in MiB, for the servers' answers, in flight or not yet written."""

    @model_validator(mode="after")
    def _one_kind_of_teacher(self) -> "ScoreTopk":
        if (self.teacher is None) == (not self.teachers):
            raise ValueError("give teacher or teachers")
        if self.teachers and self.server:
            raise ValueError("teachers have servers of their own; leave server out")
        for name, server in self.servers.items():
            if server.rescore_by == "echo":
                where = f"teachers.{name}.server" if name else "server"
                raise ValueError(f"{where}.rescore_by: echo names tokens by text; leave it out")
        return self

    @property
    def teacher_folders(self) -> dict[str, str]:
        """References to the teachers' folders, by domain; under ``""`` the one for all."""
        if self.teacher is not None:
            return {"": self.teacher}
        return {domain: teacher.model for domain, teacher in self.teachers.items()}

    @property
    def servers(self) -> dict[str, Server]:
        """The teachers' servers, by domain; none where the teacher runs in this process."""
        if self.server is not None:
            return {"": self.server}
        return {domain: teacher.server for domain, teacher in self.teachers.items()}

    @property
    def needs_gpus(self) -> bool:
        """Whether the teacher runs in this process."""
        return not self.servers


class ScoreTeacher(Settings):
    """The teacher's log-probs of texts that came without them, or that the student wrote."""

    kind: Literal["score_teacher"]
    stage: ClassVar[Stage] = Stage(
        module="megatron_dasd.teacher.scoring",
        warning_seconds=120,
        over_mpi=True,
        in_rounds=True,
        makes=Response,
        reads={
            "model": Model,
            "teachers": Model,
            "responses": Response,
            "rollouts": Rollout,
            "few_shot": (),
        },
    )
    model: Input | None = None
    """Hugging Face folder: the teacher's tokenizer and chat template."""
    server: Server | None = None
    """Servers that run the teacher and give log-probs of a given text."""
    teachers: dict[str, ScoringTeacher] = {}
    """In place of ``model`` and ``server``: the teachers by the domain of the prompts."""
    responses: Input | None = None
    """Response records: their tokens and log-probs are replaced by the teacher's."""
    rollouts: Input | None = None
    """Rollout records: they become responses whose text the student wrote."""
    given: ThinkingFormat | None = None
    """The delimiters in the texts of ``responses``; None: the teacher's own.  Rollouts are in the
    normalised form."""
    thinking: ThinkingFormat = ThinkingFormat()
    """The teacher's own delimiters, which the scored texts have."""
    system_prompt: str | None = None
    """System turn before every prompt; None: none."""
    chat_template_kwargs: TemplateVariables = {}
    """Variables of the model's chat template."""
    few_shot: Input | None = None
    """JSON lines of Message records put before the prompt; only the teacher reads them."""
    on_malformed: OnMalformed = "stop"
    """``stop``: the first malformed record ends the stage; ``set_aside``: such records are kept
    beside the result with the reason, and counted."""

    @model_validator(mode="after")
    def _one_input(self) -> "ScoreTeacher":
        if (self.responses is None) == (self.rollouts is None):
            raise ValueError("give responses or rollouts")
        given = (self.model is not None, self.server is not None)
        if given != (not self.teachers, not self.teachers):
            raise ValueError("give model and server, or teachers")
        return self

    @property
    def of_teachers(self) -> "dict[str, ScoreTeacher]":
        """The same stage with one teacher each, by domain; under ``""`` the one for all."""
        return {
            domain: self.model_copy(
                update={
                    "teachers": {},
                    "model": teacher.model,
                    "server": teacher.server,
                    "thinking": teacher.thinking or self.thinking,
                    "chat_template_kwargs": self.chat_template_kwargs
                    | teacher.chat_template_kwargs,
                }
            )
            for domain, teacher in self.teachers.items()
        } or {"": self}


class RollOutStudent(Settings):
    """The student answers training prompts, capped at a multiple of the teacher's length."""

    kind: Literal["roll_out_student"]
    stage: ClassVar[Stage] = Stage(
        module="megatron_dasd.revision.rollouts",
        warning_seconds=120,
        over_mpi=True,
        in_rounds=True,
        makes=Rollout,
        reads={"model": Model, "responses": FilteredResponse},
    )
    model: Input
    """Hugging Face folder of the student."""
    responses: Input
    """The selected responses: their prompts are rolled out, their lengths set the caps."""
    split: Literal["train", "heldout"] = "train"
    """Which prompts; held-out ones measure the exposure bias."""
    cap_ratio: Annotated[float, Field(gt=0)] = 1.5
    """A rollout is cut off at this multiple of the length of the teacher's response."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Temperature at which the student answers."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Only the smallest set of likeliest tokens with this probability is drawn from; 1: all
    tokens."""
    system_prompt: str | None = None
    """System turn before every prompt; None: none."""
    chat_template_kwargs: TemplateVariables = {}
    """Variables of the model's chat template."""
    max_prompts: Positive | None = None
    """Prompts, drawn at random; None: all there are."""
    skip_prompts: Annotated[int, Field(ge=0)] = 0
    """Prompts skipped at the start of the random order, which wraps around at its end: those that
    earlier rounds have rolled out."""
    num_rollouts: Positive = 1
    """Rollouts of each prompt; raise it where few rollouts reach their cap."""
    engine: Engine = Engine()
    """How the texts are generated."""
    on_malformed: OnMalformed = "stop"
    """``stop``: the first malformed record ends the stage; ``set_aside``: such records are kept
    beside the result with the reason, and counted."""

    @property
    def needs_gpus(self) -> bool:
        """Whether the engine runs in this process."""
        return self.engine.in_process


class KeepRollouts(Settings):
    """Keep rollouts whole, as responses to pack, for distillation on the student's own text."""

    kind: Literal["keep_rollouts"]
    stage: ClassVar[Stage] = Stage(
        module="megatron_dasd.revision.whole",
        in_rounds=True,
        makes=FilteredResponse,
        reads={"rollouts": Rollout, "model": Model},
    )
    rollouts: Input
    """Rollout records."""
    model: Input
    """Hugging Face folder of the student's tokenizer."""
    on_malformed: OnMalformed = "stop"
    """``stop``: the first malformed record ends the stage; ``set_aside``: such records are kept
    beside the result with the reason, and counted."""


class ContinueTeacher(Settings):
    """Cut rollouts beyond half and let the teacher continue them."""

    kind: Literal["continue_teacher"]
    stage: ClassVar[Stage] = Stage(
        module="megatron_dasd.revision.continuation",
        warning_seconds=120,
        over_mpi=True,
        in_rounds=True,
        makes=Response,
        reads={"model": Model, "rollouts": Rollout, "few_shot": ()},
    )
    model: Input | None = None
    """As for sampling."""
    rollouts: Input
    """Rollout records; those that were cut off are continued."""
    cut_from: Fraction = 0.5
    """Earliest cut, as a share of the rollout's tokens."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Temperature at which the teacher continues."""
    max_new_tokens: Positive
    """Longest continuation, in the teacher's tokens."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Only the smallest set of likeliest tokens with this probability is drawn from; 1: all
    tokens."""
    thinking: ThinkingFormat = ThinkingFormat()
    """The teacher's delimiters."""
    system_prompt: str | None = None
    """System turn before every prompt; None: none."""
    chat_template_kwargs: TemplateVariables = {}
    """Variables of the model's chat template."""
    few_shot: Input | None = None
    """JSON lines of Message records put before the prompt; only the teacher reads them."""
    stop: list[str] = []
    """Texts that end a continuation; they are not part of it."""
    engine: Engine = Engine()
    """How the texts are generated."""
    on_malformed: OnMalformed = "stop"
    """``stop``: the first malformed record ends the stage; ``set_aside``: such records are kept
    beside the result with the reason, and counted."""

    @model_validator(mode="after")
    def _channels_need_the_raw_text(self) -> "ContinueTeacher":
        if self.thinking.format == "harmony" and self.engine.own_template:
            raise ValueError(
                "thinking: harmony: a server's own template would open another channel than the "
                "one that the prefix ends in; use engine.server.api: completions, with model"
            )
        return self

    @property
    def needs_gpus(self) -> bool:
        """Whether the engine runs in this process."""
        return self.engine.in_process
