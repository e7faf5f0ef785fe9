"""The program that exports and evaluates a running training's checkpoints, beside it.

A thread keeps every checkpoint that is due before the training removes it; they are worked on one
after the other.  The evaluation of each is a pipeline of one stage, so a worker that is killed
resumes where it was.
"""

import os
import threading
import time
from pathlib import Path
from shutil import rmtree

from megatron_dasd.checkpoint import tracker
from megatron_dasd.config.evaluation import Evaluate
from megatron_dasd.config.on_policy import WEIGHTS
from megatron_dasd.config.pipeline import Pipeline, resolved
from megatron_dasd.config.training import EVALUATION
from megatron_dasd.device.launch import run_program
from megatron_dasd.evaluation.accuracy import accuracies
from megatron_dasd.evaluation.by_benchmark import benchmark_figures
from megatron_dasd.manifests import model_folder
from megatron_dasd.pipeline.runner import run_stages
from megatron_dasd.pipeline.saves import end_with_training, export_weights, keep_checkpoint
from megatron_dasd.printing import say
from megatron_dasd.records import Graded
from megatron_dasd.records_io import read_records
from megatron_dasd.training.evaluations import Evaluated, EvaluationPayload, Evaluations

_POLL_SECONDS = 0.2
_NICENESS = 10
"""Training has priority where both share cores."""


def main(payload: EvaluationPayload) -> None:
    """Work on checkpoints until the training ends this process."""
    threading.Thread(target=end_with_training, daemon=True).start()
    os.nice(_NICENESS)
    worker = EvaluationWorker(payload)
    threading.Thread(target=worker.keep_saves, daemon=True).start()
    while True:
        if not worker.work():
            time.sleep(_POLL_SECONDS)


class EvaluationWorker:
    """Works for one training stage."""

    def __init__(self, payload: EvaluationPayload) -> None:
        self._payload = payload
        self._files = Evaluations(payload.stage)

    def keep_saves(self) -> None:
        """Keep checkpoints as they are written, without end."""
        while True:
            self.keep_newest()
            time.sleep(_POLL_SECONDS)

    def keep_newest(self) -> None:
        """Keep the newest checkpoint if it is due and not kept yet."""
        files, newest = self._files, tracker.read(self._payload.saves)
        waiting = files.waiting(newest)
        if not self._is_due(newest) or waiting.exists() or files.is_done(newest):
            return
        scratch = waiting.with_name(f".{waiting.name}.tmp")
        if keep_checkpoint(self._payload.saves, newest, scratch):
            scratch.rename(waiting)

    def work(self) -> bool:
        """Export and evaluate the oldest checkpoint that waits; whether there was one."""
        waiting = sorted(self._files.queue.glob("????????"))
        if not waiting:
            return False
        checkpoint, iteration = waiting[0], int(waiting[0].name)
        if not self._files.is_done(iteration):
            say(f"checkpoint of iteration {iteration}")
            weights = self._export(checkpoint, iteration)
            self._files.publish(Evaluated(iteration=iteration, accuracy=self._accuracy(iteration)))
            if not self._payload.export_saves:
                rmtree(weights)
        rmtree(checkpoint)
        return True

    def _is_due(self, iteration: int) -> bool:
        if iteration == 0:
            return False
        return self._payload.export_saves or self._is_evaluated(iteration)

    def _is_evaluated(self, iteration: int) -> bool:
        given = self._payload
        due = iteration % given.every == 0 or iteration == given.last
        return given.evaluate is not None and due

    def _weights(self, iteration: int) -> Path:
        if self._payload.export_saves:
            return self._files.exports / f"{iteration:08d}"
        return self._files.folder(iteration) / WEIGHTS

    def _export(self, checkpoint: Path, iteration: int) -> Path:
        made, logs = self._weights(iteration), self._files.folder(iteration)
        made.parent.mkdir(parents=True, exist_ok=True)
        logs.mkdir(parents=True, exist_ok=True)
        export_weights(checkpoint, model_folder(self._payload.model), made, logs)
        return made

    def _accuracy(self, iteration: int) -> dict[str, float]:
        given = self._payload.evaluate
        if given is None or not self._is_evaluated(iteration):
            return {}
        folder = self._files.folder(iteration)
        places = {**self._payload.places, WEIGHTS: self._weights(iteration)}
        stage = resolved(given, places)
        if stage.seed is None:
            stage = stage.model_copy(update={"seed": self._payload.seed})
        name = Path(f"checkpoint {iteration}")
        pipeline = Pipeline(name, folder.name, folder, self._payload.seed, {EVALUATION: stage})
        run_stages(pipeline, [EVALUATION])
        return _shares(given, folder / EVALUATION)


def _shares(settings: Evaluate, stage: Path) -> dict[str, float]:
    """Share of right answers by benchmark."""
    [model] = settings.models
    answers = read_records(stage, Graded)
    if settings.benchmarks:
        found = benchmark_figures(answers)
        return {name: one["models"][model]["new_questions"]["mean"] for name, one in found.items()}
    return {"heldout": accuracies(answers)[model]["accuracy"]["mean"]}


if __name__ == "__main__":
    run_program(main)
