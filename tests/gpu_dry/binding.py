"""A stand-in for Transformer Engine's compiled module: its names and enums, read from its sources.

What is called and has no shape in :mod:`.kernels` raises ``NotImplementedError`` with its name.
"""

import enum
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

from tests.gpu_dry import kernels

_CUDNN = 92400
"""cuDNN 9.24, which torch 2.14 brings."""
_CUBLAS = 130100
_ENUM = re.compile(
    r"py(?:bind11)?::enum_<[^>]+>\s*\(\s*\\?\s*m,\s*\"(\w+)\".*?\)((?:\s*\\?\s*\.value\([^;]*?\))+)",
    re.DOTALL,
)
_CLASS = re.compile(r"py(?:bind11)?::class_<[^(]*?\(\s*m,\s*\"(\w+)\"", re.DOTALL)


def build(sources: Path) -> ModuleType:
    """The module, from the unpacked sdist of ``transformer-engine-torch``."""
    module = ModuleType("transformer_engine_torch")
    headers = sources / "common_headers/common"
    helper = (headers / "util/pybind_helper.h").read_text()
    text = (sources / "csrc/extensions/pybind.cpp").read_text() + helper
    for name, values in _enums(text):
        setattr(module, name, enum.IntEnum(name, {v: i for i, v in enumerate(values)}))
    types = (headers / "include/transformer_engine/transformer_engine.h").read_text()
    numbers = dict(re.findall(r"(k[A-Z]\w+) = (\d+)", types))
    names = module.DType.__members__
    module.DType = enum.IntEnum("DType", {name: int(numbers[name]) for name in names})
    for name in _CLASS.findall(text):
        setattr(module, name, type(name, (), {}))
    functions = set(re.findall(r"m\.def\(\s*\"(\w+)\"", text))
    for name in functions:
        setattr(module, name, _missing(name))
    module.get_cudnn_version = lambda: _CUDNN
    module.get_cublasLt_version = lambda: _CUBLAS
    for name, kernel in kernels.KERNELS.items():
        if name not in functions:
            raise RuntimeError(f"the compiled module has no {name}: it is not the version known")
        setattr(module, name, kernel)
    return module


def _enums(text: str) -> Iterator[tuple[str, list[str]]]:
    for name, body in _ENUM.findall(text):
        yield name, re.findall(r"\.value\(\s*\"(\w+)\"", body)


def _missing(name: str) -> Callable[..., object]:
    def missing(*_: object, **__: object) -> object:
        raise NotImplementedError(f"transformer_engine_torch.{name} has no shape in kernels.py")

    missing.__name__ = name
    return missing
