"""The flags that go with a pipeline file, and the run of its stages of one kind."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_dasd.errors import UserError

if TYPE_CHECKING:
    from megatron_dasd.config.pipeline import Pipeline


@dataclass(frozen=True)
class FileOptions:
    """A command's flags that go with a pipeline file."""

    pipeline: Path | None
    """The file; None: the stage is run by hand."""
    run_dir: Path | None = None
    overrides: Sequence[str] | None = None
    stage: str | None = None
    """Only the stage of this name."""

    def load(self) -> "Pipeline":
        """The pipeline; raises as ``load_pipeline`` does.

        Raises:
            UserError: no file is given.
        """
        from megatron_dasd.config.pipeline import load_pipeline  # pydantic: no --help needs it

        if self.pipeline is None:
            raise UserError("give a pipeline file")
        return load_pipeline(self.pipeline, self.run_dir, self.overrides)


def run_stages_of(kind: str, options: FileOptions) -> None:
    """Run a pipeline's stages of a kind, or one of them by name; raises as :func:`stages_of`."""
    from megatron_dasd.pipeline.runner import run_stages

    run_stages(*stages_of(kind, options))


def stages_of(kind: str, options: FileOptions) -> "tuple[Pipeline, list[str]]":
    """A pipeline, and the names of its stages of a kind, or the one that the options name.

    Raises:
        UserError: the file cannot be read, or has no such stage.
    """
    pipeline = options.load()
    stages = [stage for stage, settings in pipeline.stages.items() if settings.kind == kind]
    name = options.stage
    if not stages:
        raise UserError(f"{pipeline.path}: has no stage of kind {kind}")
    if name is not None and name not in stages:
        raise UserError(f"{pipeline.path}: no {kind} stage {name} (there are: {', '.join(stages)})")
    return pipeline, stages if name is None else [name]
