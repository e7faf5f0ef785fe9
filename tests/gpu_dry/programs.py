"""A stage's own code, from its settings to the end of its program, as one rank of H100s.

The stage's ``launch`` is answered by playing the one rank in this process.  Nothing of the program
is left out: Megatron's own parser and checks, its start, ``pretrain()`` with a step, and a save.
"""

import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import torch

from megatron_dasd.config.base import Settings
from megatron_dasd.config.pipeline import Pipeline, load_pipeline
from megatron_dasd.config.selection import ScoreStudent
from megatron_dasd.config.teacher import ScoreTopk
from megatron_dasd.config.training import ExportHf, ImportHf, Train
from megatron_dasd.data.meta import read_meta
from megatron_dasd.device.payload import read_payload, write_payload
from tests.gpu_dry import live, watching
from tests.gpu_dry.case import Case, Result

_PORT = "29511"


def play(case: Case, place: Path, result: Result) -> None:
    """Play a case in a folder; what is seen goes into the result."""
    os.environ["SCRATCH"] = str(place / "scratch")
    if case.apex:
        watching.bring_apex()
    pipeline = load_pipeline(
        Path(case.pipeline), place / "run", [f"{case.stage}.{s}" for s in case.settings]
    )
    try:
        _STAGES[pipeline.stages[case.stage].kind](pipeline, case, place, result)
    finally:
        watching.note(result)


def _train(pipeline: Pipeline, case: Case, place: Path, result: Result) -> None:
    from megatron_dasd.training import stage

    settings = pipeline.stages[case.stage]
    assert isinstance(settings, Train)
    shared = place.parent
    inputs = {
        settings.model: _model(pipeline, settings.model, case, place),
        settings.checkpoint: shared / "checkpoint",
        settings.data: shared / "data",
    }
    ranks = settings.launch
    replicas = ranks.num_ranks // (
        ranks.tensor_parallel * ranks.pipeline_parallel * ranks.context_parallel
    )
    rows = replicas * case.micro_batches
    epochs = (1 + case.interim) * rows / read_meta(inputs[settings.data]).num_packs
    changes = {"global_batch_size": rows, "epochs": epochs, "save_interval": 1}
    settings = settings.model_copy(update=changes)
    watching.replace(stage, "launch", _launch(case, result))
    watching.watch_model(result)
    watching.watch_backends(result)
    counted = live.watch(result, watching.replace) if case.memory else nullcontext()
    if not case.save:
        watching.leave_out_saves()
    watching.leave_out_worker()
    watching.watch_checkpoints(result)
    with counted:
        _run(stage.run, settings, inputs, case, place)


def _score(pipeline: Pipeline, case: Case, place: Path, result: Result) -> None:
    from megatron_dasd.student import scoring

    settings = pipeline.stages[case.stage]
    assert isinstance(settings, ScoreStudent)
    assert settings.checkpoint is not None
    inputs = {
        settings.model: _model(pipeline, settings.model, case, place),
        settings.checkpoint: place.parent / "checkpoint",
        settings.responses: place.parent / "responses",
    }
    watching.replace(scoring, "launch", _launch(case, result))
    watching.watch_checkpoints(result)
    _run(scoring.run, settings, inputs, case, place)


def _import(pipeline: Pipeline, case: Case, place: Path, result: Result) -> None:
    from megatron_dasd.checkpoint import import_stage, process

    settings = pipeline.stages[case.stage]
    assert isinstance(settings, ImportHf)
    watching.replace(process, "launch", _launch(case, result, goes_on=True))
    _run(import_stage.run, settings, {settings.model: place.parent / "tiny"}, case, place)


def _export(pipeline: Pipeline, case: Case, place: Path, result: Result) -> None:
    from megatron_dasd.checkpoint import export_stage, process

    settings = pipeline.stages[case.stage]
    assert isinstance(settings, ExportHf)
    inputs = {
        settings.model: place.parent / "tiny",
        settings.checkpoint: place.parent / "checkpoint",
    }
    watching.replace(process, "launch", _launch(case, result, goes_on=True))
    _run(export_stage.run, settings, inputs, case, place)


