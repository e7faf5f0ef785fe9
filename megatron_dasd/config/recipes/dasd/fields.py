"""Fields of the recipe ``dasd``: the whole method, of which every part can be left out.

A field that is described as settings of a stage kind takes what that kind takes, with its defaults
and checks, but for the inputs that the recipe connects itself.
"""

from typing import Annotated, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from megatron_dasd.config.base import Engine, Positive, ThinkingFormat
from megatron_dasd.config.data import PreprocessText
from megatron_dasd.config.selection import ScoreStudent, SelectDas
from megatron_dasd.config.sources import ImportGguf, MakePrompts, PruneLayers, RandomModel
from megatron_dasd.config.teacher import RollOutStudent
from megatron_dasd.config.training import Train

ModelName = Literal["before", "stage1", "stage2", "stage3", "teacher"]
"""The teacher, or a student by the training stage that it comes from; ``before``: untrained."""
PLACEHOLDER = "?"
"""Stands for an input until the recipe connects it."""


def _settings(kind: str, *inputs: str, also: tuple[str, ...] = ()) -> BeforeValidator:
    """Makes a field of a stage kind's settings: the recipe sets the kind and these inputs.

    A file may set neither them nor ``also``, which the recipe sets in some stages.
    """
    own = {"kind": kind} | dict.fromkeys(inputs, PLACEHOLDER)

    def complete(given: object) -> object:
        if not isinstance(given, dict):
            return given
        for name in (*own, *also):
            if name in given:
                raise ValueError(f"{name} is set by the recipe; change it in stages")
        return own | given

    return BeforeValidator(complete)


_SHARED = ("split", "system_prompt")
Gguf = Annotated[ImportGguf, _settings("import_gguf")]
Random = Annotated[RandomModel, _settings("random_model")]
Prune = Annotated[PruneLayers, _settings("prune_layers", "model")]
Prompts = Annotated[MakePrompts, _settings("make_prompts")]
HealText = Annotated[PreprocessText, _settings("preprocess_text", "model")]
Scoring = Annotated[
    ScoreStudent, _settings("score_student", "responses", "model", "checkpoint", also=_SHARED)
]
Selection = Annotated[SelectDas, _settings("select_das", "responses")]
Training = Annotated[Train, _settings("train", "model", "checkpoint", "data", also=("heldout",))]
Rollouts = Annotated[
    RollOutStudent, _settings("roll_out_student", "model", "responses", also=_SHARED)
]


