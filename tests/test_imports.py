"""Imports go one way, from the pipeline down to the records, and light commands stay light.

A string that names a module of the package is an import too: the module is started by it.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from megatron_dasd.config.stages import stage_kinds

ROOT = Path(__file__).parents[1]
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
    {
        "errors",
        "printing",
        "paths",
        "json_values",
        "last_net",
        "records",
        "config",
        "seeds",
        "arrays",
        "shipped",
    },
    {
        "records_io",
        "record_batches",
        "artifacts",
        "manifests",
        "replaced",
        "prompt_ids",
        "json_rows",
        "arrow_rows",
        "progress",
        "device",
        "containment",
        "verification",
        "command_line",
        "workers",
    },
    {
        "benchmarks",
        "tasks",
        "text",
        "pages",
        "engines",
        "data",
        "losses",
        "models",
        "checkpoint",
        "precision",
    },
    STAGES,
    {"pipeline"},
    {"cluster", "planning"},
    {"selftest"},
    {"api", "commands"},
]
"""From the lowest up; a room imports from its own layer and those below, a stage from no other."""
MODULES = {
    "jinja2": "markupsafe",
    "megatron_core": "megatron",
    "nvidia_dali_cuda130": "nvidia",
    "pyyaml": "yaml",
}
"""Modules by the package that brings them, where the names differ."""
HEAVY = {"torch", "transformers", "megatron"}
LIGHT_ROOMS = [
    "artifacts",
    "cluster",
    "config",
    "errors",
    "last_net",
    "manifests",
    "pages",
    "paths",
    "planning",
    "printing",
    "progress",
    "record_batches",
    "records",
    "records_io",
    "seeds",
]
"""Rooms of which no module loads what computes with models."""
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


def named_modules(path: Path) -> Iterator[str]:
    """Modules of this package that strings of a file name, but for those of stage functions."""
    tree = ast.parse(path.read_text())
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    stages = [call for call in calls if ast.unparse(call.func) == "Stage"]
    stage_modules = {name for stage in stages for name in strings(stage)}
    yield from (
        name
        for name in strings(tree)
        if re.fullmatch(r"megatron_dasd(\.\w+)+", name) and name not in stage_modules
    )


def strings(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def own_imports(path: Path) -> Iterator[str]:
    """Rooms of this package that a file imports from, or starts modules of."""
    for module in [*imported_modules(path), *named_modules(path)]:
        first, _, rest = module.partition(".")
        if first == "megatron_dasd" and rest and not rest.startswith("__"):
            yield rest.split(".")[0]


COMMANDS = sorted((ROOT / "tools").glob("*.py"))
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


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_named_by_a_string_exists(path: Path) -> None:
    for name in named_modules(path):
        assert find_spec(name) is not None, f"{path}: {name} does not exist"


@pytest.mark.parametrize("kind", stage_kinds())
def test_a_stage_function_is_below_the_pipeline_that_runs_it(kind: str) -> None:
    module = stage_kinds()[kind].stage.module
    assert LEVEL[module.split(".")[1]] < LEVEL["pipeline"]


@pytest.mark.parametrize("room", LIGHT_ROOMS)
def test_light_rooms(room: str) -> None:
    program = (
        f"import sys, megatron_dasd.{room} as room, importlib, pkgutil\n"
        "for module in pkgutil.iter_modules(getattr(room, '__path__', [])):\n"
        "    importlib.import_module(f'{room.__name__}.{module.name}')\n"
        f"print(*({HEAVY} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""


DASD = [
    "",
    "run",
    "stage",
    "stage select_das",
    "stage train",
    "train",
    "plan",
    "submit",
    "status",
    "inspect",
    "doctor",
    "convert",
    "judges",
    "judges export",
    "judges compare",
    "convert import",
    "convert export",
    "convert verify",
    "init",
    "settings",
]
"""The commands of ``dasd``; every kind of stage is made by the same function."""


HELP = """
import runpy, sys

def heavy():
    found = {watched} & set(sys.modules)
    # typer imports pydantic's package, but none of its models
    return sorted(found | ({{'pydantic'}} if 'pydantic.main' in sys.modules else set()))

for script, *arguments in {commands}:
    sys.argv = [script, *arguments, '--help']
    sys.path.insert(0, {tools!r})
    try:
        runpy.run_path(script, run_name='__main__')
        end = None
    except SystemExit as ended:
        end = ended.code
    print('END', script, *arguments, end, *heavy(), flush=True)
"""


def test_help_loads_nothing_that_the_command_line_does_not_need() -> None:
    watched = HEAVY | {"numpy", "pyarrow", "rich"}
    dasd = str(PACKAGE / "commands" / "__main__.py")
    commands = [[str(tool)] for tool in COMMANDS] + [[dasd, *name.split()] for name in DASD]
    program = HELP.format(watched=watched, commands=commands, tools=str(ROOT / "tools"))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    ends = [line for line in lines if line.startswith("END ")]
    assert ends == [f"END {' '.join(command)} 0" for command in commands]
    assert sum("usage: " in line.lower() for line in lines) == len(commands)
    # a list of choices, which argparse writes for some programs, cannot be broken
    assert [one for one in lines if len(one) > 80 and "{" not in one and one not in ends] == []


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
