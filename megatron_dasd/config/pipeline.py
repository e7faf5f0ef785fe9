"""A pipeline file: YAML in, checked settings and an ordered graph of stages out."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Annotated, Any, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from megatron_dasd.config.base import Reference, Settings
from megatron_dasd.config.cluster import Cluster
from megatron_dasd.config.on_policy import CHECKPOINT, WEIGHTS
from megatron_dasd.config.planning import Plan
from megatron_dasd.config.stages import StageSettings
from megatron_dasd.errors import UserError

StageName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
"""It is a folder's name too."""


class PipelineFile(BaseModel):
    """The file as written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    run_dir: str = Field(min_length=1)
    """Where the stage folders go, relative to the working directory; may name environment
    variables, e.g. ``$SCRATCH/run``."""
    seed: int = 1234
    stages: dict[StageName, StageSettings] = Field(min_length=1)
    cluster: Cluster = Cluster()
    plan: Plan = Plan()


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
        """The folder of the stage of that name, else a path relative to the pipeline file."""
        if reference in self.stages:
            return self.stage_dir(reference)
        return self.path.parent / reference

    def upstream(self, stage: str) -> list[str]:
        """Stages whose results this stage reads."""
        return [ref for ref in references(self.stages[stage]) if ref in self.stages]

    def ancestors(self, stage: str) -> list[str]:
        """All stages that this one rests on, in running order."""
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
    for name in _reference_fields(settings):
        value = getattr(settings, name)
        values = value.values() if isinstance(value, dict) else value
        yield from [values] if isinstance(values, str) else list(values or [])


def resolved(settings: Settings, places: Mapping[str, Path]) -> Settings:
    """The same settings with other names for what they refer to; what has none keeps its own."""

    def renamed(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: renamed(one) for key, one in value.items()}
        if isinstance(value, list):
            return [renamed(one) for one in value]
        return str(places.get(value, value)) if isinstance(value, str) else value

    new = {name: renamed(getattr(settings, name)) for name in _reference_fields(settings)}
    return settings.model_copy(update=new)


def _reference_fields(settings: Settings) -> Iterator[str]:
    for name, info in type(settings).model_fields.items():
        if any(isinstance(m, Reference) for m in info.metadata) or _holds_reference(
            info.annotation
        ):
            yield name


def _holds_reference(annotation: Any) -> bool:
    """Whether an annotation is a list, dict or optional of ``Input``."""
    arguments = get_args(annotation)
    return any(isinstance(a, Reference) or _holds_reference(a) for a in arguments)


def load_pipeline(
    path: Path, run_dir: Path | None = None, overrides: list[str] | None = None
) -> Pipeline:
    """Read and check a pipeline file.

    Args:
        path: the YAML file.
        run_dir: in place of the file's own.
        overrides: ``stage.setting=value`` (YAML values), nested settings with further dots.

    Raises:
        UserError: naming the file, the stage and the setting.
    """
    raw = _extended(path)
    for override in overrides or []:
        _override(raw, override)
    try:
        file = PipelineFile.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{path}: {_one_line(error)}") from None
    pipeline = Pipeline(
        path=path,
        name=file.name,
        run_dir=run_dir or _expand(path, file.run_dir),
        seed=file.seed,
        stages={
            name: s if s.seed is not None else s.model_copy(update={"seed": file.seed})
            for name, s in file.stages.items()
        },
        cluster=file.cluster,
        plan=file.plan,
    )
    _check_references(pipeline)
    _check_cluster(pipeline)
    return in_order(pipeline)


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key written twice is a mistake, not the last one's victory."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        # `<<` takes over another mapping's keys, which those written here may replace
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        seen: set[Any] = set()
        for node_of_key in own:
            key = self.construct_object(node_of_key, deep=True)
            if key in seen:
                mark = node_of_key.start_mark
                raise yaml.MarkedYAMLError(problem=f"{key} is given twice", problem_mark=mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UserError(f"{path}: {line}{error.problem}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: wanted a mapping with name, run_dir and stages")
    return raw


def _extended(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A file's content laid over that of the file that it ``extends``, mappings key by key.

    Raises:
        UserError: a file cannot be read, or files extend each other in a circle.
    """
    raw = _read_yaml(path)
    if "extends" not in raw:
        return raw
    base = path.parent / str(raw.pop("extends"))
    if base.resolve() in seen:
        raise UserError(f"{path}: extends {base}, which extends this file")
    return _laid_over(_extended(base, (*seen, path.resolve())), raw)


def _laid_over(base: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        result[key] = _laid_over(base[key], value) if both else value
    return result


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.split(".")
    if not equals or len(parts) < 2:
        raise UserError(f"--set {override}: wanted stage.setting=value")
    stages = raw.get("stages")
    if not isinstance(stages, dict) or parts[0] not in stages:
        raise UserError(f"--set {override}: no stage {parts[0]}")
    place: Any = stages
    for part in parts[:-1]:
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            raise UserError(f"--set {override}: {part} has no settings of its own")
    try:
        place[parts[-1]] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"--set {override}: the value is not YAML") from None


def _expand(path: Path, run_dir: str) -> Path:
    expanded = os.path.expandvars(run_dir)
    if "$" in expanded:
        raise UserError(f"{path}: run_dir: {run_dir} names an environment variable that is not set")
    return Path(expanded)


_PLAINLY = {
    "extra_forbidden": "no such setting",
    "missing": "must be given",
    "union_tag_not_found": "must give its kind",
}


def _one_line(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    # the discriminated union puts the kind after the stage's name: it is no setting
    loc = [
        str(p) for i, p in enumerate(first["loc"]) if not (i == 2 and first["loc"][0] == "stages")
    ]
    what = _PLAINLY.get(first["type"], first["msg"].removeprefix("Value error, "))
    if first["type"] == "union_tag_invalid":
        what = f"unknown kind {first['ctx']['tag']} (known: {first['ctx']['expected_tags']})"
    shown = first["type"] not in _PLAINLY and not isinstance(first["input"], dict)
    given = f" (got {first['input']!r})" if shown else ""
    more = f"; and {error.error_count() - 1} more" if error.error_count() > 1 else ""
    return f"{'.'.join(loc)}: {what}{given}{more}"


def _check_references(pipeline: Pipeline) -> None:
    for name, settings in pipeline.stages.items():
        for ref in references(settings):
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
        raise UserError(f"{pipeline.path}: stages wait for each other: {stages}") from None
    ordered: dict[str, None] = {}

    def place(name: str) -> None:
        if name not in ordered:
            for before in graph[name]:
                place(before)
            ordered[name] = None

    for name in graph:
        place(name)
    return replace(pipeline, stages={name: pipeline.stages[name] for name in ordered})
