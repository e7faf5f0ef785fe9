"""What the training program is to do: the one class that a stage and the command line both make."""

from pathlib import Path

from pydantic import Field

from megatron_dasd.config.base import Launch
from megatron_dasd.config.choices import Loader, LossGradients, Normalisation
from megatron_dasd.config.training import Distillation, Ramp
from megatron_dasd.device.payload import Payload
from megatron_dasd.models.architecture import Flags


class LossSettings(Payload):
    """How the loss of a row is taken; defaults as of a train stage."""

    normalise_by: Normalisation = "token"
    """See ``losses.cross_entropy``."""
    chunked_loss: bool = True
    """Whether output layer and loss are taken together, see ``losses.linear_logprobs``."""
    loss_gradients: LossGradients = "backward"
    """Where the gradients are made, see ``losses.linear_loss``."""
    slice_mib: int | None = None
    """MiB of logits to hold at a time; None: by the device, see ``losses.slices``."""
    distillation: Distillation = Distillation()
    """Used for rows that have the teacher's likeliest tokens (held-out rows have not)."""


class OnPolicyRows(Payload):
    """Which rows of the rollout worker may enter, and how often it gets new weights."""

    stage: Path
    """Folder of the training stage, below which both exchange files."""
    num_samples: int
    """Samples of the training; those behind them are padding."""
    share: float
    """Of all rows up to a step, the largest share that may be the worker's."""
    max_age: int
    """Iterations between the weights of a row and those that it is trained with, at most."""
    every: int | None
    """Fewest iterations between two exports of weights; None: the worker takes checkpoints."""


class TrainingJob(Payload):
    """A training run, as one rank's program takes it."""

    flags: Flags
    """Megatron's flags that this program sets."""
    argv: list[str] = Field(default=[])
    """Megatron's flags as a user typed them; they come last."""
    data: Path
    """Packed data to train on."""
    ramp_data: Path | None = None
    """A second set of packed data, blended in as ``ramp`` says."""
    ramp: Ramp = Ramp()
    heldout: Path | None = None
    """Packed data to evaluate on."""
    num_samples: int | None = None
    """Rows of the whole training without padding; None: as many as Megatron's iterations take."""
    teacher_topk: Path | None = None
    """The teacher's likeliest tokens of ``data``."""
    distils: bool = False
    """Whether any row may have the teacher's likeliest tokens."""
    on_policy: OnPolicyRows | None = None
    loader: Loader = "torch"
    loss: LossSettings = LossSettings()
    metrics: Path | None = None
    """File that gets a JSON line for each step; None: no such file."""
    keep_checkpoints: int | None = None
    """Newest checkpoints to keep; None: all."""
    evaluated_stage: Path | None = None
    """Folder of the stage whose checkpoints are evaluated beside it; None: none are."""
    launch: Launch | None = None
    """Layout that a stage's interim checkpoints are tied to; None: Megatron's flags alone say how
    checkpoints are written."""
    shows_progress: bool = False
    """Whether rank 0 prints a progress line; a launching process shows its own."""

    @property
    def training_data(self) -> list[Path]:
        """Packed data that is trained on: ``data`` and, if given, ``ramp_data``."""
        return [path for path in (self.data, self.ramp_data) if path]

    @property
    def packed_data(self) -> list[Path]:
        """All packed data, the held-out set last."""
        return [*self.training_data, *filter(None, [self.heldout])]
