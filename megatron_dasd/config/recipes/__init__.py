"""Recipes by name: each turns a few fields of a pipeline file into a graph of stages.

A recipe is a function of its fields as written.  It gives the stages as a pipeline file would hold
them, and raises pydantic's ``ValidationError`` where a field is wrong.
"""

from collections.abc import Callable, Mapping

from megatron_dasd.config.recipes import dasd
from megatron_dasd.config.yaml_files import Content

RECIPES: Mapping[str, Callable[[Mapping[str, object]], dict[str, Content]]] = {"dasd": dasd.expand}
