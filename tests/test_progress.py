"""Plain lines of progress: at the start, now and then, and at the end."""

import os
import pty
import subprocess
import sys
import time

import pytest

from megatron_dasd import progress as module
from megatron_dasd.printing import say
from megatron_dasd.progress import at_work, progress


class Clock:
    """Stands in for the time: it moves when told."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_lines_in_a_log(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("sampling", total=1200, unit="responses") as bar:
        for _ in range(5):
            clock.now += 4
            bar.advance(40, note="9 tok/s")
        clock.now += 10
        bar.advance(1000)
    assert capsys.readouterr().out.splitlines() == [
        "sampling: 0/1,200 responses",
        "sampling: 120/1,200 responses (10%), 0:01:48 left, 10 responses/s, 9 tok/s",
        "sampling: 1,200/1,200 responses (100%), 0:00:00 left, 40 responses/s, 9 tok/s",
        "sampling: done: 1,200/1,200 responses in 30.0 s, 40 responses/s, 9 tok/s",
    ]


def test_the_first_units_of_many_give_no_time_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("sampling", total=1000, unit="responses") as bar:
        clock.now += 12
        bar.advance(1)
        clock.now += 12
        bar.advance(9)
    assert capsys.readouterr().out.splitlines()[1:3] == [
        "sampling: 1/1,000 responses (0%), 0:00:12 so far, 0.0833 responses/s",
        "sampling: 10/1,000 responses (1%), 0:22:00 left, 0.417 responses/s",
    ]


def test_what_was_done_before_is_no_speed(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("training", total=100, unit="steps", done=80) as bar:
        clock.now += 10
        bar.advance(10)
    assert capsys.readouterr().out.splitlines() == [
        "training: 80/100 steps",
        "training: 90/100 steps (90%), 0:00:10 so far, 1 steps/s",
        "training: done: 90/100 steps in 10.0 s, 1 steps/s",
    ]


def test_the_start_of_the_work_is_no_part_of_the_time_left(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("sampling", total=110, unit="responses") as bar:
        clock.now += 90  # the model is loaded
        bar.advance(10)
        clock.now += 10
        bar.advance(10)
    assert capsys.readouterr().out.splitlines()[1:] == [
        "sampling: 10/110 responses (9%), 0:01:30 so far, 0.111 responses/s",
        "sampling: 20/110 responses (18%), 0:01:30 left, 0.2 responses/s",
        "sampling: done: 20/110 responses in 100.0 s, 0.2 responses/s",
    ]


def test_work_that_fails_says_how_far_it_came(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        with progress("scoring", total=4, unit="parts") as bar:
            clock.now += 2
            bar.advance()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == "scoring: stopped at 1/4 parts in 2.0 s, 0.5 parts/s"


def test_no_work_at_all(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with progress("sampling", total=0, unit="responses") as bar:
        clock.now += 20
        bar.advance(0)
    assert "sampling: 0/0 responses (100%)" in capsys.readouterr().out


def test_silence_is_broken(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SILENT_SECONDS", 0.15)
    out = ""

    def wait_for(line: str) -> None:
        nonlocal out
        while line not in out:  # the test's timeout ends it
            time.sleep(0.01)
            out += capsys.readouterr().out

    with at_work("loading"):
        wait_for("loading: 0:00:00 so far\n")
        with progress("sampling", total=4, unit="responses") as bar:
            bar.advance()
            wait_for("sampling: 1/4 responses (25%), 0:00:00 so far, ")
        assert out.count("loading") == 1
        out = ""
        wait_for("loading: 0:00:00 so far\n")


def test_work_that_prints_enough_gets_no_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SILENT_SECONDS", 0.75)
    with at_work("loading"):
        for _ in range(10):
            time.sleep(0.1)
            say("step")
    assert capsys.readouterr().out == "step\n" * 10


def on_a_terminal(program: str) -> bytes:
    """What a program prints there."""
    main, terminal = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "120"}
    command = [sys.executable, "-c", program]
    subprocess.run(command, stdout=terminal, stderr=terminal, env=environment, check=True)
    os.close(terminal)
    shown = b""
    while True:
        try:
            shown += os.read(main, 65536)
        except OSError:  # the other side is closed
            return shown


def test_a_bar_on_a_terminal() -> None:
    shown = on_a_terminal(
        "from megatron_dasd.progress import progress\n"
        "with progress('sampling', total=3, unit='responses', done=1) as bar:\n"
        "    bar.advance(2, note='loss 1.5')\n"
    )
    assert "━".encode() in shown
    assert b"3/3" in shown
    assert b"loss 1.5" in shown


def test_a_spinner_with_a_bar_below_on_a_terminal() -> None:
    shown = on_a_terminal(
        "from megatron_dasd.progress import at_work, progress\n"
        "from megatron_dasd.printing import say\n"
        "with at_work('stage one'):\n"
        "    say('a line above')\n"
        "    with progress('sampling', total=3, unit='responses') as bar:\n"
        "        bar.advance(3)\n"
    )
    for text in (b"stage one", b"0:00:00", b"a line above", b"3/3", b"took 0:00:00"):
        assert text in shown
