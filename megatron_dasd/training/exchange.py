"""The files through which a running training and its rollout worker exchange rows and weights.

::

    <stage>/on_policy/
      wanted                 the worker waits for weights newer than the iteration in here
      weights/               what training then saves: a Megatron checkpoint of the weights alone
      rounds/00000/          a round of the worker: its stages' folders, as in a run's own folder
      rounds/00000.json      Round: the round is whole, and training may use it from here on
      ledger.jsonl           which row enters at which iteration: ``training.ledger``

Every file is either whole or absent, so either side may be killed and started again.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import rmtree

from megatron_dasd.artifacts import write_atomic
from megatron_dasd.config.on_policy import OnPolicy
from megatron_dasd.device.payload import Payload
from megatron_dasd.errors import UserError
from megatron_dasd.json_values import read_as
from megatron_dasd.paths import is_plain_name
from megatron_dasd.training.ledger import MOST_ITERATIONS

_FOLDER = "on_policy"


class WorkerPayload(Payload):
    """What the rollout worker is to do."""

    stage: Path
    """Folder of the training stage."""
    model: Path
    """Hugging Face folder that the student came from, or a stage that made one."""
    start: Path
    """The checkpoint that training began with."""
    settings: OnPolicy
    seed: int
    places: dict[str, Path]
    """Stages and paths outside the round that its stages may read, by reference."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """A finished round.  Producer: the rollout worker.  Consumer: train."""

    iteration: int
    """Iteration of the weights that the round was made with."""
    num_rows: int
    """Packed rows; 0: no response survived."""
    data: str
    """Folder of its packed data, below the round's folder."""
    teacher_topk: str | None = None
    """Folder of the teacher's likeliest tokens of these rows, likewise."""


class Exchange:
    """The exchanged files, below a training stage's folder."""

    def __init__(self, stage: Path) -> None:
        self.path = stage / _FOLDER
        self.weights = self.path / "weights"
        self.ledger = self.path / "ledger.jsonl"
        self.rounds = self.path / "rounds"
        self._wanted = self.path / "wanted"

    def make(self) -> None:
        """Make the folders."""
        self.rounds.mkdir(parents=True, exist_ok=True)
        self.weights.mkdir(exist_ok=True)

    def round_folder(self, number: int) -> Path:
        """Where a round's stages work."""
        return self.rounds / f"{number:05d}"

    def finished(self, first: int = 0) -> Iterator[Round]:
        """The finished rounds from a number on, in order.

        Raises:
            UserError: the file of one is damaged.
        """
        while (path := self._path_of(first)).exists():
            yield _read_round(path)
            first += 1

    def publish(self, number: int, made: Round) -> None:
        """Hand a round to the training."""
        write_atomic(self._path_of(number), json.dumps(asdict(made)).encode())

    def want_weights(self, newer_than: int) -> None:
        """Ask the training for weights."""
        write_atomic(self._wanted, str(newer_than).encode())

    def wanted(self) -> int | None:
        """The iteration that the worker waits for newer weights than; None: it does not wait."""
        try:
            return int(self._wanted.read_text())
        except FileNotFoundError:
            return None
        except ValueError:
            raise UserError(f"{self._wanted}: damaged (no whole number); delete it") from None

    def no_longer_wanted(self) -> None:
        """Withdraw the request: the weights are there, or training ends."""
        self._wanted.unlink(missing_ok=True)

    def tidy_up(self) -> None:
        """Remove what is not needed once training is over, unfinished rounds included."""
        self.no_longer_wanted()
        rmtree(self.weights, ignore_errors=True)
        for folder in self.rounds.glob("?????"):
            if not folder.with_suffix(".json").exists():
                rmtree(folder)

    def _path_of(self, number: int) -> Path:
        return self.rounds / f"{number:05d}.json"


def _read_round(path: Path) -> Round:
    advice = "delete it, and the rollout worker makes the round again"
    made = read_as(path, Round, advice)
    for name, number in (("iteration", made.iteration), ("num_rows", made.num_rows)):
        if not 0 <= number <= MOST_ITERATIONS:
            raise UserError(f"{path}: damaged (field {name}: {number} is out of range); {advice}")
    for name, folder in (("data", made.data), ("teacher_topk", made.teacher_topk)):
        if folder is not None and not is_plain_name(folder):
            raise UserError(f"{path}: damaged (field {name}: is no folder's name); {advice}")
    return made
