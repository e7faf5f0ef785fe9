"""All stage kinds, and the settings of any of them, distinguished by their ``kind``.

Nothing lists the kinds: a settings class in any module of this package is one by being declared.
"""

from functools import cache, reduce
from importlib import import_module
from operator import or_
from pkgutil import iter_modules
from typing import Annotated, Any

from pydantic import Field, PlainValidator, SerializeAsAny, TypeAdapter

from megatron_dasd import config
from megatron_dasd.config.base import Settings, registered_kinds


@cache
def stage_kinds() -> dict[str, type[Settings]]:
    """Settings classes of all stage kinds, by kind."""
    for module in iter_modules(config.__path__, f"{config.__name__}."):
        import_module(module.name)
    return dict(sorted(registered_kinds().items()))


def _any_stage(value: object) -> Settings:
    return _union(in_rounds=False).validate_python(value)


def _any_round_stage(value: object) -> Settings:
    return _union(in_rounds=True).validate_python(value)


@cache
def _union(in_rounds: bool) -> TypeAdapter[Settings]:
    """Any stage kind, or only those that may stand in a round.

    Built at the first validation, when every settings module can be imported.
    """
    kinds = [kind for kind in stage_kinds().values() if kind.stage.in_rounds or not in_rounds]
    union: Any = Annotated[reduce(or_, kinds), Field(discriminator="kind")]
    return TypeAdapter(union)


StageSettings = Annotated[SerializeAsAny[Settings], PlainValidator(_any_stage)]
"""The settings of any stage."""
RoundStage = Annotated[SerializeAsAny[Settings], PlainValidator(_any_round_stage)]
"""The settings of a stage of an on-policy round."""
