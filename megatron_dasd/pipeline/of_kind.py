"""The run of a pipeline file's stages of one kind."""

from typing import TYPE_CHECKING

from megatron_dasd.command_line import FileOptions
from megatron_dasd.errors import UserError

if TYPE_CHECKING:
    from megatron_dasd.config.pipeline import Pipeline


def run_stages_of(kind: str, options: FileOptions) -> None:
    """Run a pipeline's stages of a kind, or one of them by name; raises as :func:`stages_of`."""
    from megatron_dasd.pipeline.changes import announce
    from megatron_dasd.pipeline.runner import run_stages

    pipeline, stages = stages_of(kind, options)
    announce(pipeline, stages, options.yes)
    run_stages(pipeline, stages)


def stages_of(kind: str, options: FileOptions) -> "tuple[Pipeline, list[str]]":
    """A pipeline, and the names of its stages of a kind, or the one that the options name.

    Raises:
        UserError: no file is given, it cannot be read, or it has no such stage.
    """
    from megatron_dasd.config.pipeline import load_pipeline  # pydantic: no --help needs it

    if options.pipeline is None:
        raise UserError("give a pipeline file")
    pipeline = load_pipeline(options.pipeline, options.run_dir, options.overrides)
    stages = [stage for stage, settings in pipeline.stages.items() if settings.kind == kind]
    name = options.stage
    if not stages:
        raise UserError(f"{pipeline.path}: has no stage of kind {kind}")
    if name is not None and name not in stages:
        raise UserError(f"{pipeline.path}: no {kind} stage {name} (there are: {', '.join(stages)})")
    return pipeline, stages if name is None else [name]