def _verify(pipeline: Pipeline, case: Case, place: Path, result: Result) -> None:
    """Its programs alone: what the GPU computes of the logits are zeros here."""
    from megatron_dasd.checkpoint import process, verify_stage
    from megatron_dasd.checkpoint.artifact import open_checkpoint

    watching.replace(process, "launch", _launch(case, result, goes_on=True))
    watching.watch_checkpoints(result)
    checkpoint = open_checkpoint(place.parent / "checkpoint")
    verify_stage.verify(place.parent / "tiny", checkpoint, list(range(3, 23)), place)


def _topk(pipeline: Pipeline, case: Case, place: Path, result: Result) -> None:
    """It starts no ranks: the teacher runs in the stage's own process."""
    from megatron_dasd.teacher import top_tokens

    settings = pipeline.stages[case.stage]
    assert isinstance(settings, ScoreTopk)
    inputs = {
        settings.data: place.parent / "tiny_data",
        settings.model: place.parent / "tiny",
        settings.teacher: place.parent / "tiny",
    }
    _run(top_tokens.run, settings, inputs, case, place)


_STAGES: dict[str, Callable[[Pipeline, Case, Path, Result], None]] = {
    "train": _train,
    "score_student": _score,
    "import_hf": _import,
    "export_hf": _export,
    "verify_conversion": _verify,
    "score_topk": _topk,
}


def _run(
    run: Callable[..., object],
    settings: Settings,
    inputs: dict[str, Path],
    case: Case,
    place: Path,
) -> None:
    from megatron_dasd.artifacts import StageFolder

    with (
        StageFolder(place / "stage", case.stage, settings.kind, {}, {}) as folder,
        suppress(_Played),
    ):
        run(settings, inputs, folder)


def _model(pipeline: Pipeline, reference: str, case: Case, place: Path) -> Path:
    """The example's own model folder, with fewer layers, or the case's own."""
    if case.model:
        return Path(case.model)
    folder = place / "model"
    folder.mkdir(exist_ok=True)
    config = json.loads((pipeline.resolve(reference) / "config.json").read_text())
    config["num_hidden_layers"] = case.num_layers
    (folder / "config.json").write_text(json.dumps(config))
    for file in (place.parent / "tiny").iterdir():
        if file.name.startswith(("token", "chat_template")):
            shutil.copyfile(file, folder / file.name)
    return folder


def _launch(case: Case, result: Result, goes_on: bool = False) -> Callable[..., None]:
    """In place of ``device.launch.launch``: play one of the ranks, in this process.

    Args:
        goes_on: whether the stage goes on with what the program has written.
    """
    _play_the_other_ranks()

    def launch(
        module: str, payload: object, num_ranks: int, log_dir: Path, *_: object, **__: object
    ) -> None:
        log_dir.mkdir(parents=True, exist_ok=True)
        os.environ.update(
            RANK=str(case.rank),
            LOCAL_RANK=str(case.rank % 8),
            WORLD_SIZE=str(num_ranks),
            LOCAL_WORLD_SIZE=str(min(8, num_ranks)),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=_PORT,
        )
        sys.argv = [module]
        try:
            _main_of(module, payload, log_dir)
        except SystemExit as ended:
            if ended.code:
                raise
        watching.note_arguments(result)
        _end_megatron()
        if not goes_on:
            raise _Played

    return launch


def _main_of(module: str, payload: object, log_dir: Path) -> None:
    """Run a program with the payload that it reads back from a file, as its process would."""
    main = importlib.import_module(module).main
    path = log_dir / "payload.json"
    write_payload(path, payload)
    main(read_payload(main, path))


def _play_the_other_ranks() -> None:
    """Let Megatron meet a fake process group."""
    from megatron.training import arguments

    parse = arguments.parse_and_validate_args

    def with_fake_group(*args: object, **kwargs: object) -> object:
        sys.argv.append("--fake-process-group")
        return parse(*args, **kwargs)

    watching.replace(arguments, "parse_and_validate_args", with_fake_group)


def _end_megatron() -> None:
    """A stage may start two programs, each of which has a process of its own otherwise."""
    from megatron.core import mpu, num_microbatches_calculator, rerun_state_machine
    from megatron.training import global_vars

    num_microbatches_calculator.unset_num_microbatches_calculator()
    rerun_state_machine.destroy_rerun_state_machine()
    if torch.distributed.is_initialized():
        mpu.destroy_model_parallel()
        torch.distributed.destroy_process_group()
    global_vars.destroy_global_vars()


class _Played(Exception):
    """The program came to its end; what the stage makes of its output is not looked at."""
