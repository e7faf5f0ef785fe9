"""The inputs among a stage's settings, and whether it can read the stages that they name."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import get_args

from pydantic import BaseModel

from megatron_dasd.config.base import Reference, Settings
from megatron_dasd.config.on_policy import CHECKPOINT, WEIGHTS
from megatron_dasd.config.products import Checkpoint, Model, in_words
from megatron_dasd.config.stages import stage_kinds
from megatron_dasd.config.training import EVALUATION
from megatron_dasd.errors import UserError


def named_references(settings: BaseModel) -> Iterator[tuple[str, str]]:
    """The references of a stage itself, each after its setting.

    In a table of settings, the setting is ``models.before`` or ``teachers.math.model``.
    """
    fields = set(reference_fields(settings))
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        table = value.items() if isinstance(value, dict) else ()
        if name not in fields:
            for key, inner in table:
                if isinstance(inner, BaseModel) and not isinstance(inner, Settings):
                    found = named_references(inner)
                    yield from ((f"{name}.{key}.{setting}", ref) for setting, ref in found)
        elif isinstance(value, dict):
            yield from ((f"{name}.{key}", reference) for key, reference in table)
        elif isinstance(value, str):
            yield name, value
        else:
            yield from ((name, reference) for reference in value or [])


def reference_fields(settings: BaseModel) -> Iterator[str]:
    """Names of the settings that hold references."""
    for name, info in type(settings).model_fields.items():
        if any(isinstance(m, Reference) for m in info.metadata) or _holds_reference(
            info.annotation
        ):
            yield name


def _holds_reference(annotation: object) -> bool:
    """Whether an annotation is a list, dict or optional of ``Input``."""
    arguments = get_args(annotation)
    return any(isinstance(a, Reference) or _holds_reference(a) for a in arguments)


type Made = Mapping[str, tuple[str, type | None]]
"""By reference: what makes it, e.g. a stage kind, and the type that it makes."""


def check_connections(path: Path, stages: Mapping[str, Settings]) -> None:
    """Check that every stage can read the stages that it names, also stages within stages.

    Args:
        path: the pipeline file, for messages.

    Raises:
        UserError: a stage cannot.
    """
    made = _made_by(stages)
    weights = {WEIGHTS: ("the training", Model), CHECKPOINT: ("the training", Checkpoint)}
    for name, settings in stages.items():
        check_readable(f"{path}: stages.{name}.", settings, made)
        inside = settings.inner_stages
        for inner, inner_settings in inside.items():
            place = "evaluate_every.stage" if inner == EVALUATION else f"on_policy.stages.{inner}"
            where = f"{path}: stages.{name}.{place}."
            check_readable(where, inner_settings, {**made, **weights, **_made_by(inside)})


def _made_by(stages: Mapping[str, Settings]) -> Made:
    return {name: (settings.kind, settings.stage.makes) for name, settings in stages.items()}


def check_readable(where: str, settings: Settings, made: Made) -> None:
    """Check that a stage can read the results that its settings name.

    Args:
        where: what messages name the stage by; a setting's name follows.
        made: of what is not in it, as of files, nothing is known.

    Raises:
        UserError: it cannot; names the setting, and the kinds that make what it reads.
    """
    for setting, reference in named_references(settings):
        reads = settings.stage.reads.get(setting.partition(".")[0])
        maker, product = made.get(reference, ("", None))
        if reads is None or product is None or issubclass(product, reads):
            continue
        raise UserError(
            f"{where}{setting}: {reference} ({maker}) makes {in_words(product)}, but "
            f"{what_it_reads(settings, setting)}"
        )


def what_it_reads(settings: Settings, setting: str) -> str:
    """What a stage's setting takes, and the kinds that make it, as a clause of a message."""
    reads = settings.stage.reads[setting.partition(".")[0]]
    wanted = reads if isinstance(reads, tuple) else (reads,)
    expected = " or ".join(map(in_words, wanted)) or "files, not the result of a stage"
    kinds = [kind for kind, other in stage_kinds().items() if makes(other, wanted)]
    return f"{settings.kind} reads {expected}" + (f" (of {', '.join(kinds)})" if kinds else "")


def makes(kind: type[Settings], wanted: tuple[type, ...]) -> bool:
    """Whether a stage kind makes one of some products."""
    product = kind.stage.makes
    return product is not None and issubclass(product, wanted)
