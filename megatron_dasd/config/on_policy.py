"""Settings of on-policy training: rollouts of the student beside its running training."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from megatron_dasd.config.base import Positive
from megatron_dasd.config.stages import RoundStage
from megatron_dasd.config.teacher import RollOutStudent

WEIGHTS, CHECKPOINT = "weights", "checkpoint"
"""Names of the training's weights in the stages of a round: as a Hugging Face folder, and as a
Megatron checkpoint."""


class OnPolicy(BaseModel):
    """A worker beside the training.  In each round it takes the newest weights, runs some stages on
    them, and hands the rows that they make to the training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    stages: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")], RoundStage]
    """The stages of a round, in any order.  An input is another of them, ``weights`` (the
    training's newest weights, exported), ``checkpoint`` (the same for Megatron), a stage
    of the pipeline or a path.  Exactly one is ``preprocess_data``, whose rows are trained on."""
    every: Positive | None = None
    """Least iterations between two exports of weights to the worker; the training exports when the
    worker waits.  None: the worker takes the weights of the training's checkpoints."""
    share: Annotated[float, Field(gt=0, le=1)] = 7.7 / 27.7
    """Share of a step's rows that come from the worker, while it has finished ones.  The default is
    the report's ablation: 7.7K mixed-policy responses with 20K off-policy ones."""
    max_age: Positive = 100
    """Iterations; rows made with older weights are skipped."""

    @model_validator(mode="after")
    def _is_a_round(self) -> "OnPolicy":
        for name in (WEIGHTS, CHECKPOINT):
            if name in self.stages:
                raise ValueError(f"stages.{name}: that is the training's weights; choose another")
        of_kind = {kind: self.of_kind(kind) for kind in ("preprocess_data", "score_topk")}
        if len(of_kind["preprocess_data"]) != 1:
            raise ValueError("stages: expected one preprocess_data, whose rows are trained on")
        if len(of_kind["score_topk"]) > 1:
            raise ValueError("stages: expected one score_topk at most")
        rollouts = [s for s in self.stages.values() if isinstance(s, RollOutStudent)]
        if not any(stage.model == WEIGHTS for stage in rollouts):
            raise ValueError(f"stages: expected a roll_out_student with model: {WEIGHTS}")
        for name, stage in self.stages.items():
            if isinstance(stage, RollOutStudent) and stage.max_prompts is None:
                raise ValueError(f"stages.{name}: give max_prompts, the prompts of one round")
        return self

    def of_kind(self, kind: str) -> list[str]:
        """Names of the stages of a kind."""
        return [name for name, stage in self.stages.items() if stage.kind == kind]
