"""What a running training and the worker that rolls out its student hand each other, as files.

::

    <stage>/on_policy/
      wanted                 the worker waits for weights newer than the iteration in here
      weights/               what the training then saves: Megatron's checkpoint, weights alone
      rounds/00000/          a round of the worker: its stages' folders, as in a run's own
      rounds/00000.json      Round: whole, and the training's from here on
      ledger.jsonl           which row enters at which iteration: ``training.ledger``

Every file is there whole or not at all, so either side may be killed and started again.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from shutil import rmtree

from megatron_dasd.artifacts import write_atomic
from megatron_dasd.errors import UserError

FOLDER = "on_policy"


@dataclass(frozen=True, kw_only=True)
class Round:
    """A finished round.  Producer: pipeline.rollout_worker.  Consumer: train."""

    iteration: int
    """Of the weights that it was made with."""
    num_rows: int
    """Packed rows; 0: no response survived."""
    data: str
    """Its packed data, a folder below the round's."""
    teacher_topk: str | None = None
    """The teacher's likeliest tokens of these rows, likewise."""


class Exchange:
    """The files between both, below a training stage's folder."""

    def __init__(self, stage: Path) -> None:
        self.path = stage / FOLDER
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
            UserError: what tells of one is damaged.
        """
        while (path := self._path_of(first)).exists():
            try:
                yield Round(**json.loads(path.read_text()))
            except (ValueError, TypeError) as error:
                raise UserError(f"{path}: damaged ({error})") from None
            first += 1

    def publish(self, number: int, made: Round) -> None:
        """Hand a round to the training."""
        write_atomic(self._path_of(number), json.dumps(asdict(made)).encode())

    def want_weights(self, newer_than: int) -> None:
        """Ask the training for weights."""
        write_atomic(self._wanted, str(newer_than).encode())

    def wanted(self) -> int | None:
        """The iteration that the worker wants newer weights than; None: it wants none."""
        try:
            return int(self._wanted.read_text())
        except FileNotFoundError:
            return None

    def no_longer_wanted(self) -> None:
        """The weights are there."""
        self._wanted.unlink(missing_ok=True)

    def tidy_up(self) -> None:
        """The training is over: what it needs no longer goes, a round under way with it."""
        self.no_longer_wanted()
        rmtree(self.weights, ignore_errors=True)
        for folder in self.rounds.glob("?????"):
            if not folder.with_suffix(".json").exists():
                rmtree(folder)

    def _path_of(self, number: int) -> Path:
        return self.rounds / f"{number:05d}.json"
