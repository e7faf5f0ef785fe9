"""The package as it is installed: a wheel in an environment that has its dependencies alone."""

import json
import os
import shutil
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pydantic
import pytest

ROOT = Path(__file__).parents[2]
SOURCES = (
    "megatron_dasd",
    "slurm",
    "examples",
    "setup.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
)
BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the sources."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            unneeded = shutil.ignore_patterns("__pycache__", "env.sh")
            shutil.copytree(path, source / name, ignore=unneeded)
        else:
            shutil.copy(path, source / name)
    subprocess.run(
        [sys.executable, "-c", BUILD, str(out)], cwd=source, check=True, capture_output=True
    )
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def dasd(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of an environment into which the wheel was installed."""
    place = tmp_path_factory.mktemp("environment")
    venv.create(place)
    pip = [sys.executable, "-m", "pip", "--python", place / "bin" / "python", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", wheel], check=True)
    (packages,) = place.glob("lib/python*/site-packages")
    # a plain path: the other environment's own .pth files, of an editable install, are not read
    (packages / "dependencies.pth").write_text(f"{Path(pydantic.__file__).parents[1]}\n")
    return place / "bin" / "dasd"


def run(dasd: Path, place: Path, *arguments: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [dasd, *arguments], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_what_the_program_reads(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (
        *(ROOT / "megatron_dasd").rglob("*.j2"),
        *(ROOT / "megatron_dasd").rglob("*.txt"),
        *(ROOT / "slurm").glob("*.sbatch"),
        ROOT / "slurm" / "common.sh",
        ROOT / "slurm" / "env.example",
    ):
        relative = path.relative_to(ROOT)
        inside = relative if relative.parts[0] == "megatron_dasd" else "megatron_dasd" / relative
        assert str(inside) in names
    assert {f"megatron_dasd/examples/cpu_micro/{n}" for n in ("pipeline.yaml", "text.txt")} <= names
    assert "megatron_dasd/py.typed" in names


def test_an_installed_program_runs_stages(dasd: Path, tmp_path: Path) -> None:
    assert run(dasd, tmp_path, "--version").startswith("dasd ")
    assert "written" in run(dasd, tmp_path, "init", "--micro")
    assert "worked_sums" in run(dasd, tmp_path, "settings")
    jobs = run(dasd, tmp_path, "submit", "pipeline.yaml", "--dry-run")
    assert "site-packages/megatron_dasd/slurm/stage.sbatch pipeline.yaml report" in jobs
    turns = [{"role": "user", "content": "a?"}, {"role": "assistant", "content": "b"}]
    (tmp_path / "chats.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    given = ["--format=messages", "--files=chats.jsonl", "--temperature=1", "--out=imported"]
    assert "imported 1" in run(dasd, tmp_path, "stage", "import_responses", *given)


@pytest.mark.exhaustive
def test_an_installed_program_runs_the_whole_method(dasd: Path, tmp_path: Path) -> None:
    run(dasd, tmp_path, "init", "--micro")
    run(dasd, tmp_path, "run", "pipeline.yaml")
    assert (tmp_path / "runs" / "micro" / "report.html").exists()
