"""The worker beside a training: rounds of stages on its newest weights, each handed to it whole.

Payload: stage (its folder), model and start (a Hugging Face folder; the checkpoint that training
began with), settings (``config.on_policy.OnPolicy``), seed, places (by reference, what the round's
stages find outside of it).

A round is a pipeline of its own, so a worker that is killed goes on where it was.
"""

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_dasd.artifacts import write_atomic
from megatron_dasd.checkpoint import tracker
from megatron_dasd.checkpoint.artifact import FOLDER, TRACKER, iteration_name, open_checkpoint
from megatron_dasd.checkpoint.export_stage import export_hf
from megatron_dasd.config.base import Settings
from megatron_dasd.config.on_policy import CHECKPOINT, WEIGHTS, OnPolicy
from megatron_dasd.config.pipeline import Pipeline, in_order, resolved
from megatron_dasd.config.teacher import RollOutStudent
from megatron_dasd.config.training import ExportHf
from megatron_dasd.data.meta import read_meta
from megatron_dasd.device.launch import run_program
from megatron_dasd.errors import NothingLeftError
from megatron_dasd.manifests import LOGS, MODEL, model_folder
from megatron_dasd.pipeline.runner import run_stages
from megatron_dasd.training.exchange import Exchange, Round

_POLL_SECONDS = 1.0
_NICENESS = 10
"""Training goes first where both share cores."""
_TAKEN = "taken.json"
"""In a round's folder: which weights it is made with."""


def main(payload: dict[str, Any]) -> None:
    """Make rounds until the training ends, and this process with it."""
    threading.Thread(target=_end_with_training, daemon=True).start()
    os.nice(_NICENESS)
    worker = Worker(
        exchange=Exchange(Path(payload["stage"])),
        model=model_folder(Path(payload["model"])),
        start=Path(payload["start"]),
        settings=OnPolicy.model_validate(payload["settings"]),
        seed=payload["seed"],
        places={name: Path(place) for name, place in payload["places"].items()},
    )
    for number in worker.numbers():
        worker.make_round(number)


def _end_with_training() -> None:
    """Wait for the end of the process at the other end of standard input."""
    # past Python's buffer, whose lock would abort an interpreter that ends meanwhile
    while os.read(sys.stdin.fileno(), 1):
        pass
    os._exit(0)


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
        """Take the newest weights, run the stages on them, hand over what they make."""
        folder = self.exchange.round_folder(number)
        iteration, checkpoint = self._weights(number)
        print(f"round {number}: weights of iteration {iteration}", flush=True)
        weights = self._export(folder, checkpoint)
        pipeline = self._pipeline(number, {WEIGHTS: weights, CHECKPOINT: checkpoint})
        try:
            run_stages(pipeline, list(pipeline.stages))
        except NothingLeftError as error:
            print(f"round {number}: {error}", flush=True)
        self.exchange.publish(number, self._result(folder, iteration))
        for large in (weights, folder / FOLDER):
            shutil.rmtree(large, ignore_errors=True)

    def _result(self, folder: Path, iteration: int) -> Round:
        (data,) = self.settings.of_kind("preprocess_data")
        made = (folder / data / "manifest.json").exists()
        tops = self.settings.of_kind("score_topk")
        return Round(
            iteration=iteration,
            num_rows=read_meta(folder / data).num_packs if made else 0,
            data=data,
            teacher_topk=tops[0] if tops else None,
        )

    # -- weights ---------------------------------------------------------------------------------

    def _weights(self, number: int) -> tuple[int, Path]:
        """Iteration and checkpoint of a round: those that it began with, or newer ones than the
        last round's, waited for."""
        folder = self.exchange.round_folder(number)
        last = next(self.exchange.finished(number - 1)).iteration if number else -1
        taken = folder / _TAKEN
        if taken.exists():
            begun: dict[str, Any] = json.loads(taken.read_text())
            if self._newest()[0] - begun["iteration"] <= self.settings.max_age:
                return begun["iteration"], Path(begun["checkpoint"])
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        while (newest := self._newest())[0] <= last or not (kept := self._keep(folder, *newest)):
            self.exchange.want_weights(last)
            time.sleep(_POLL_SECONDS)
        found = {"iteration": newest[0], "checkpoint": str(kept)}
        write_atomic(taken, json.dumps(found).encode())
        return newest[0], kept

    def _newest(self) -> tuple[int, Path]:
        """The newest weights that are there for the worker; the first are the training's own."""
        checkpoints = self.exchange.path.parent / FOLDER
        saves = self.exchange.weights if self.settings.every else checkpoints
        iteration = tracker.read(saves)
        return (iteration, saves) if iteration else (0, self.start)

    def _keep(self, folder: Path, iteration: int, saves: Path) -> Path | None:
        """Keep a checkpoint while the round needs it: training removes old ones.

        Returns:
            Where; None: it was being removed just now.
        """
        if saves == self.start:
            return saves  # of a finished stage
        name, kept = iteration_name(iteration), folder / FOLDER
        shutil.rmtree(kept, ignore_errors=True)
        (kept / name).mkdir(parents=True)
        try:
            for path in (saves / name).iterdir():
                _link(path, kept / name / path.name)
        except FileNotFoundError:
            return None
        if not tracker.whole(kept):
            return None
        write_atomic(kept / TRACKER, str(iteration).encode())
        return kept

    def _export(self, folder: Path, checkpoint: Path) -> Path:
        """A checkpoint as a Hugging Face folder below ``weights``, which is there when whole."""
        made = folder / WEIGHTS
        if not made.exists():
            scratch = folder / f".{WEIGHTS}.tmp"
            shutil.rmtree(scratch, ignore_errors=True)
            (scratch / MODEL).mkdir(parents=True)
            size = ExportHf.model_fields["max_shard_gb"].default
            found = open_checkpoint(checkpoint)
            export_hf(found, self.model, scratch / MODEL, folder / LOGS, size)
            scratch.rename(made)
        return made

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


def _link(path: Path, place: Path) -> None:
    try:
        os.link(path, place)
    except FileNotFoundError:
        raise
    except OSError:  # a file system that has no links
        shutil.copyfile(path, place)


if __name__ == "__main__":
    run_program(main)
