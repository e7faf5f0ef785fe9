"""The recipe ``dasd``: distribution-aligned sequence distillation (arXiv 2601.09088).

``fields`` has what a pipeline file gives; the other modules make stages of it, by part of the
method.
"""

from collections.abc import Mapping

from megatron_dasd.config.recipes.dasd.data import models, packed, sampled
from megatron_dasd.config.recipes.dasd.fields import Dasd
from megatron_dasd.config.recipes.dasd.figures import exposure, results
from megatron_dasd.config.recipes.dasd.shared import Stages
from megatron_dasd.config.recipes.dasd.training import live, mixed_policy, scheduled


def expand(fields: Mapping[str, object]) -> Stages:
    """The stages of the recipe with these fields (see ``fields.Dasd``), in running order.

    Raises:
        pydantic.ValidationError: a field is wrong.
    """
    recipe = Dasd.model_validate(fields)
    parts = (models, sampled, packed, scheduled, mixed_policy, exposure, results, live)
    return {name: stage for part in parts for name, stage in part(recipe).items()}
