"""How a program ends on an error: one line, its exit status, and a log where it is unexpected."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_dasd.errors import UnexpectedError, UserError
from megatron_dasd.last_net import LOG, guard, working_on
from megatron_dasd.printing import one_line, shown


def raising(error: BaseException) -> Callable[[], None]:
    def run() -> None:
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (UserError("p.yaml: no\nstage \x1b[2J"), 2, "error: p.yaml: no stage \\x1b[2J"),
        (UnexpectedError("rank 0"), 70, "error: rank 0"),
        (OSError(errno.ENOSPC, "full", "x"), 2, "error: x: No space left on device; fix it"),
        (KeyError("a"), 70, "error: unexpected KeyError: 'a' (traceback: "),
        (RecursionError(), 70, "error: unexpected RecursionError (traceback: "),
        (KeyboardInterrupt(), 130, "stopped; the same command goes on from here"),
    ],
)
def test_every_end_is_one_line(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert guard(raising(error)) == status
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(line)


def test_a_full_disk_is_found_behind_a_library_s_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run() -> None:
        try:
            raise OSError(errno.ENOSPC, "full")
        except OSError as error:
            raise RuntimeError("cannot write") from error

    assert guard(run) == 2
    assert "No space left on device" in capsys.readouterr().err


def test_the_log_of_a_stage_holds_the_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data.bin"
    data.write_bytes(b"")

    def read(path: Path) -> int:
        return path.read_bytes()[0]

    def run() -> None:
        with working_on("score", tmp_path / "logs"):
            read(data)

    assert guard(run) == 70
    (told,) = capsys.readouterr().err.splitlines()
    log = tmp_path / "logs" / LOG
    assert told.startswith(f"error: stage score: {data}: unexpected IndexError: ")
    assert str(log) in told
    assert "in read" in log.read_text()


def test_a_pipe_that_is_closed_early_is_one_line() -> None:
    program = (
        "import sys; from megatron_dasd.last_net import guard\n"
        "def run():\n    for _ in range(100000): print('line')\n"
        "sys.exit(guard(run))"
    )
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-c", program],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert done.returncode == 141
    assert done.stderr.splitlines() == [
        "error: standard output was closed early; the same command goes on from here"
    ]


def test_control_characters_are_shown() -> None:
    assert shown("a\x1b[2J\x07\r\u202e\ud800\tb\n") == "a\\x1b[2J\\x07\\x0d\\u202e\\ud800\tb\n"
    assert one_line("a\nb\x85c") == "a b c"


def test_ctrl_c_that_a_library_turns_into_its_own_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as interrupted:
            raise ImportError("initialisation failed") from interrupted

    assert guard(run) == 130
    assert capsys.readouterr().err == "stopped; the same command goes on from here\n"
