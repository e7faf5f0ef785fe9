"""Previews of what preprocess_data stages would train on, printed."""

from collections.abc import Iterable

from megatron_dasd.config.data import PreprocessData
from megatron_dasd.config.pipeline import Pipeline
from megatron_dasd.data.preview import preview
from megatron_dasd.printing import say


def print_previews(pipeline: Pipeline, stages: Iterable[str], number: int) -> None:
    """Print the first records that each stage would train on, and write nothing.

    Args:
        stages: names of preprocess_data stages.
        number: records of each.

    Raises:
        UserError: as the stage itself.
    """
    for stage in stages:
        settings = pipeline.stages[stage]
        assert isinstance(settings, PreprocessData)  # of this kind
        for text in preview(settings, pipeline.input_paths(stage), number):
            say(text)
