"""What this machine has, what that switches on, and what adding the rest would bring.

Packages are imported in processes of their own: a broken one is reported, and ends nothing else.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import psutil

from megatron_dasd.containment.probe import find_walls
from megatron_dasd.containment.walls import CANNOT_CONTAIN, INSTALL
from megatron_dasd.device.apex import find_apex, foreign_message

State = Literal["on", "off", "broken"]

_IMPORT_SECONDS = 300.0
_DEMO_GB = 16
_FP8_CAPABILITY = [8, 9]
_TORCH_FACTS = """
import json, torch
cuda, gpus = torch.cuda, []
if cuda.is_available():
    for index in range(cuda.device_count()):
        facts = cuda.get_device_properties(index)
        gpus.append([facts.name, facts.major, facts.minor, facts.total_memory])
nccl = ".".join(map(str, cuda.nccl.version())) if gpus else None
print(json.dumps({"cuda": torch.version.cuda, "gpus": gpus, "nccl": nccl}))
"""
_ENGINE_EXTRA = (
    "NVIDIA's PyTorch container has it, and pip install 'megatron_dasd[te]' builds it with nvcc "
    "in some 30 minutes (docs/gpu.md)"
)
_MPI_FACTS = "from mpi4py import MPI; print(MPI.Get_library_version().splitlines()[0])"


@dataclass(frozen=True)
class Finding:
    """One line of the report."""

    name: str
    state: State
    found: str
    """What is here, with its version; empty: nothing."""
    meaning: str
    """On: what this enables.  Off: what adding it would bring, and how.  Broken: what is
    wrong, and what to do."""


@dataclass(frozen=True)
class _Torch:
    """torch's build, and the GPUs that it sees."""

    error: str = ""
    cuda: str | None = None
    nccl: str | None = None
    gpus: list[tuple[str, int, int, int]] = field(default_factory=list)
    """Name, compute capability (major, minor) and bytes of memory of each."""


def examine() -> list[Finding]:
    """Look at this machine; takes seconds, since what is installed is imported."""
    torch = _ask_torch()
    checks: list[Callable[[], Finding]] = [
        _python,
        _cores,
        _memory,
        _disk,
        _container,
        lambda: _torch(torch),
        _megatron,
        lambda: _gpu(torch),
        lambda: _nccl(torch),
        lambda: _transformer_engine(torch),
        _apex,
        _linear_attention,
        _dali,
        _mpi,
        _slurm,
        _containment,
    ]
    return [check() for check in checks]


# -- the machine -------------------------------------------------------------------------------


def _python() -> Finding:
    return Finding("Python", "on", ".".join(map(str, sys.version_info[:3])), sys.executable)


def _cores() -> Finding:
    usable = len(os.sched_getaffinity(0))
    return Finding("cores", "on", f"{usable}", f"of {os.cpu_count()}; shared out among ranks")


def _memory() -> Finding:
    memory = psutil.virtual_memory()
    return Finding("memory", "on", _gib(memory.total), f"{_gib(memory.available)} free")


def _disk() -> Finding:
    here = Path.cwd()
    free = shutil.disk_usage(here).free
    if free < _DEMO_GB * 1e9:
        advice = f"the demo and its packages need {_DEMO_GB} GB: free some, or move to another disk"
        return Finding("disk", "off", f"{_gib(free)} free", advice)
    return Finding("disk", "on", f"{_gib(free)} free", f"at {here}")


def _container() -> Finding:
    variables = {
        "NVIDIA_PYTORCH_VERSION": "NVIDIA PyTorch",
        "APPTAINER_CONTAINER": "Apptainer",
        "SINGULARITY_CONTAINER": "Singularity",
        "ENROOT_ROOTFS": "enroot",
    }
    files = {"/.dockerenv": "Docker", "/run/.containerenv": "Podman"}
    kinds = [kind for name, kind in variables.items() if name in os.environ]
    kinds += [kind for path, kind in files.items() if Path(path).exists()]
    if kinds:
        return Finding("container", "on", ", ".join(kinds), "changes off mounted disks do not last")
    gain = "NVIDIA's PyTorch container brings Transformer Engine and apex built for its CUDA"
    return Finding("container", "off", "", gain)


# -- what training stands on -------------------------------------------------------------------


def _ask_torch() -> _Torch:
    if not is_installed("torch"):
        return _Torch(error="is not installed: run make setup")
    works, said = run_python(_TORCH_FACTS)
    if not works:
        return _Torch(error=said)
    facts = json.loads(said)
    return _Torch(cuda=facts["cuda"], nccl=facts["nccl"], gpus=[tuple(g) for g in facts["gpus"]])


def _torch(torch: _Torch) -> Finding:
    found = _version_of("torch")
    if torch.error:
        return Finding("torch", "broken", found, torch.error)
    build = f"CUDA {torch.cuda}" if torch.cuda else "CPU"
    return Finding("torch", "on", found, f"built for {build}")


def _megatron() -> Finding:
    found = _version_of("megatron-core")
    if not found.startswith("0.19."):
        wrong = "0.19.x is what this program is adapted to: run make setup"
        return Finding("Megatron-Core", "broken", found, wrong)
    return Finding("Megatron-Core", "on", found, "training, scoring, checkpoints")


