"""Settings of training, and of importing, exporting and verifying checkpoints."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from megatron_dasd.config.base import Fraction, Input, Launch, Positive, Settings, Stage
from megatron_dasd.config.choices import (
    Divergence,
    Loader,
    LossGradients,
    Normalisation,
    Precision,
)
from megatron_dasd.config.evaluation import Evaluate
from megatron_dasd.config.execution import Execution
from megatron_dasd.config.megatron_flags import canonical, checked_mapping
from megatron_dasd.config.on_policy import WEIGHTS, OnPolicy
from megatron_dasd.config.products import (
    Checkpoint,
    Comparison,
    Model,
    PackedData,
    TopTokens,
    TrainedCheckpoint,
)
from megatron_dasd.config.stages import StageSettings
from megatron_dasd.records import FilteredResponse

EVALUATION = "evaluation"
"""Name of the stage that evaluates a checkpoint."""
SET_BY_PRECISION = ("bf16", "fp16", "fp8-format", "fp8-recipe")
"""Megatron's flags that ``precision`` stands for."""


class Distillation(BaseModel):
    """How the teacher's likeliest tokens enter the loss."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    divergence: Divergence = "forward_kl"
    """Distance between the teacher's and the student's distribution (docs/losses.md)."""
    beta: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The teacher's share of the mixture in ``jensen_shannon`` and ``skew_kl``."""
    weight: Fraction = 0.5
    """Weight of the divergence where the teacher's tokens are known; the cross-entropy has weight
    1 - ``weight`` there, and 1 elsewhere."""


class Ramp(BaseModel):
    """The share of a second set of data among a training's samples; it changes linearly."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: Fraction = 0.0
    """Share at the first sample."""
    end: Fraction = 1.0
    """Share at the end of the ramp, and from there on."""
    over: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the training's samples that the ramp takes."""


class EvaluateEvery(BaseModel):
    """What a running training's checkpoints are evaluated on, beside the training."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    iterations: Positive
    """Iterations between evaluated checkpoints, a multiple of ``save_interval``; the last one is
    evaluated too."""
    stage: StageSettings
    """An ``evaluate`` stage whose one model is ``weights``, the training's."""

    @model_validator(mode="after")
    def _of_the_weights(self) -> "EvaluateEvery":
        if not isinstance(self.stage, Evaluate):
            raise ValueError("stage.kind: expected evaluate")
        if list(self.stage.models.values()) != [WEIGHTS]:
            raise ValueError(f"stage.models: expected one model, {WEIGHTS}")
        return self

    @property
    def evaluate(self) -> Evaluate:
        """The stage's settings."""
        assert isinstance(self.stage, Evaluate)
        return self.stage


