"""What keeps the source readable: short functions, no import circles, few untyped values."""

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted([*(ROOT / "megatron_dasd").rglob("*.py"), *(ROOT / "tools").rglob("*.py")])
MAX_FUNCTION_LINES = 60
MAX_ANY_PER_1000_LINES = 10
MAX_UNTYPED_DICTS = 80


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(tree: ast.Module) -> set[str]:
    """Modules that a file imports, inside functions too, but for types alone."""
    found: set[str] = set()
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        waiting += ast.iter_child_nodes(node)
    return found


def test_no_modules_import_each_other() -> None:
    names = {module_name(path) for path in SOURCES}
    graph = {
        name: (imports(ast.parse(path.read_text())) & names) - {name}
        for path, name in ((path, module_name(path)) for path in SOURCES)
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_functions_are_short() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert long == []


def test_what_is_printed_cannot_steer_the_terminal() -> None:
    """Only ``printing.say`` prints: it writes control characters out."""
    bare = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        if path.name != "printing.py" and "benchmarks" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("print", "sys.stdout.write")
    ]
    assert bare == []


def test_values_are_typed() -> None:
    texts = [path.read_text() for path in SOURCES]
    num_lines = sum(text.count("\n") for text in texts)
    num_any = sum(len(re.findall(r"\bAny\b", text)) for text in texts)
    assert 1000 * num_any / num_lines < MAX_ANY_PER_1000_LINES
    assert sum(text.count("dict[str, Any]") for text in texts) < MAX_UNTYPED_DICTS
