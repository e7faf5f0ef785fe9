"""One stage run by itself on files and folders, without a pipeline file."""

from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import ValidationError

from megatron_dasd.config.base import Settings
from megatron_dasd.config.pipeline import Pipeline, references, resolved
from megatron_dasd.config.pipeline_file import PipelineFile, dotted, first_fault
from megatron_dasd.config.stages import stage_kinds
from megatron_dasd.errors import UserError
from megatron_dasd.pipeline.runner import Outcome, run_stages

type Naming = Callable[[tuple[str | int, ...]], str]
"""How a message names the setting at a path of names."""


def run_alone(kind: str, given: Mapping[str, object], out: Path, named: Naming = dotted) -> Outcome:
    """Run one stage; what an earlier run with the same settings and inputs finished is kept.

    Args:
        kind: of the stage.
        given: its settings; inputs are paths, relative to the working directory.
        out: the stage's folder; the next stage takes it as an input.
        named: how messages name a setting.

    Raises:
        UserError: a setting is wrong, an input is missing, or the stage fails.
    """
    pipeline = pipeline_of_one(kind, given, out, named)
    return run_stages(pipeline, list(pipeline.stages))[0]


def pipeline_of_one(
    kind: str, given: Mapping[str, object], out: Path, named: Naming = dotted
) -> Pipeline:
    """The pipeline of one stage alone; arguments and errors are those of :func:`run_alone`."""
    settings = _checked(kind, given, named)
    for name in references(settings):
        if not Path(name).exists():
            raise UserError(f"{name}: no such file or folder")
    out = out.resolve()
    # an input whose path happens to be the stage's own name is a path all the same
    settings = resolved(settings, {out.name: Path(out.name).resolve()})
    seed = settings.seed
    if seed is None:
        seed = int(PipelineFile.model_fields["seed"].default)
    stages = {out.name: settings.model_copy(update={"seed": seed})}
    return Pipeline(path=out, name=out.name, run_dir=out.parent, seed=seed, stages=stages)


def _checked(kind: str, given: Mapping[str, object], named: Naming) -> Settings:
    if kind not in stage_kinds():
        raise UserError(f"unknown stage kind {kind} (known: {', '.join(stage_kinds())})")
    try:
        return stage_kinds()[kind].model_validate({**given, "kind": kind})
    except ValidationError as error:
        raise UserError(first_fault(error, named)) from None
