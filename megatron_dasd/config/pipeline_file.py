"""A pipeline file, read and checked: what it extends, its recipe and ``--set`` in one mapping."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from megatron_dasd.config.base import Name
from megatron_dasd.config.cluster import Cluster
from megatron_dasd.config.planning import Plan
from megatron_dasd.config.recipes import RECIPES
from megatron_dasd.config.stages import StageSettings
from megatron_dasd.config.yaml_files import Content, laid_over, parse_yaml, read_yaml
from megatron_dasd.errors import UserError


class PipelineFile(BaseModel):
    """The file as written, its recipe expanded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    """Name of the run, shown in reports and in names of Slurm jobs."""
    run_dir: str = Field(min_length=1, pattern=r"^[^\x00-\x1f\x7f]+$")
    """Where the stage folders go, relative to the working directory; may name environment
    variables, e.g. ``$SCRATCH/run``."""
    base_dir: str | None = None
    """Folder that the paths among the settings are relative to; None: the file's own."""
    seed: int = 1234
    """Seed of every stage that gives none of its own."""
    verify_inputs: bool = True
    """Whether a stage compares the content of its inputs with the digests that the stages before
    it wrote down.  False saves reading every file once, on storage that you trust."""
    stages: dict[Name, StageSettings] = Field(min_length=1)
    """The stages by name, in any order; each has a ``kind`` and the settings of that kind."""
    cluster: Cluster = Cluster()
    """How the stages run as Slurm jobs; ignored on one machine."""
    plan: Plan = Plan()
    """What a plan assumes that no file says."""


@dataclass(frozen=True)
class Expanded:
    """A pipeline file with every stage written out."""

    content: Content
    """The fields of ``PipelineFile``, not checked yet."""
    stages: Content
    """Those of ``content``, by name; empty where they are not even a mapping."""
    left_out: frozenset[str]
    """Stages that the file leaves out of its recipe, or of the file that it extends."""


def read_expanded(path: Path, overrides: Sequence[str] = ()) -> Expanded:
    """Read a pipeline file and expand it.

    Args:
        path: the YAML file.
        overrides: ``stage.setting=value`` (a YAML value), nested settings with further dots,
            ``recipe.field=value``, or ``seed=value``.

    Raises:
        UserError: the file cannot be read, its recipe is unknown or has wrong fields, or an
            override names nothing; in one line.
    """
    content, known = _extended(path)
    changes = []
    for change in map(_Change.parsed, overrides):
        if change.of_seed:
            content = change.applied(content, change.parts)
        else:
            changes.append(change)
    recipe = content.pop("recipe", None)
    expanded: Content = {}
    if recipe is not None:
        own = {name: content.pop(name) for name in [*content] if name not in _FIELDS}
        for change in changes:
            if change.of_recipe:
                own = change.applied(own, change.parts[1:])
        changes = [change for change in changes if not change.of_recipe]
        expanded = _expand(path, recipe, own)
        content.setdefault("stages", {})
    written = content.get("stages")
    if not isinstance(written, dict):
        return Expanded(content, {}, frozenset())  # the check says what is wrong
    stages = laid_over(expanded, written)
    left_out = frozenset(name for name, stage in stages.items() if stage is None)
    for name in sorted(left_out - known - set(expanded)):
        raise UserError(f"{path}: stages.{name}: there is no such stage to leave out")
    stages = {name: stage for name, stage in stages.items() if stage is not None}
    for change in changes:
        if not isinstance(stages.get(change.parts[0]), dict):
            raise UserError(f"--set {change.text}: no stage {change.parts[0]}")
        stages = change.applied(stages, change.parts)
    return Expanded(content | {"stages": stages}, stages, left_out)


def checked(path: Path, content: Mapping[str, object]) -> PipelineFile:
    """The file's content with every setting checked.

    Raises:
        UserError: naming the file, the stage and the setting.
    """
    try:
        return PipelineFile.model_validate(content)
    except ValidationError as error:
        raise UserError(f"{path}: {first_fault(error)}") from None