class Train(Settings):
    """One training stage through Megatron's ``pretrain()``."""

    kind: Literal["train"]
    stage: ClassVar[Stage] = Stage(
        module="megatron_dasd.training.stage",
        warning_seconds=300,
        has_workers=True,
        makes=TrainedCheckpoint,
        reads={
            "model": Model,
            "checkpoint": Checkpoint,
            "data": PackedData,
            "ramp_data": PackedData,
            "heldout": PackedData,
            "teacher_topk": TopTokens,
        },
    )
    model: Input
    """Hugging Face folder: architecture and tokenizer."""
    checkpoint: Input
    """Weights to start from: an imported checkpoint or an earlier training stage."""
    data: Input
    """Packed data, of a preprocessing stage."""
    ramp_data: Input | None = None
    """A second set of data, whose share among the samples follows ``ramp``: a continuous form of
    the method's two stages.  An epoch is then as many samples as both sets have."""
    ramp: Ramp = Ramp()
    """How the share of ``ramp_data`` changes."""
    heldout: Input | None = None
    """Data that held-out evaluations compute the loss of."""
    epochs: Annotated[float, Field(gt=0)] = 6
    """Passes over the data; rows of padding fill the last step."""
    max_steps: Positive | None = None
    """Most steps, where ``epochs`` would be more; the learning rate decays over the steps that are
    made.  None: as many as the epochs have."""
    global_batch_size: Positive = 64
    """Packed rows a step; a micro-batch is one row."""
    lr: Annotated[float, Field(gt=0)] = 5e-5
    """Highest learning rate."""
    min_lr: Annotated[float, Field(ge=0)] = 1e-5
    """Learning rate at the end of the decay."""
    lr_decay_style: Literal["cosine", "constant", "linear"] = "cosine"
    """How the learning rate falls from ``lr`` to ``min_lr`` after the warm-up."""
    warmup_fraction: Fraction = 0.1
    """Share of the iterations in which the learning rate rises from 0 to ``lr``."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    """AdamW's decoupled decay of matrices."""
    adam_beta1: Fraction = 0.9
    """Decay of Adam's mean of gradients."""
    adam_beta2: Fraction = 0.95
    """Decay of Adam's mean of squared gradients."""
    adam_eps: Annotated[float, Field(gt=0)] = 1e-8
    """Added to the divisor of Adam's step."""
    clip_grad: Annotated[float, Field(ge=0)] = 1.0
    """Largest norm of all gradients together; 0: they are not clipped."""
    moe_aux_loss_coeff: Annotated[float, Field(ge=0)] = 0.0
    """Weight of the loss that balances the load of routed experts; 0: none."""
    precision: Precision = "bf16"
    """Precision of the linear layers' products; with FP8, weights, optimizer and all else are as in
    bf16.  Without a GPU, FP8 is emulated, slowly, by its recipe's own rounding."""
    loader: Annotated[Loader, Execution()] = "torch"
    """What makes batches of rows; ``dali`` (NVIDIA DALI) copies them to the GPU ahead."""
    normalise_by: Normalisation = "token"
    """What has equal weight in the loss: every token with a loss, or every sequence."""
    chunked_loss: Annotated[bool, Execution()] = True
    """Compute output layer and loss together in chunks, never holding all logits: a few percent of
    the memory for a third more time of that part.  The result is the same."""
    loss_gradients: Annotated[LossGradients, Execution()] = "backward"
    """Pass in which a chunked loss computes its gradients: ``backward`` computes the logits once
    more; ``forward`` saves that quarter of the work, and needs memory for a float32 copy of the
    output layer's weight.  The result is the same."""
    loss_slice_mib: Annotated[Positive | None, Execution()] = None
    """MiB of float32 logits that a chunked loss holds at a time.  None: a 64th of the GPU's memory,
    rounded down to a power of two; 384 without a GPU.  The result is the same."""
    teacher_topk: Input | None = None
    """The teacher's likeliest tokens (``score_topk`` of ``data``), for token-level distillation."""
    distillation: Distillation = Distillation()
    """How the loss uses them."""
    on_policy: OnPolicy | None = None
    """Rows made from the student's own answers while it trains, in place of some of ``data``."""
    evaluate_every: EvaluateEvery | None = None
    """Checkpoints that are evaluated while the training goes on; None: none."""
    save_interval: Positive | None = None
    """Iterations between checkpoints; None: at the end only."""
    export_saves: Annotated[bool, Execution()] = False
    """Whether every checkpoint is exported too, as a Hugging Face folder in ``exports``, beside the
    training."""
    keep_checkpoints: Annotated[Positive, Execution()] = 2
    """Newest checkpoints kept while training; only the last once finished."""
    eval_interval: Positive | None = None
    """Iterations between held-out evaluations; None: at the end only."""
    launch: Annotated[Launch, Execution()] = Launch()
    """Ranks of the training and their layout."""
    megatron: dict[str, Any] = {}
    """Further Megatron flags by name, e.g. ``{recompute-activations: true}``."""

    @field_validator("megatron")
    @classmethod
    def _gives_no_flag_of_the_stage(cls, flags: dict[str, Any]) -> dict[str, Any]:
        for name in flags:
            if canonical(name) in SET_BY_PRECISION:
                raise ValueError(f"{name} follows from the setting precision; leave it out here")
        return checked_mapping(flags)

    @model_validator(mode="after")
    def _distils_in_chunks(self) -> "Train":
        if self.distils and not self.chunked_loss:
            raise ValueError("teacher_topk needs chunked_loss: true")
        if self.loss_gradients == "forward" and (self.distils or not self.chunked_loss):
            raise ValueError("loss_gradients: forward needs chunked_loss, and no teacher_topk")
        if self.teacher_topk and self.ramp_data:
            raise ValueError("teacher_topk scores data alone; leave ramp_data out")
        return self

    @model_validator(mode="after")
    def _evaluates_what_is_saved(self) -> "Train":
        every = self.evaluate_every.iterations if self.evaluate_every else None
        if every and (self.save_interval is None or every % self.save_interval):
            raise ValueError("evaluate_every.iterations: must be a multiple of save_interval")
        return self

    @model_validator(mode="after")
    def _blends_once(self) -> "Train":
        if self.on_policy and self.ramp_data:
            raise ValueError("on_policy and ramp_data both replace rows of data; give one")
        return self

    @property
    def distils(self) -> bool:
        """Whether the teacher's likeliest tokens of any row may be known."""
        rounds = self.on_policy.of_kind("score_topk") if self.on_policy else []
        return bool(self.teacher_topk or rounds)

    @property
    def inner_stages(self) -> Mapping[str, Settings]:
        """The stages of a worker's round, and the evaluation of checkpoints."""
        evaluated = {EVALUATION: self.evaluate_every.stage} if self.evaluate_every else {}
        return {**(self.on_policy.stages if self.on_policy else {}), **evaluated}

    @property
    def needs_gpus(self) -> bool:
        """It trains here."""
        return True

    @property
    def num_ranks(self) -> int:
        """Ranks of the training."""
        return self.launch.num_ranks


