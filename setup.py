"""The package and what it needs.  Exact versions are in constraints.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

VERSION = re.search(r'__version__ = "(.+)"', Path("megatron_dasd/__init__.py").read_text())
assert VERSION

setup(
    name="megatron_dasd",
    version=VERSION[1],
    description="Distribution-aligned sequence distillation on Megatron-Core",
    long_description=Path("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["distillation", "reasoning", "megatron", "llm", "post-training", "slurm"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    # job scripts and examples lie beside the package in a checkout, and inside it once installed
    packages=[
        *find_packages(include=["megatron_dasd*"]),
        "megatron_dasd.examples",
        "megatron_dasd.slurm",
    ],
    package_dir={"megatron_dasd.examples": "examples", "megatron_dasd.slurm": "slurm"},
    package_data={
        "": ["*.j2", "*.txt", "golden.json", "py.typed"],
        "megatron_dasd.examples": ["*/*.*", "*/*/*.*"],
        "megatron_dasd.slurm": ["*.sbatch", "*.sh", "*.example", "container/*"],
    },
    entry_points={"console_scripts": ["dasd = megatron_dasd.commands.app:main"]},
    python_requires=">=3.12",
    install_requires=[
        "aiohttp>=3.14",
        "gigatoken>=0.10",  # with a fall-back to tokenizers for what it does not take
        "huggingface-hub>=2.4",
        "jinja2>=3.1",
        "matplotlib>=3.11",
        # Its training program and its internals are adapted: a minor version is a contract.
        "megatron-core~=0.19.2",
        "msgspec>=0.22",
        "numpy>=2.5",
        "psutil>=7.2",  # Megatron's checkpoint writer imports it without declaring it
        "pyarrow>=26.0",
        "pydantic>=2.14",
        "pyyaml>=6.0",
        "rich>=15.0",
        "safetensors>=0.8",
        "tenacity>=9.2",
        "tokenizers>=0.23",
        "torch>=2.14",
        "transformers>=5.23",
        "typer>=0.29",
    ],
    extras_require={
        # PyPI has it for torch as sources: some 30 minutes with nvcc (docs/gpu.md)
        "te": ["transformer-engine[pytorch]>=2.20"],
        # kernels of gated delta nets (Qwen3.5); its dependencies leave torch and Triton to be found
        "linear-attention": ["flash-linear-attention>=0.6,<0.7"],
        "dali": ["nvidia-dali-cuda130>=2.4"],
        "mpi": ["mpi4py>=4.1", "mpich>=4.3"],
        "wandb": ["tensorboard>=2.21", "wandb>=0.31"],
        "serve": ["vllm>=0.32"],
        "docs": ["mkdocs-material>=9.8"],
        # graders and the filter of system calls that they run behind, task generators, and the
        # format of the model that the demo's teacher is in
        "eval": ["gguf>=0.19", "math-verify>=0.9", "pyseccomp>=0.1.2", "reasoning-gym>=0.1.25"],
        "dev": [
            "hypothesis>=6.170",
            "mypy>=2.4",
            "pytest>=9.2",
            "pytest-timeout>=2.4",
            "pytest-xdist>=3.8",
            "ruff>=0.17",
            "types-psutil>=7.2",
            "types-PyYAML>=6.0",
        ],
    },
)
