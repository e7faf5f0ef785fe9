"""Every command that the documentation shows is one that the program takes.

The flags of each are parsed by the command itself.  What is quick is run, at 80 columns; of what is
not, it says which test runs it, or why none does.
"""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from megatron_dasd.cluster.cli import submit
from megatron_dasd.command_line import start_function
from megatron_dasd.commands.app import _app, main
from megatron_dasd.commands.doctor import doctor
from megatron_dasd.data.inspect_cli import inspect
from megatron_dasd.manifests import MODEL
from megatron_dasd.pipeline.cli import run
from megatron_dasd.pipeline.stage_commands import stage_app
from megatron_dasd.planning.cli import plan

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(?:\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
OURS = re.compile(r"(?:[A-Z_]+=\S* )*(?:\.venv/bin/)?(?:python )?(?:dasd|tools/\w+\.py)\b")
PROGRAMS = ("make", "git", "cp", "vllm", "torchrun", "mpiexec", "python", "pip")
NOT_OURS = {
    "make": "the Makefile's targets; tests/test_structure.py and CI run them",
    "git clone": "needs the network",
    "cp slurm/env.example": "edits the checkout",
    "python -m sglang.launch_server": "a server with GPUs",
    "vllm serve": "a server with GPUs; tests/test_vllm_server.py starts one on the CPU",
    "torchrun": "tests/training/test_by_hand.py runs it",
    "mpiexec": "tests/data/test_mpi.py runs it",
    "PYTHONPATH=. python": "needs the network",
    "NVTE_BUILD": "builds Transformer Engine with nvcc",
    ".venv/bin/python -m": "needs a GPU, or its result",
}
"""Shown commands of other programs, by how they begin, and why this test does not run them."""
FUNCTIONS = {
    "run_pipeline": run,
    "submit": submit,
    "plan": plan,
    "inspect_data": inspect,
    "doctor": doctor,
}
"""What the scripts are that do not run stages of one kind."""
QUICK = (" init ", "--show-graph", "--dry-run")
"""Commands with one of these are run here, beside ``mine.yaml``.  The others run for minutes, or
read what those write; tests/pipeline, tests/commands and tests/planning run them on small models.
"""
README_YAML = re.findall(r"^```yaml\n(.*?)^```", PAGES[0].read_text(), re.MULTILINE | re.DOTALL)[0]
USAGE_ERROR = typer.BadParameter.__bases__[0]


def shown_lines() -> Iterator[tuple[str, str]]:
    """The page and the text of each line in a code block, continued lines joined."""
    for page in PAGES:
        for block in BLOCK.findall(page.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                yield page.stem, line.strip()


COMMANDS = list(dict.fromkeys(pair for pair in shown_lines() if OURS.match(pair[1])))
OTHERS = [
    line
    for _, line in shown_lines()
    if not OURS.match(line)
    and re.match(rf"(?:[A-Z_]+=\S* )*(?:\S*/)?(?:{'|'.join(PROGRAMS)})\s", line)
]


def words(line: str) -> list[str]:
    """The words of a command, without its comment, its redirection and what is optional."""
    plain = re.sub(r"\s#.*|\s->.*|\s>.*", "", line)
    plain = re.sub(r"\.\.\.$|\[[A-Z-].*?\](?=\s|$)", "", plain)
    # an explanation may stand beside it
    plain = re.sub(r"\s{2,}[A-Z][a-z].*|(?<=\s)checkpoint of any.*", "", plain)
    given = shlex.split(plain)
    while "=" in given[0]:
        given.pop(0)
    return [word for word in given if word not in {"python", ".venv/bin/python"}]


def parse(line: str) -> None:
    """Let the command parse the flags, as it would before it runs.

    Raises:
        USAGE_ERROR: it does not take them.
    """
    program, *given = words(line)
    if program.endswith("dasd"):
        command = typer.main.get_command(_app(given))
    elif (name := Path(program).stem) in FUNCTIONS:
        app = typer.Typer()
        app.command()(FUNCTIONS[name])
        command = typer.main.get_command(app)
    else:
        kind = re.search(r'run_kind\("(\w+)"\)', (ROOT / "tools" / f"{name}.py").read_text())
        assert kind, f"{program}: unknown script"
        command = typer.main.get_command(stage_app(kind[1]))
    while isinstance(command, TyperGroup):
        name, *given = given
        found = command.get_command(typer.Context(command), name)
        assert found, f"{name}: no such command"
        command = found
    command.make_context(program, list(given))


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=lambda text: text[:60])
def test_flags_are_taken(page: str, line: str) -> None:
    try:
        parse(line)
    except USAGE_ERROR as error:
        pytest.fail(f"{page}.md: {line}: {error}")


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, random_model_dir: Path) -> None:
    """What the shown commands name, in the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "models").mkdir()
    for name in ("teacher", "student", "models/teacher", "models/student"):
        Path(name).symlink_to(random_model_dir / MODEL)
    row = {"prompt_id": "q1", "messages": [{"role": "user", "content": "1 + 1?"}]}
    Path("prompts.jsonl").write_text(json.dumps(row) + "\n")
    Path("mine.yaml").write_text(README_YAML)
    Path("PIPELINE.yaml").write_text(README_YAML)


@pytest.mark.usefixtures("mine")
def test_quick_commands_run_at_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    ran = [line for _, line in COMMANDS if any(mark in line for mark in QUICK)]
    assert len(ran) >= 4
    for line in ran:
        program, *given = words(line)
        function = None if program.endswith("dasd") else FUNCTIONS[Path(program).stem]
        status = start_function(function, given, program) if function else main(given)
        printed = capsys.readouterr()
        assert status == 0, f"{line}: {printed.err}"
        assert "Traceback" not in printed.out + printed.err


@pytest.mark.parametrize("command", ["", "run", "plan", "submit", "status", "inspect", "init"])
def test_help_fits_80_columns(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*command.split(), "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) > 5
    assert [line for line in lines if len(line) > 80] == []


def test_other_programs_say_why_they_are_not_run() -> None:
    unmarked = [line for line in OTHERS if not line.startswith(tuple(NOT_OURS))]
    assert unmarked == []
    stale = [mark for mark in NOT_OURS if not any(line.startswith(mark) for line in OTHERS)]
    assert stale == []