class Part(BaseModel):
    """A group of fields: unknown ones are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Teacher(Part):
    """Where the teacher comes from, and how it is asked: one of ``model``, ``gguf``, ``random``."""

    model: str | None = None
    """Hugging Face folder: the model or, where ``engine`` has a server, its tokenizer and chat
    template.  None, with ``api: chat``: the server has its own."""
    gguf: Gguf | None = None
    """Settings of ``import_gguf``: a GGUF file that a Python package carries."""
    random: Random | None = None
    """Settings of ``random_model``, for tests."""
    few_shot: str | None = None
    """JSON lines of Message records put before every prompt, for the teacher's eyes only."""
    engine: Engine | None = None
    """How its texts are generated; None: the recipe's ``engine``."""

    @model_validator(mode="after")
    def _one_source(self) -> "Teacher":
        given = [name for name in ("model", "gguf", "random") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of {' and '.join(given)}")
        if not given and not (self.engine and self.engine.own_template):
            raise ValueError("give model, gguf or random")
        return self


class Heal(Part):
    """Training on plain text after layers were left out, before anything is distilled."""

    text: HealText
    """Settings of ``preprocess_text``: the text and its packing."""
    training: Training = Field({}, validate_default=True)
    """Settings of ``train``.  Defaults of the recipe: one epoch, the precision of ``training``."""


class Student(Part):
    """Where the student comes from: ``model`` or ``prune``."""

    model: str | None = None
    """Hugging Face folder."""
    prune: Prune | None = None
    """Settings of ``prune_layers``: the student is the teacher with layers left out."""
    heal: Heal | None = None
    """Training on plain text before the method begins; None: none."""
    engine: Engine | None = None
    """How its rollouts are generated; None: the recipe's ``engine``."""

    @model_validator(mode="after")
    def _one_source(self) -> "Student":
        if (self.model is None) == (self.prune is None):
            raise ValueError("give model or prune")
        return self


class MixedPolicy(Part):
    """Stage 3: the student begins, the teacher goes on, the student trains on both."""

    rollouts: Rollouts = Field({}, validate_default=True)
    """Settings of ``roll_out_student``."""
    training: Training = Field({}, validate_default=True)
    """Settings of ``train``, laid over the recipe's ``training``.  Defaults of the recipe: one
    epoch at a constant rate, that at which stage 2 ends (``training.min_lr``)."""


class Live(Part):
    """Stage ``stage3_live``: mixed-policy distillation while training runs (docs/on_policy.md)."""

    every: Positive | None = None
    """Fewest iterations between two hand-overs of weights; None: at the checkpoints."""
    share: Annotated[float, Field(gt=0, le=1)] | None = None
    """Share of a step's rows that come from rollouts; None: the default of ``on_policy``."""
    max_age: Positive | None = None
    """Iterations after which rows of older weights are dropped; None: the default of
    ``on_policy``."""
    rollouts: Rollouts
    """Settings of ``roll_out_student`` in every round; ``max_prompts`` must be given."""
    training: Training = Field({}, validate_default=True)
    """Settings of ``train``, laid over the recipe's ``training``.  Defaults of the recipe: a
    constant rate, that at which stage 2 ends."""


class Figures(Part):
    """What is measured of the students, and the report."""

    title: str
    """Title of the report."""
    evaluate: list[ModelName] | None = None
    """Models whose accuracy on the held-out prompts is measured; None: ``before`` and the last
    student; empty: none.  ``teacher``: one that writes the normalised form by itself."""
    num_samples: Positive | None = None
    """Answers a prompt and model; None: the default of ``evaluate``."""
    exposure: Rollouts | None = Field({}, validate_default=True)
    """Settings of ``roll_out_student`` on held-out prompts: exposure bias is measured of the
    students before and after stage 3.  Defaults of the recipe: three rollouts a prompt, cut off
    at 0.8 x the teacher's length.  None: it is not measured."""


class Dasd(Part):
    """Distribution-aligned sequence distillation (arXiv 2601.09088)."""

    teacher: Teacher | None = None
    """None: no text is sampled, neither of ``prompts`` nor for stage 3."""
    student: Student
    """Where the student comes from."""
    prompts: Prompts | None = None
    """Settings of ``make_prompts``: tasks, files of prompts, the share held out."""
    responses: str | None = None
    """Folder or stage of selected responses, in place of ``prompts``: nothing is sampled,
    filtered, scored or selected."""
    system_prompt: str | None = None
    """Precedes every prompt, in sampling, scoring, training and evaluation alike."""
    thinking: ThinkingFormat | None = None
    """The teacher's delimiters of its thinking part; None: the defaults of ``thinking``."""
    plain_answers: bool = False
    """Whether responses are plain answers, for a student that does not think.  Stage 3, exposure
    bias and accuracy need a thinking part, and must be left out."""
    temperatures: list[Annotated[float, Field(gt=0)]] = Field([0.6, 1.0], min_length=1)
    """At which the teacher samples, ascending; each has a training stage of its own.  One or two:
    low (``data_low``, ``stage1``), then high (``data_high``, ``stage2``)."""
    num_candidates: Positive = 4
    """Responses a prompt and temperature."""
    max_new_tokens: Positive | None = None
    """Longest text of the teacher, in its tokens; needed where it writes any."""
    seq_length: Positive
    """Tokens of a packed row, in the student's tokens."""
    max_length: Positive | None = None
    """Longest prompt + sampled response, in the student's tokens; None: ``seq_length``, which is
    the limit of continued rollouts in any case."""
    pack_align: Positive | None = None
    """Positions to a multiple of which documents are padded in a row; None: the default of
    ``preprocess_data``."""
    heldout_loss: bool = False
    """Whether stages 1 to 3 print the loss of held-out responses as they train."""
    engine: Engine | None = None
    """How texts are generated, of teacher and student; None: the default of ``engine``."""
    scoring: Scoring = Field({}, validate_default=True)
    """Settings of ``score_student``, for selection and for the figures.  ``few_shot`` is for
    selection alone."""
    selection: Selection = Field({}, validate_default=True)
    """Settings of ``select_das``."""
    training: Training = Field({}, validate_default=True)
    """Settings of ``train``, of stages 1 to 3."""
    mixed_policy: MixedPolicy | None = Field({}, validate_default=True)
    """Stage 3; None: training ends with the highest temperature."""
    live: Live | None = None
    """Stage 3 while training runs, beside ``mixed_policy``; None: none."""
    figures: Figures | None = None
    """None: nothing is measured, and there is no report."""

    @property
    def schedule(self) -> dict[str, str]:
        """Training stages before stage 3, each with its data."""
        data = {"stage1": "data_low", "stage2": "data_high"}
        return dict(list(data.items())[: len(self.temperatures)])

    @property
    def last(self) -> str:
        """The last training stage before stage 3."""
        return list(self.schedule)[-1]

    @property
    def students(self) -> list[str]:
        """All training stages, each of which gives a student."""
        return [*self.schedule, *(["stage3"] if self.mixed_policy else [])]

    @property
    def scores(self) -> dict[str, str]:
        """Stages with the held-out scores of each student.

        Before training, those that selection uses serve, unless they were made with examples.
        """
        before = "score_before" if self.scoring.few_shot else "score"
        return {"before": before} | {name: f"score_{name}" for name in self.students}

    @property
    def evaluated(self) -> list[str]:
        """Models whose accuracy is measured: ``before`` first, with which others are compared."""
        if not self.figures:
            return []
        chosen = self.figures.evaluate
        names = ["before", self.students[-1]] if chosen is None else chosen
        return sorted(set(names), key=get_args(ModelName).index)

    @property
    def exposed(self) -> list[str]:
        """Students whose exposure bias is measured: before and after stage 3."""
        if not self.figures or not self.figures.exposure:
            return []
        return self.students[len(self.schedule) - 1 :]

    @model_validator(mode="after")
    def _has_its_texts(self) -> "Dasd":
        if (self.prompts is None) == (self.responses is None):
            raise ValueError("give prompts or responses")
        asking = {"prompts": self.prompts, "mixed_policy": self.mixed_policy, "live": self.live}
        for name, part in asking.items():
            if part and not self.teacher:
                raise ValueError(f"{name} needs a teacher: give one, or {name}: null")
        if self.teacher and self.max_new_tokens is None:
            raise ValueError("max_new_tokens must be given, since the teacher writes texts")
        if self.student.prune and not self.teacher:
            raise ValueError("student.prune needs a teacher, whose layers are left out")
        return self

    @model_validator(mode="after")
    def _plain_answers_have_no_thinking_part(self) -> "Dasd":
        of_thinking = {
            "thinking": self.thinking,
            "mixed_policy": self.mixed_policy,
            "live": self.live,
            "figures.exposure": self.figures and self.figures.exposure,
        }
        for name, part in of_thinking.items():
            if self.plain_answers and part:
                raise ValueError(f"plain_answers have no thinking part: give {name}: null")
        if self.plain_answers and self.evaluated:
            raise ValueError(
                "plain_answers: accuracy is that of the answer after a thinking part: give "
                "figures.evaluate: []"
            )
        return self

    @model_validator(mode="after")
    def _has_what_is_held_out(self) -> "Dasd":
        if self.responses and (self.figures or self.heldout_loss):
            name = "figures" if self.figures else "heldout_loss"
            raise ValueError(f"{name} needs held-out prompts: give prompts, not responses")
        return self

    @model_validator(mode="after")
    def _temperatures_rise(self) -> "Dasd":
        if len(self.temperatures) > 2 or sorted(set(self.temperatures)) != self.temperatures:
            raise ValueError("temperatures: expected one, or a lower one and a higher one")
        return self

    @model_validator(mode="after")
    def _evaluates_what_is_trained(self) -> "Dasd":
        known = ["before", *self.students]
        for name in self.evaluated:
            if name not in (*known, "teacher"):
                raise ValueError(f"figures.evaluate: no {name} is trained ({', '.join(known)})")
        source = self.teacher
        writes_otherwise = self.thinking or not source or source.few_shot or source.model is None
        if "teacher" in self.evaluated and writes_otherwise:
            raise ValueError(
                "figures.evaluate: teacher must be a model that writes the normalised form by "
                "itself: give teacher.model, and neither thinking nor few_shot"
            )
        return self
