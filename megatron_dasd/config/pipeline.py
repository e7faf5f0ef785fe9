"""A pipeline: checked settings and an ordered graph of stages, from a pipeline file."""

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from pydantic import BaseModel

from megatron_dasd.config.base import Settings
from megatron_dasd.config.cluster import Cluster
from megatron_dasd.config.connections import (
    check_connections,
    makes,
    named_references,
    reference_fields,
)
from megatron_dasd.config.evaluated import with_evaluated
from megatron_dasd.config.on_policy import CHECKPOINT, WEIGHTS
from megatron_dasd.config.pipeline_file import Expanded, checked, read_expanded
from megatron_dasd.config.planning import Plan
from megatron_dasd.config.products import Model
from megatron_dasd.config.yaml_files import yaml_text
from megatron_dasd.errors import UserError


@dataclass(frozen=True)
class Pipeline:
    """A checked pipeline: stages in an order in which every input comes before its user."""

    path: Path
    name: str
    run_dir: Path
    seed: int
    stages: dict[str, Settings]
    cluster: Cluster = field(default_factory=Cluster)
    plan: Plan = field(default_factory=Plan)
    base_dir: Path = Path()
    """Where relative paths among the settings begin."""
    verify_inputs: bool = True
    """Whether the content of a stage's inputs is compared with their digests before it runs."""

    def stage_dir(self, stage: str) -> Path:
        """Output folder of a stage."""
        return self.run_dir / stage

    def input_paths(self, stage: str) -> dict[str, Path]:
        """The folder or file behind every reference of a stage, by reference.

        A stage that describes the run gets every stage that it depends on.
        """
        names = self.ancestors(stage) if self.stages[stage].stage.describes_run else []
        return {ref: self.resolve(ref) for ref in [*names, *references(self.stages[stage])]}

    def resolve(self, reference: str) -> Path:
        """The folder of the stage of that name, else a path relative to ``base_dir``."""
        if reference in self.stages:
            return self.stage_dir(reference)
        return self.base_dir / reference

    def upstream(self, stage: str) -> list[str]:
        """Stages whose results this stage reads."""
        return [ref for ref in references(self.stages[stage]) if ref in self.stages]

    def ancestors(self, stage: str) -> list[str]:
        """All stages that this one depends on, in running order."""
        found: set[str] = set()
        waiting = self.upstream(stage)
        while waiting:
            name = waiting.pop()
            if name not in found:
                found.add(name)
                waiting += self.upstream(name)
        return [name for name in self.stages if name in found]


def references(settings: Settings) -> list[str]:
    """All references among a stage's settings, in field order, each once.

    Of those of stages within the stage, what they find outside of it.
    """
    found = list(own_references(settings))
    inside = {WEIGHTS, CHECKPOINT, *settings.inner_stages}
    for inner in settings.inner_stages.values():
        found += [ref for ref in own_references(inner) if ref not in inside]
    return list(dict.fromkeys(found))


def own_references(settings: Settings) -> Iterator[str]:
    """The references of a stage itself."""
    yield from (reference for _, reference in named_references(settings))


def resolved(settings: Settings, places: Mapping[str, Path]) -> Settings:
    """The same settings with other names for what they refer to; what has none keeps its own."""

    def renamed(value: object) -> object:
        if isinstance(value, dict):
            return {key: renamed(one) for key, one in value.items()}
        if isinstance(value, list):
            return [renamed(one) for one in value]
        return str(places.get(value, value)) if isinstance(value, str) else value

    return _renamed(settings, renamed)


def _renamed[S: BaseModel](settings: S, rename: Callable[[object], object]) -> S:
    fields = set(reference_fields(settings))
    new: dict[str, object] = {}
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if name in fields:
            new[name] = rename(value)
        elif isinstance(value, dict) and any(isinstance(one, BaseModel) for one in value.values()):
            new[name] = {key: _renamed(one, rename) for key, one in value.items()}
    return settings.model_copy(update=new)


def load_pipeline(
    path: Path, run_dir: Path | None = None, overrides: Sequence[str] | None = None
) -> Pipeline:
    """Read and check a pipeline file.

    Args:
        path: the YAML file.
        run_dir: in place of the file's own.
        overrides: ``stage.setting=value``, ``recipe.field=value`` or ``seed=value`` (YAML values),
            nested settings with further dots.

    Raises:
        UserError: naming the file, the stage and the setting, or the recipe's field.
    """
    return _pipeline(path, run_dir, read_expanded(path, overrides or ()))