class ImportHf(Settings):
    """Hugging Face folder to Megatron ``torch_dist`` checkpoint."""

    kind: Literal["import_hf"]
    stage: ClassVar[Stage] = Stage(
        module="megatron_dasd.checkpoint.import_stage",
        makes=Checkpoint,
        reads={"model": Model},
    )
    model: Input
    """Hugging Face folder to import."""


class ModelCard(BaseModel):
    """What the exported model's card states beyond what the pipeline knows; an id is a hub id.

    None or empty: left out, or copied from the card of the model that the student was made from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str | None = None
    """Title; None: the stage's name."""
    license: str | None = None
    """A licence's id, e.g. ``apache-2.0``."""
    base_model: str | None = None
    """Id of the model that the student was made from."""
    datasets: list[str] = []
    """Ids of published data that were trained on."""
    language: list[str] = []
    """Codes, e.g. ``en``."""


class ExportHf(Settings):
    """Megatron checkpoint to a Hugging Face folder."""

    kind: Literal["export_hf"]
    stage: ClassVar[Stage] = Stage(
        module="megatron_dasd.checkpoint.export_stage",
        makes=Model,
        reads={"model": Model, "checkpoint": Checkpoint},
    )
    model: Input
    """Hugging Face folder that the student was made from: config, tokenizer, chat template."""
    checkpoint: Input
    """Imported checkpoint, or a training stage."""
    max_shard_gb: Annotated[float, Field(gt=0)] = 5.0
    """Size of a safetensors file, in units of 1e9 bytes."""
    mtp: Literal["drop", "copy"] = "drop"
    """Heads that guess several tokens ahead (``mtp.*`` tensors of Qwen3.5), which are not trained
    here: left out, or copied from ``model`` as they are.  The card says which."""
    card: ModelCard = ModelCard()
    """What the model card states."""


class VerifyConversion(Settings):
    """Logits of the Megatron checkpoint against ``transformers``, fp32, on real text."""

    kind: Literal["verify_conversion"]
    stage: ClassVar[Stage] = Stage(
        module="megatron_dasd.checkpoint.verify_stage",
        makes=Comparison,
        reads={"model": Model, "checkpoint": Checkpoint, "responses": FilteredResponse},
    )
    model: Input
    """The exported Hugging Face folder."""
    checkpoint: Input
    """Checkpoint that the model was exported from."""
    responses: Input
    """Records whose outputs are the text to compare on."""
    num_tokens: Positive = 512
    """Positions whose logits are compared."""
    tolerance: Annotated[float, Field(gt=0)] = 5e-4
    """Largest difference of a logit that passes."""
