"""Stands in for Transformer Engine where only the names and shapes of its parameters matter.

Transformer Engine's modules want CUDA.  Megatron's wrappers around them, which name and shard
what goes into a checkpoint, run as they are on ``pytorch``: classes that hold the parameters of
Transformer Engine's own under the same names and compute nothing.  Whatever else Megatron imports
is there, and empty.
"""

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__version__ = "2.20.2"


def _empty_class(_: Any, name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    return _Empty(name, (), {})


class _Empty(type):
    """A class in which every name is an empty class."""

    __getattr__ = _empty_class


class _EmptyModule(ModuleType):
    """A module in which every name is an empty class."""

    __getattr__ = _empty_class


class _EmptyModules(MetaPathFinder, Loader):
    def find_spec(self, name: str, path: Any, target: Any = None) -> ModuleSpec | None:
        known = name.startswith("transformer_engine.")
        return ModuleSpec(name, self, is_package=True) if known else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _EmptyModule(spec.name)

    def exec_module(self, module: ModuleType) -> None: ...


sys.meta_path.append(_EmptyModules())

import transformer_engine.common.recipe  # noqa: E402
import transformer_engine.pytorch.distributed  # noqa: E402, F401
