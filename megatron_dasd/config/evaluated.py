"""What a pipeline evaluates is kept out of what it trains on."""

from collections.abc import Mapping

from megatron_dasd.config.base import Settings
from megatron_dasd.config.evaluation import Evaluate
from megatron_dasd.config.selection import FilterResponses
from megatron_dasd.config.training import Train
from megatron_dasd.errors import UserError


def with_evaluated(stages: Mapping[str, Settings]) -> dict[str, Settings]:
    """Name the benchmarks of a pipeline to each of its filters, those of on-policy rounds too.

    Raises:
        UserError: two stages evaluate different copies of one benchmark.
    """
    found: dict[str, tuple[str, str]] = {}
    for stage, settings in stages.items():
        for name, reference in evaluated_by(settings).items():
            first, other = found.setdefault(name, (stage, reference))
            if other != reference:
                raise UserError(
                    f"stages.{stage}.benchmarks.{name}: {reference} is another copy than "
                    f"stages.{first}'s, {other}; name one"
                )
    copies = {name: reference for name, (_, reference) in found.items()}
    return {name: _told(settings, copies) for name, settings in stages.items()}


def evaluated_by(settings: Settings) -> dict[str, str]:
    """The benchmarks that a stage evaluates, with the user's copies."""
    if isinstance(settings, Train) and settings.evaluate_every:
        settings = settings.evaluate_every.stage
    if not isinstance(settings, Evaluate):
        return {}
    return {str(name): copy for name, copy in settings.benchmarks.items()}


def _told(settings: Settings, copies: Mapping[str, str]) -> Settings:
    if not copies:
        return settings
    if isinstance(settings, FilterResponses):
        return settings.model_copy(update={"evaluated": {**copies, **settings.evaluated}})
    if isinstance(settings, Train) and settings.on_policy:
        inner = {name: _told(stage, copies) for name, stage in settings.on_policy.stages.items()}
        rounds = settings.on_policy.model_copy(update={"stages": inner})
        return settings.model_copy(update={"on_policy": rounds})
    return settings
