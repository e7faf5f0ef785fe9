"""A stage's own code, from its settings to the end of its program, as one rank of H100s.

The stage's ``launch`` is answered by playing the one rank in this process.  Nothing of the program
is left out: Megatron's own parser and checks, its start, ``pretrain()`` with a step, and a save.
"""

import importlib
import json
import os
import shutil
import sys
import types
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import wraps
from pathlib import Path

import torch

from megatron_dasd.config.base import Settings
from megatron_dasd.config.pipeline import Pipeline, load_pipeline
from megatron_dasd.config.selection import ScoreStudent
from megatron_dasd.config.training import ExportHf, ImportHf, Train
from megatron_dasd.data.meta import read_meta
from megatron_dasd.device.payload import read_payload, write_payload
from tests.gpu_dry import h100, host_reads, kernels, on_meta
from tests.gpu_dry.case import Case, Result

_PORT = "29511"


def play(case: Case, place: Path, result: Result) -> None:
    """Play a case in a folder; what is seen goes into the result."""
    os.environ["SCRATCH"] = str(place / "scratch")
    if case.apex:
        _bring_apex()
    pipeline = load_pipeline(
        Path(case.pipeline), place / "run", [f"{case.stage}.{s}" for s in case.settings]
    )
    try:
        _STAGES[pipeline.stages[case.stage].kind](pipeline, case, place, result)
    finally:
        _note(result)


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
    epochs = rows / read_meta(inputs[settings.data]).num_packs
    settings = settings.model_copy(update={"global_batch_size": rows, "epochs": epochs})
    _replace(stage, "launch", _launch(case, result))
    _watch_model(result)
    if not case.save:
        _leave_out_saves()
    _watch_checkpoints(result)
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
    _replace(scoring, "launch", _launch(case, result))
    _watch_checkpoints(result)
    _run(scoring.run, settings, inputs, case, place)


def _import(pipeline: Pipeline, case: Case, place: Path, result: Result) -> None:
    from megatron_dasd.checkpoint import import_stage, process

    settings = pipeline.stages[case.stage]
    assert isinstance(settings, ImportHf)
    _replace(process, "launch", _launch(case, result, goes_on=True))
    _run(import_stage.run, settings, {settings.model: place.parent / "tiny"}, case, place)


def _export(pipeline: Pipeline, case: Case, place: Path, result: Result) -> None:
    from megatron_dasd.checkpoint import export_stage, process

    settings = pipeline.stages[case.stage]
    assert isinstance(settings, ExportHf)
    inputs = {
        settings.model: place.parent / "tiny",
        settings.checkpoint: place.parent / "checkpoint",
    }
    _replace(process, "launch", _launch(case, result, goes_on=True))
    _run(export_stage.run, settings, inputs, case, place)


def _verify(pipeline: Pipeline, case: Case, place: Path, result: Result) -> None:
    """Its programs alone: what the GPU computes of the logits are zeros here."""
    from megatron_dasd.checkpoint import process, verify_stage
    from megatron_dasd.checkpoint.artifact import open_checkpoint

    _replace(process, "launch", _launch(case, result, goes_on=True))
    _watch_checkpoints(result)
    checkpoint = open_checkpoint(place.parent / "checkpoint")
    verify_stage.verify(place.parent / "tiny", checkpoint, list(range(3, 23)), place)


