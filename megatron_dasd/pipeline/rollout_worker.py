"""The rollout worker's program: rounds of stages on a running training's newest weights.

Training gets each round whole.  A round is a pipeline of its own, so a worker that is killed
resumes where it was.
"""

import os
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from megatron_dasd.artifacts import write_atomic
from megatron_dasd.checkpoint import tracker
from megatron_dasd.checkpoint.artifact import CHECKPOINT_FOLDER
from megatron_dasd.config.base import Settings
from megatron_dasd.config.on_policy import CHECKPOINT, WEIGHTS, OnPolicy
from megatron_dasd.config.pipeline import Pipeline, in_order, resolved
from megatron_dasd.config.teacher import RollOutStudent
from megatron_dasd.data.meta import read_meta
from megatron_dasd.device.launch import run_program
from megatron_dasd.errors import NothingLeftError
from megatron_dasd.manifests import MANIFEST, model_folder
from megatron_dasd.pipeline.runner import run_stages
from megatron_dasd.pipeline.saves import end_with_training, export_weights, keep_checkpoint
from megatron_dasd.printing import say
from megatron_dasd.training.exchange import Exchange, Round, WorkerPayload

_POLL_SECONDS = 1.0
_NICENESS = 10
"""Training has priority where both share cores."""
_TAKEN = "taken.json"
"""In a round's folder: which weights it is made with."""


@dataclass(frozen=True)
class _Taken:
    """The weights that a round is made with."""

    iteration: int
    checkpoint: Path


def main(payload: WorkerPayload) -> None:
    """Make rounds until the training ends, which ends this process too."""
    threading.Thread(target=end_with_training, daemon=True).start()
    os.nice(_NICENESS)
    worker = Worker(
        exchange=Exchange(payload.stage),
        model=model_folder(payload.model),
        start=payload.start,
        settings=payload.settings,
        seed=payload.seed,
        places=payload.places,
    )
    for number in worker.numbers():
        worker.make_round(number)


@dataclass(frozen=True, kw_only=True)
class Worker:
    """Makes rounds for one training stage."""

    exchange: Exchange
    model: Path
    start: Path
    settings: OnPolicy
    seed: int
    places: dict[str, Path]

    def numbers(self) -> Iterator[int]:
        """Numbers of the rounds to be made, without end."""
        while True:
            yield sum(1 for _ in self.exchange.finished())

    def make_round(self, number: int) -> None:
        """Run the stages on the newest weights, and publish what they make."""
        folder = self.exchange.round_folder(number)
        iteration, checkpoint = self._weights(number)
        say(f"round {number}: weights of iteration {iteration}")
        weights = self._export(folder, checkpoint)
        pipeline = self._pipeline(number, {WEIGHTS: weights, CHECKPOINT: checkpoint})
        try:
            run_stages(pipeline, list(pipeline.stages))
        except NothingLeftError as error:
            say(f"round {number}: {error}")
        self.exchange.publish(number, self._result(folder, iteration))
        for large in (weights, folder / CHECKPOINT_FOLDER):
            shutil.rmtree(large, ignore_errors=True)

    def _result(self, folder: Path, iteration: int) -> Round:
        (data,) = self.settings.of_kind("preprocess_data")
        made = (folder / data / MANIFEST).exists()
        tops = self.settings.of_kind("score_topk")
        return Round(
            iteration=iteration,
            num_rows=read_meta(folder / data).num_packs if made else 0,
            data=data,
            teacher_topk=tops[0] if tops else None,
        )

    # -- weights ---------------------------------------------------------------------------------

    def _weights(self, number: int) -> tuple[int, Path]:
        """Iteration and checkpoint of a round.

        A round that was begun keeps its weights, unless they have become too old; another one waits
        for newer weights than the last round's.
        """
        folder = self.exchange.round_folder(number)
        last = next(self.exchange.finished(number - 1)).iteration if number else -1
        taken = folder / _TAKEN
        if taken.exists():
            begun = TypeAdapter(_Taken).validate_json(taken.read_bytes())
            if self._newest()[0] - begun.iteration <= self.settings.max_age:
                return begun.iteration, begun.checkpoint
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        while (newest := self._newest())[0] <= last or not (kept := self._keep(folder, *newest)):
            self.exchange.want_weights(last)
            time.sleep(_POLL_SECONDS)
        write_atomic(taken, TypeAdapter(_Taken).dump_json(_Taken(newest[0], kept)))
        return newest[0], kept

    def _newest(self) -> tuple[int, Path]:
        """The newest weights that the worker may take; at first those that training began with."""
        checkpoints = self.exchange.path.parent / CHECKPOINT_FOLDER
        saves = self.exchange.weights if self.settings.every else checkpoints
        iteration = tracker.read(saves)
        return (iteration, saves) if iteration else (0, self.start)

    def _keep(self, folder: Path, iteration: int, saves: Path) -> Path | None:
        """Keep a checkpoint while the round needs it.

        Returns:
            Where; None: it was being removed just now.
        """
        if saves == self.start:
            return saves  # of a finished stage
        kept = folder / CHECKPOINT_FOLDER
        return kept if keep_checkpoint(saves, iteration, kept) else None

    def _export(self, folder: Path, checkpoint: Path) -> Path:
        """Export a checkpoint to ``weights`` in the round's folder, which is whole or absent."""
        export_weights(checkpoint, self.model, folder / WEIGHTS, folder)
        return folder / WEIGHTS

    # -- stages ----------------------------------------------------------------------------------

    def _pipeline(self, number: int, weights: dict[str, Path]) -> Pipeline:
        """The stages of a round; each round rolls out the prompts behind those of the last."""
        inside = self.settings.stages
        places = {**self.places, **weights}
        places = {name: place for name, place in places.items() if name not in inside}
        stages: dict[str, Settings] = {}
        for name, given in inside.items():
            stage = resolved(given, places)
            if stage.seed is None:
                stage = stage.model_copy(update={"seed": self.seed})
            if isinstance(stage, RollOutStudent) and stage.max_prompts:
                passed = stage.skip_prompts + number * stage.max_prompts
                stage = stage.model_copy(update={"skip_prompts": passed})
            stages[name] = stage
        folder = self.exchange.round_folder(number)
        return in_order(Pipeline(Path(f"round {number}"), folder.name, folder, self.seed, stages))


if __name__ == "__main__":
    run_program(main)
