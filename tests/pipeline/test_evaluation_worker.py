"""The worker that evaluates checkpoints: which it keeps, and the whole of it beside a training."""

import json
from pathlib import Path

import pytest

from megatron_dasd.checkpoint.artifact import TRACKER, iteration_name
from megatron_dasd.config.evaluation import Evaluate
from megatron_dasd.config.pipeline import load_pipeline
from megatron_dasd.manifests import read_manifest
from megatron_dasd.pipeline.evaluation_worker import EvaluationWorker
from megatron_dasd.pipeline.runner import run_stages
from megatron_dasd.training.evaluations import Evaluated, EvaluationPayload, Evaluations
from tests.training.test_evaluations import STAGE

MICRO = Path(__file__).parents[2] / "examples" / "cpu_micro" / "pipeline.yaml"


def save(saves: Path, iteration: int) -> None:
    folder = saves / iteration_name(iteration)
    folder.mkdir(parents=True)
    (folder / "metadata.json").write_text("{}")
    (saves / TRACKER).write_text(str(iteration))


@pytest.mark.parametrize(("exports", "kept"), [(False, [20, 30]), (True, [10, 20, 30])])
def test_the_checkpoints_that_are_due_are_kept(
    exports: bool, kept: list[int], tmp_path: Path
) -> None:
    saves = tmp_path / "checkpoint"
    payload = EvaluationPayload(
        stage=tmp_path,
        saves=saves,
        model=tmp_path,
        evaluate=Evaluate.model_validate(STAGE),
        every=20,
        last=30,
        export_saves=exports,
        seed=1,
        places={},
    )
    worker, files = EvaluationWorker(payload), Evaluations(tmp_path)
    worker.keep_newest()  # nothing is saved yet
    for iteration in (10, 20, 30):
        save(saves, iteration)
        worker.keep_newest()
        worker.keep_newest()
    assert sorted(int(path.name) for path in files.queue.iterdir()) == kept
    assert (files.waiting(20) / iteration_name(20) / "metadata.json").exists()
    for iteration in kept:  # evaluated already: only the copy goes
        files.publish(Evaluated(iteration=iteration, accuracy={}))
    while worker.work():
        pass
    assert list(files.queue.iterdir()) == []
    worker.keep_newest()
    assert list(files.queue.iterdir()) == []


@pytest.mark.exhaustive
def test_a_training_whose_checkpoints_are_evaluated_and_exported(tmp_path: Path) -> None:
    stage = STAGE | {"max_new_tokens": 24, "engine": {"dtype": "float32"}}
    every = {"iterations": 20, "stage": stage}
    changes = [f"stage1.evaluate_every={json.dumps(every)}", "stage1.export_saves=true"]
    pipeline = load_pipeline(MICRO, tmp_path, changes)
    run_stages(pipeline, [*pipeline.ancestors("stage1"), "stage1"])
    folder = tmp_path / "stage1"
    manifest = read_manifest(folder)
    assert manifest is not None
    found = manifest.figures["evaluations"]
    assert isinstance(found, dict)
    last = str(manifest.figures["iterations"])
    assert list(found) == ["20", last]
    rows = [json.loads(line) for line in (folder / "logs" / "metrics.jsonl").open()]
    assert [str(row["iteration"]) for row in rows if "accuracy" in row] == ["20", last]
    names = sorted(path.name for path in (folder / "exports").iterdir())
    assert names == ["00000020", f"{int(last):08d}"]
    assert (folder / "exports" / names[0] / "model" / "config.json").exists()