def _gpu(torch: _Torch) -> Finding:
    if torch.gpus:
        name, major, minor, memory = torch.gpus[0]
        found = f"{len(torch.gpus)} x {name}, {_gib(memory)}"
        fp8 = "FP8" if [major, minor] >= _FP8_CAPABILITY else "no FP8 (8.9 or higher has it)"
        return Finding("GPU", "on", found, f"compute capability {major}.{minor}: bf16, {fp8}")
    driver = Path("/proc/driver/nvidia/version")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    if driver.exists() and Path("/dev/nvidiactl").exists() and not hidden:
        wrong = "a driver is here, but torch sees no GPU: is its CUDA newer than the driver?"
        return Finding("GPU", "broken", driver.read_text().splitlines()[0], wrong)
    meaning = (
        "Megatron runs on the CPU, FP8 emulated; an H100 brings Transformer Engine's layers, "
        "real FP8, and training at scale"
    )
    return Finding("GPU", "off", "hidden by CUDA_VISIBLE_DEVICES" if hidden else "", meaning)


def _nccl(torch: _Torch) -> Finding:
    if torch.nccl:
        return Finding("NCCL", "on", torch.nccl, "ranks meet over it")
    return Finding("NCCL", "off", "", "ranks meet over gloo; with a GPU torch's own NCCL is used")


# -- what is optional --------------------------------------------------------------------------


def _transformer_engine(torch: _Torch) -> Finding:
    name = "Transformer Engine"
    if not is_installed("transformer_engine"):
        if torch.gpus:
            gain = (
                "Megatron's own layers train here, in bf16 and fp32; it would add fused layers, "
                f"cuDNN's packed attention, FP8 and its optimizer: {_ENGINE_EXTRA}"
            )
            return Finding(name, "off", "", gain)
        gain = f"on a GPU: fused layers, packed attention, FP8: {_ENGINE_EXTRA}"
        return Finding(name, "off", "", gain)
    found = _version_of("transformer-engine")
    works, said = run_python("import transformer_engine.pytorch")
    if not works:
        return Finding(name, "broken", found, f"{said} (build it for the torch that is here)")
    if not torch.gpus:
        return Finding(name, "off", found, "idle: its layers refuse to run without a GPU")
    return Finding(name, "on", found, "fused layers, packed attention, FP8, fused optimizer")


def _apex() -> Finding:
    apex = find_apex()
    if apex is None:
        gain = (
            "fused optimizer and clipping, which Transformer Engine has too; in NVIDIA's container"
        )
        return Finding("apex", "off", "", gain)
    if not apex.is_nvidias:
        return Finding("apex", "broken", apex.package or "a foreign one", foreign_message(apex))
    return Finding(
        "apex", "on", apex.package or str(apex.place), "fused optimizer, clipping, norms"
    )


def _linear_attention() -> Finding:
    return _optional(
        name="linear attention",
        module="fla",
        package="flash-linear-attention",
        code="import torch; torch.cuda.is_available() and __import__('fla.ops.gated_delta_rule')",
        on="kernels of gated delta nets (Qwen3.5), in 16 bits on a GPU",
        off="kernels of gated delta nets (Qwen3.5) on a GPU, which are computed in torch without "
        "them: pip install 'megatron_dasd[linear-attention]'",
    )


def _dali() -> Finding:
    return _optional(
        name="DALI",
        module="nvidia.dali",
        package="nvidia-dali-cuda130",
        code="import nvidia.dali",
        on="training rows can be loaded by it",
        off="batches prefetched to the GPU by NVIDIA's loader: pip install 'megatron_dasd[dali]'",
    )


def _mpi() -> Finding:
    return _optional(
        name="MPI",
        module="mpi4py",
        package="mpi4py",
        code=_MPI_FACTS,
        on="tokenising over the cores of several nodes",
        off="tokenising over several nodes: pip install 'megatron_dasd[mpi]'",
    )


def _optional(name: str, module: str, package: str, code: str, on: str, off: str) -> Finding:
    if not is_installed(module):
        return Finding(name, "off", "", off)
    works, said = run_python(code)
    found = _version_of(package)
    return Finding(name, "on", found, on) if works else Finding(name, "broken", found, said)


def _slurm() -> Finding:
    if shutil.which("sbatch") is None:
        gain = "jobs on a cluster: run this on its login node, then slurm/*.sbatch"
        return Finding("Slurm", "off", "", gain)
    done = subprocess.run(["sbatch", "--version"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        return Finding("Slurm", "broken", "", _last_line(done.stderr))
    job = os.environ.get("SLURM_JOB_ID")
    meaning = f"inside job {job}" if job else "slurm/*.sbatch can be submitted from here"
    return Finding("Slurm", "on", done.stdout.strip(), meaning)


def _containment() -> Finding:
    walls = find_walls()
    if not walls.contains:
        return Finding("containment", "off", "", f"{CANNOT_CONTAIN}: {INSTALL}")
    return Finding("containment", "on", walls.name, "graders that evaluate code run behind it")


# -- helpers -----------------------------------------------------------------------------------


def is_installed(module: str) -> bool:
    """Whether Python would find a module; it is not imported, and may not work."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package above it is not there
        return False


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def run_python(code: str) -> tuple[bool, str]:
    """Run code in an interpreter of its own: whether it worked, and the last line it printed."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_IMPORT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return False, f"does not import within {_IMPORT_SECONDS:.0f} s"
    if done.returncode == 0:
        return True, _last_line(done.stdout)
    return False, _last_line(done.stderr) or f"its import ends the process ({done.returncode})"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.0f} GiB"