def _extended(path: Path, above: tuple[Path, ...] = ()) -> tuple[Content, frozenset[str]]:
    """A file's content laid over that of the file that it ``extends``, mappings key by key.

    Also the names of all stages that any of these files gives settings of.

    Raises:
        UserError: a file cannot be read, or files extend each other in a circle.
    """
    content = read_yaml(path)
    stages = content.get("stages")
    given = stages.items() if isinstance(stages, dict) else ()
    known = frozenset(name for name, stage in given if stage is not None)
    if "extends" not in content:
        return content, known
    base = path.parent / str(content.pop("extends"))
    if base.resolve() in above:
        raise UserError(f"{path}: extends {base}, which extends this file")
    below, known_below = _extended(base, (*above, path.resolve()))
    return laid_over(below, content), known | known_below


def _expand(path: Path, recipe: object, fields: Content) -> Content:
    """The stages of a recipe."""
    if not isinstance(recipe, str) or recipe not in RECIPES:
        known = ", ".join(RECIPES)
        raise UserError(f"{path}: recipe: there is no recipe {recipe} (known: {known})")
    try:
        return dict(RECIPES[recipe](fields))
    except ValidationError as error:
        raise UserError(f"{path}: recipe {recipe}: {first_fault(error)}") from None


@dataclass(frozen=True)
class _Change:
    """One ``--set``."""

    text: str
    """As written."""
    parts: list[str]
    value: object

    @classmethod
    def parsed(cls, text: str) -> "_Change":
        key, equals, value = text.partition("=")
        parts = key.split(".")
        if not equals or (len(parts) < 2 and parts != ["seed"]):
            raise UserError(
                f"--set {text}: expected stage.setting=value, recipe.field=value or seed=value"
            )
        try:
            return cls(text, parts, parse_yaml(value))
        except ValueError:
            raise UserError(f"--set {text}: the value is not YAML") from None

    @property
    def of_seed(self) -> bool:
        """Whether it sets the pipeline's seed, which stages without their own seed use."""
        return self.parts == ["seed"]

    @property
    def of_recipe(self) -> bool:
        return self.parts[0] == "recipe"

    def applied(self, content: Mapping[str, object], parts: list[str]) -> Content:
        """The content with the value at the end of a path of keys; ``content`` stays as it is.

        YAML anchors may share a mapping among stages, of which one is changed.
        """
        first, *rest = parts
        if not rest:
            return dict(content) | {first: self.value}
        inner = content.get(first, {})
        if not isinstance(inner, dict):
            raise UserError(f"--set {self.text}: {first} has no settings of its own")
        return dict(content) | {first: self.applied(inner, rest)}


_FIELDS = frozenset(PipelineFile.model_fields)
_PLAINLY = {
    "extra_forbidden": "no such setting",
    "missing": "must be given",
    "union_tag_not_found": "must give its kind",
}


def dotted(path: tuple[str | int, ...]) -> str:
    """A setting by the names that lead to it, e.g. ``stages.sample.engine``."""
    return ".".join(map(str, path))


def first_fault(
    error: ValidationError, named: Callable[[tuple[str | int, ...]], str] = dotted
) -> str:
    """The first mistake in one line: which setting, what is wrong, what was given.

    Args:
        named: how the message names the setting at a path of names.
    """
    first = error.errors(include_url=False)[0]
    # the discriminated union puts the kind after the stage's name: it is no setting
    loc = tuple(
        p for i, p in enumerate(first["loc"]) if not (i == 2 and first["loc"][0] == "stages")
    )
    what = _PLAINLY.get(first["type"], first["msg"].removeprefix("Value error, "))
    if first["type"] == "union_tag_invalid":
        what = f"unknown kind {first['ctx']['tag']} (known: {first['ctx']['expected_tags']})"
    shown = first["type"] not in _PLAINLY and not isinstance(first["input"], dict | BaseModel)
    given = f" (got {first['input']!r})" if shown else ""
    more = f"; and {error.error_count() - 1} more" if error.error_count() > 1 else ""
    where = f"{named(loc)}: " if loc else ""
    return f"{where}{what}{given}{more}"
