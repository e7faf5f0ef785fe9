"""Imports go one way, from the pipeline down to the records; read from the source, not run."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "megatron_dasd"
STAGES = {
    "sources",
    "teacher",
    "filters",
    "divergence",
    "student",
    "revision",
    "training",
    "evaluation",
}
LAYERS = [
    {"errors", "json_values", "records", "config", "seeds"},
    {"records_io", "record_batches", "artifacts", "manifests", "progress", "device"},
    {"text", "pages", "engines", "data", "losses", "models", "checkpoint", "precision"},
    STAGES,
    {"pipeline"},
    {"cluster", "planning"},
]
"""From the lowest up; a room imports from its own layer and those below, a stage from no other."""
MODULES = {
    "jinja2": "markupsafe",
    "megatron_core": "megatron",
    "nvidia_dali_cuda130": "nvidia",
    "pyyaml": "yaml",
}
"""Modules by the package that brings them, where the names differ."""
LEVEL = {room: level for level, rooms in enumerate(LAYERS) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> Iterator[str]:
    """All modules that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            assert node.module is not None
            if node.module == "megatron_dasd":
                yield from (f"megatron_dasd.{alias.name}" for alias in node.names)
            else:
                yield node.module


def own_imports(path: Path) -> Iterator[str]:
    """Rooms of this package that a file imports from."""
    for module in imported_modules(path):
        first, _, rest = module.partition(".")
        if first == "megatron_dasd" and rest and not rest.startswith("__"):
            yield rest.split(".")[0]


SOURCES = sorted(
    path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE or path.stem[0] != "_"
)


def test_every_room_has_its_layer() -> None:
    assert {room_of(path) for path in SOURCES} == set(LEVEL)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    room = room_of(path)
    for other in own_imports(path):
        assert LEVEL[other] <= LEVEL[room], f"{room} imports {other}, which is above it"
        if room in STAGES and other in STAGES:
            assert other == room, f"stage {room} imports stage {other}: stages meet in files"


@pytest.mark.parametrize(
    "room",
    ["config", "records", "errors", "records_io", "record_batches", "artifacts", "manifests"],
)
def test_what_reads_plans_and_records_is_light(room: str) -> None:
    program = (
        f"import sys, megatron_dasd.{room} as room, importlib, pkgutil\n"
        "for module in pkgutil.iter_modules(getattr(room, '__path__', [])):\n"
        "    importlib.import_module(f'{room.__name__}.{module.name}')\n"
        "print(*({'torch', 'transformers', 'megatron'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


def test_what_is_imported_is_declared() -> None:
    requirement = re.compile(r"([A-Za-z][A-Za-z0-9-]*)(?:\[\w+\])?(?:[<>=~]=.*)?")
    strings = (
        node.value
        for node in ast.walk(ast.parse((PACKAGE.parent / "setup.py").read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
    declared = {match[1].replace("-", "_") for s in strings if (match := requirement.fullmatch(s))}
    declared |= {module for package, module in MODULES.items() if package in declared}
    found = {module.split(".")[0] for path in SOURCES for module in imported_modules(path)}
    assert found - declared - set(sys.stdlib_module_names) - {"megatron_dasd"} == set()