def graph_text(
    path: Path, run_dir: Path | None = None, overrides: Sequence[str] | None = None
) -> str:
    """A pipeline with every stage written out, in running order: a pipeline file itself.

    Its stages have the settings, and so the fingerprints, of the pipeline that ``load_pipeline``
    gives for the same arguments.  It may lie in any folder: ``base_dir`` says where its paths
    begin.

    Raises:
        UserError: as ``load_pipeline``.
    """
    expanded = read_expanded(path, overrides or ())
    pipeline = _pipeline(path, run_dir, expanded)
    written = expanded.content
    stages = {name: expanded.stages[name] for name in pipeline.stages}
    head = {
        "name": pipeline.name,
        "run_dir": str(run_dir or written["run_dir"]),
        "base_dir": str(pipeline.base_dir.resolve()),
        "seed": pipeline.seed,
        "stages": stages,
    }
    others = ("verify_inputs", "cluster", "plan")
    return yaml_text(head | {part: written[part] for part in others if part in written})


def _pipeline(path: Path, run_dir: Path | None, expanded: Expanded) -> Pipeline:
    file = checked(path, expanded.content)
    try:
        given = with_evaluated(file.stages)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    pipeline = Pipeline(
        path=path,
        name=file.name,
        run_dir=run_dir or _expand_variables(path, file.run_dir),
        seed=file.seed,
        stages={
            name: s if s.seed is not None else s.model_copy(update={"seed": file.seed})
            for name, s in given.items()
        },
        cluster=file.cluster,
        plan=file.plan,
        base_dir=path.parent / (file.base_dir or ""),
        verify_inputs=file.verify_inputs,
    )
    if not str(pipeline.run_dir).isprintable():
        raise UserError(f"{path}: run_dir: holds a line break or another control character")
    _check_references(pipeline, expanded.left_out)
    _check_cluster(pipeline)
    ordered = in_order(pipeline)
    check_connections(path, ordered.stages)
    return ordered


def _expand_variables(path: Path, run_dir: str) -> Path:
    expanded = os.path.expandvars(run_dir)
    if "$" in expanded:
        raise UserError(f"{path}: run_dir: {run_dir} names an environment variable that is not set")
    return Path(expanded)


def _check_references(pipeline: Pipeline, left_out: Collection[str]) -> None:
    for name, settings in pipeline.stages.items():
        for ref in references(settings):
            if ref in left_out:
                raise UserError(
                    f"{pipeline.path}: stages.{name} reads {ref}, which is left out; leave {name} "
                    "out too, or name another input"
                )
            if ref not in pipeline.stages and not pipeline.resolve(ref).exists():
                raise UserError(
                    f"{pipeline.path}: stages.{name}: {ref!r} is neither a stage of this pipeline "
                    f"nor a path ({pipeline.resolve(ref)} does not exist)"
                )


def _check_cluster(pipeline: Pipeline) -> None:
    kinds = {settings.kind for settings in pipeline.stages.values()}
    for name in pipeline.cluster.stages:
        if name not in pipeline.stages and name not in kinds:
            raise UserError(f"{pipeline.path}: cluster.stages.{name}: neither a stage nor a kind")
    for name, server in pipeline.cluster.servers.items():
        model = server.model
        stage = pipeline.stages.get(model or "")
        if stage and not makes(type(stage), (Model,)):
            raise UserError(
                f"{pipeline.path}: cluster.servers.{name}.model: {model} ({stage.kind}) makes no "
                "model"
            )
        if model and model not in pipeline.stages and not pipeline.resolve(model).exists():
            raise UserError(
                f"{pipeline.path}: cluster.servers.{name}.model: {model!r} is neither a stage nor "
                f"a path ({pipeline.resolve(model)} does not exist)"
            )


def in_order(pipeline: Pipeline) -> Pipeline:
    """The stages in the file's order, but each after those whose results it reads.

    Raises:
        UserError: stages wait for each other.
    """
    graph = {name: pipeline.upstream(name) for name in pipeline.stages}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        stages = " -> ".join(error.args[1])
        path = f"; if the folder {error.args[1][0]} is meant, write ./{error.args[1][0]}"
        itself = len(set(error.args[1])) == 1
        raise UserError(
            f"{pipeline.path}: stages wait for each other: {stages}{path if itself else ''}"
        ) from None
    ordered: dict[str, None] = {}

    def place(name: str) -> None:
        if name not in ordered:
            for before in graph[name]:
                place(before)
            ordered[name] = None

    for name in graph:
        place(name)
    return replace(pipeline, stages={name: pipeline.stages[name] for name in ordered})