_STAGES: dict[str, Callable[[Pipeline, Case, Path, Result], None]] = {
    "train": _train,
    "score_student": _score,
    "import_hf": _import,
    "export_hf": _export,
    "verify_conversion": _verify,
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
        _note_arguments(result)
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

    _replace(arguments, "parse_and_validate_args", with_fake_group)


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


def _replace(module: types.ModuleType, name: str, value: object) -> None:
    """Something that a module has already."""
    assert hasattr(module, name) or name == "fused_weight_gradient_mlp_cuda", name
    setattr(module, name, value)


def _bring_apex() -> None:
    from megatron.core.tensor_parallel import layers

    kernel = types.ModuleType("fused_weight_gradient_mlp_cuda")
    kernel.wgrad_gemm_accum_fp32 = kernels.weight_gradient
    kernel.wgrad_gemm_accum_fp16 = kernels.weight_gradient
    sys.modules[kernel.__name__] = kernel
    _replace(layers, kernel.__name__, kernel)
    _replace(layers, "_grad_accum_fusion_available", True)


def _watch_model(result: Result) -> None:
    """Note what the backward pass left without a gradient, before the optimizer's step."""
    from megatron.training import training

    set_up = training.setup_model_and_optimizer
    without: set[str] = set()

    def watched(*args: object, **kwargs: object) -> object:
        model, optimizer, scheduler = set_up(*args, **kwargs)
        for number, chunk in enumerate(model):
            for name, parameter in chunk.named_parameters():
                result.num_parameters += parameter.numel()
                without.add(f"{number}.{name}")
                parameter.register_post_accumulate_grad_hook(
                    lambda _, name=f"{number}.{name}": without.discard(name)
                )
        step = optimizer.step

        def noted(*step_args: object, **step_kwargs: object) -> object:
            result.without_gradient = sorted(without)
            return step(*step_args, **step_kwargs)

        optimizer.step = noted
        for chunk in model:
            names = [type(module).__name__ for module in chunk.modules()]
            for name, count in Counter(names).items():
                result.modules[name] = result.modules.get(name, 0) + count
        return model, optimizer, scheduler

    _replace(training, "setup_model_and_optimizer", watched)


def _leave_out_saves() -> None:
    from megatron.training import training

    @wraps(training.save_checkpoint_and_time)
    def saved(*_: object, **__: object) -> None: ...

    _replace(training, "save_checkpoint_and_time", saved)


def _watch_checkpoints(result: Result) -> None:
    from megatron.core import dist_checkpointing
    from megatron.core.dist_checkpointing.dict_utils import dict_list_map_outplace

    def load(state: dict[str, object], folder: str, *_: object, **__: object) -> object:
        result.loaded += keys(state)
        common = dist_checkpointing.load_common_state_dict(folder)
        model = {name: dict_list_map_outplace(_data, part) for name, part in state.items()}
        return common | model

    def save(state: object, *_: object, **__: object) -> None:
        result.saved += keys(state)

    _replace(dist_checkpointing, "load", load)
    _replace(dist_checkpointing, "save", save)


def _data(entry: object) -> object:
    """What a checkpoint would give for an entry: a tensor of its shape."""
    return getattr(entry, "data", entry)


def keys(state: object) -> list[str]:
    """Keys of the sharded objects in a state dict, and keys and whole shapes of the tensors."""
    from megatron.core.dist_checkpointing.dict_utils import nested_values
    from megatron.core.dist_checkpointing.mapping import (
        ShardedObject,
        ShardedTensor,
        ShardedTensorFactory,
    )

    found = set()
    for value in nested_values(state):
        built = value.build() if isinstance(value, ShardedTensorFactory) else value
        for entry in nested_values({"": built}):
            if isinstance(entry, ShardedTensor):
                found.add(f"{entry.key} {list(entry.global_shape)}")
            elif isinstance(entry, ShardedObject):
                found.add(entry.unique_key)
    return sorted(found)


def _note_arguments(result: Result) -> None:
    """Megatron's, where a program came that far."""
    from megatron.training import get_args

    with suppress(AssertionError):
        result.args = {
            name: value if isinstance(value, bool | int | float | None) else str(value)
            for name, value in vars(get_args()).items()
        }


def _note(result: Result) -> None:
    """What the stand-ins saw."""
    _note_arguments(result)
    result.attention = [asdict(call) for call in kernels.attention]
    result.products = [(*kinds, count) for kinds, count in kernels.products.items()]
    result.calls = dict(kernels.calls)
    result.host_reads = dict(host_reads.reads) | {
        f"cuda {name}": count for name, count in h100.waits.items()
    }
    seen = Counter((c.name, len(c.ranks), c.num_bytes) for c in on_meta.collectives)
    result.collectives = [(*kind, count) for kind, count in seen.items()]
