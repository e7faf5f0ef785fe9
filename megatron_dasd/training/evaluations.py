"""Files in which a running training and the worker that evaluates its checkpoints meet.

::

    <stage>/evaluations/
      queue/00000200/   a checkpoint that waits, kept from being removed
      00000200/         its evaluation, as in a run's own folder
      00000200.json     Evaluated: the evaluation is whole
    <stage>/exports/00000200/   the checkpoint as a Hugging Face folder, if all are exported

Every file is either whole or absent, so either side may be killed and started again.
"""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import rmtree
from typing import TYPE_CHECKING

from megatron_dasd.artifacts import write_atomic
from megatron_dasd.config.evaluation import Evaluate
from megatron_dasd.device.payload import Payload
from megatron_dasd.json_values import read_as
from megatron_dasd.training.hooks import Hooks
from megatron_dasd.training.metrics_file import append_line

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch.nn import Module

_ACCURACY = "accuracy"
_LOOK_SECONDS = 5.0
"""Between two looks of a rank for finished evaluations."""


class EvaluationPayload(Payload):
    """What the worker is to do."""

    stage: Path
    """Folder of the training stage."""
    saves: Path
    """Folder of its checkpoints."""
    model: Path
    """Hugging Face folder that the student came from, or a stage that made one."""
    evaluate: Evaluate | None
    """None: checkpoints are exported only."""
    every: int
    """Iterations between evaluated checkpoints."""
    last: int
    """The training's last iteration."""
    export_saves: bool
    seed: int
    places: dict[str, Path]
    """Stages and paths that the evaluation may read, by reference."""


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """A checkpoint's evaluation.  Producer: the worker.  Consumer: train."""

    iteration: int
    accuracy: dict[str, float]
    """Share of right answers by benchmark; ``heldout`` for held-out prompts."""


class Evaluations:
    """The files, below a training stage's folder."""

    def __init__(self, stage: Path) -> None:
        self.path = stage / "evaluations"
        self.queue = self.path / "queue"
        self.exports = stage / "exports"
        self._num_written = 0

    def folder(self, iteration: int) -> Path:
        """Where a checkpoint is evaluated."""
        return self.path / f"{iteration:08d}"

    def waiting(self, iteration: int) -> Path:
        """Where a checkpoint waits for its evaluation."""
        return self.queue / f"{iteration:08d}"

    def is_done(self, iteration: int) -> bool:
        """Whether a checkpoint has been evaluated."""
        return self._file(iteration).exists()

    def publish(self, evaluated: Evaluated) -> None:
        """Hand an evaluation to the training."""
        write_atomic(self._file(evaluated.iteration), json.dumps(asdict(evaluated)).encode())

    def finished(self) -> Iterator[Evaluated]:
        """The evaluations so far, in the order of their iterations.

        Raises:
            UserError: a file is damaged.
        """
        for path in sorted(self.path.glob("????????.json")):
            yield read_as(path, Evaluated, "delete it, and the checkpoint is evaluated again")

    def write_metrics(self, metrics: Path) -> None:
        """Append a line for every evaluation that the file of metrics does not hold yet."""
        found = list(self.finished())
        if len(found) == self._num_written:
            return
        self._num_written = len(found)
        lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.exists() else []
        known = {row.get("iteration") for row in map(_parsed, lines) if _ACCURACY in row}
        for one in found:
            if one.iteration not in known and one.accuracy:
                append_line(metrics, {"iteration": one.iteration, _ACCURACY: one.accuracy})

    def tidy_up(self) -> None:
        """Remove the checkpoints that have been evaluated."""
        rmtree(self.queue, ignore_errors=True)

    def _file(self, iteration: int) -> Path:
        return self.path / f"{iteration:08d}.json"


class EvaluationLog(Hooks):
    """Sends finished evaluations to the dashboards that are open on this rank."""

    def __init__(self, stage: Path) -> None:
        self._evaluations = Evaluations(stage)
        self._sent: set[int] = set()
        self._looks_at = 0.0

    def on_step_end(self, iteration: int, model: "Sequence[Module]") -> None:
        """Send what is new, at the step that has just been made."""
        from megatron.training import get_tensorboard_writer, get_wandb_writer

        from megatron_dasd.training import dashboards

        now = time.monotonic()
        if now < self._looks_at or not (get_tensorboard_writer() or get_wandb_writer()):
            return
        self._looks_at = now + _LOOK_SECONDS
        for one in self._evaluations.finished():
            if one.iteration not in self._sent:
                self._sent.add(one.iteration)
                values = {f"accuracy/{name}": value for name, value in one.accuracy.items()}
                dashboards.write({**values, "evaluated_iteration": one.iteration}, iteration)


def _parsed(line: str) -> dict[str, object]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):  # truncated by a kill
        return {}
    return row if isinstance(row, dict) else {}
