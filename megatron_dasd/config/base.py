"""What the settings of all stage kinds share.

A field of type :data:`Input` names another stage of the pipeline, or a path of the user's.
"""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Reference:
    """Marks a field as an input: a stage's name or a path."""


Input = Annotated[str, Reference()]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
OnMalformed = Literal["stop", "set_aside"]


class Settings(BaseModel):
    """What all stage kinds share: unknown settings are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tells_of_run: ClassVar[bool] = False
    """Whether the manifests of all stages that this one rests on, wall times included, are its
    inputs too."""

    not_of_result: ClassVar[frozenset[str]] = frozenset({"launch", "num_workers"})
    """Settings that say how the work is done, and leave the result as it is."""

    kind: str
    """Which stage this is; each subclass has one name for itself."""
    seed: int | None = None
    """Default: the pipeline's."""

    def identity(self) -> dict[str, Any]:
        """What determines the result, as JSON values.

        A stage may go on under another layout of processes than it began with.
        """
        return self.model_dump(mode="json", exclude=set(self.not_of_result))


class ThinkingFormat(BaseModel):
    """Where a model's thinking part begins and ends in its text."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    open: str = "<think>\n"
    """What precedes the thinking part; empty: the text begins with it."""
    close: str = Field(default="\n</think>\n\n", min_length=1)
    """What stands between the thinking part and the answer.  Whitespace at the ends of both does
    not matter when a text is read; it is written when the teacher is to continue one."""


class Engine(BaseModel):
    """How text is generated: the in-process ``transformers`` engine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch_size: Positive = 32
    """Sequences generated together."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"


class Launch(BaseModel):
    """Processes of a Megatron program on this machine, and its parallel layout."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    num_ranks: Positive = 1
    tensor_parallel: Positive = 1
    pipeline_parallel: Positive = 1
    expert_parallel: Positive = 1
    """Ranks that share a layer's experts; taken from among the data-parallel ones."""

    @model_validator(mode="after")
    def _divides(self) -> "Launch":
        model_ranks = self.tensor_parallel * self.pipeline_parallel
        if self.num_ranks % model_ranks:
            raise ValueError(
                f"num_ranks {self.num_ranks} is no multiple of tensor_parallel x "
                f"pipeline_parallel = {model_ranks}"
            )
        data_ranks = self.num_ranks // model_ranks
        if data_ranks % self.expert_parallel:
            raise ValueError(
                f"expert_parallel {self.expert_parallel} does not divide the {data_ranks} "
                "data-parallel ranks (num_ranks over tensor_parallel x pipeline_parallel)"
            )
        return self
