"""What a run would make anew because the settings of finished stages have changed."""

from collections.abc import Collection
from dataclasses import dataclass

from megatron_dasd.config.pipeline import Pipeline
from megatron_dasd.manifests import read_manifest
from megatron_dasd.pipeline.runner import stages_to_run


@dataclass(frozen=True)
class Changes:
    """Finished stages that no longer are what the pipeline asks for."""

    settings: dict[str, list[str]]
    """By stage, the settings that differ from those it finished with."""
    remade: list[str]
    """Finished stages that are made anew: those, and what depends on them."""

    @property
    def lines(self) -> list[str]:
        """What a user is told before anything runs; empty: nothing is made anew."""
        if not self.remade:
            return []
        changed = [f"{stage}: {', '.join(names)} changed" for stage, names in self.settings.items()]
        return [
            *changed,
            f"made anew, or where inputs stay the same kept: {', '.join(self.remade)}",
        ]


def changes(pipeline: Pipeline, stages: Collection[str]) -> Changes:
    """Compare the finished stages among some with the pipeline's settings."""
    differing: dict[str, list[str]] = {}
    for stage in stages:
        manifest = read_manifest(pipeline.stage_dir(stage))
        if manifest is None:
            continue
        now, then = pipeline.stages[stage].identity(), manifest.settings
        names = [name for name in {**then, **now} if now.get(name) != then.get(name)]
        if names:
            differing[stage] = names
    if not differing:
        return Changes({}, [])
    left = stages_to_run(pipeline, stages)
    finished = [stage for stage in left if read_manifest(pipeline.stage_dir(stage)) is not None]
    return Changes(differing, finished)
