"""Progress of long work: a bar on a terminal, a plain line now and then in a log file.

Both give the rate and the time left.  What an earlier attempt did counts as done, not as speed; the
start of the work, before its first units are done, counts for the rate and not for the time left.

Work that counts nothing, such as the import of a library, runs under :func:`at_work`, which ends
silence.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from megatron_dasd.printing import one_line, say, silent_seconds

LINE_SECONDS = 10.0
"""At least this long between two plain lines."""
_SILENT_SECONDS = 15.0
"""After so long without a line, :func:`at_work` prints one."""
_CONSOLE = Console()
"""One for all, so that a bar can be shown below the spinner of the work that it is a part of."""
_ESTIMATE_SECONDS = 5.0
_ESTIMATE_SHARE = 0.01
"""Work of a shorter time, or a smaller share of it all, says too little about the time left."""


class Bar(Protocol):
    """What the body of a ``with progress(...)`` moves."""

    def advance(self, n: int = 1, note: str = "") -> None:
        """Count ``n`` more units as done.

        Args:
            n: units done since the last call; 0 is allowed.
            note: shown beside the figures until the next one, e.g. ``"loss 2.31"``.
        """
        ...


@contextmanager
def progress(what: str, total: int, unit: str, done: int = 0, plain: bool = False) -> Iterator[Bar]:
    """Show the progress of a piece of work on standard output.

    Args:
        what: the work, e.g. ``"sampling"``.
        total: units in all.
        unit: what is counted, in the plural, e.g. ``"responses"``.
        done: units that an earlier attempt finished.
        plain: lines also on a terminal, for a process that is not alone there.
    """
    if _CONSOLE.is_terminal and not plain:
        with _rich_progress(unit) as bars:
            yield _RichBar(bars, what, total, done)
        return
    lines = _LineBar(what, total, unit, done)
    _bars.append(lines)
    try:
        yield lines
    except BaseException:
        lines.end("stopped at")
        raise
    finally:
        _bars.remove(lines)
    lines.end("done:")


@contextmanager
def at_work(what: str, file: TextIO | None = None) -> Iterator[None]:
    """Show that work goes on, whether or not it counts anything.

    On a terminal a spinner shows the seconds since it began.  Elsewhere a line is printed whenever
    nothing else was for a while: the state of the bar that is shown, else the time since it began.

    Args:
        what: the work, e.g. ``"examining torch"``.
        file: where the lines go; None: to standard output.
    """
    if _CONSOLE.is_terminal:
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False))
        with Progress(*columns, TimeElapsedColumn(), console=_CONSOLE, transient=True) as spinner:
            spinner.add_task(one_line(what), total=None)
            yield
        return
    began, ended = time.monotonic(), threading.Event()
    thread = threading.Thread(target=_break_silence, args=(what, file, began, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _break_silence(what: str, file: TextIO | None, began: float, ended: threading.Event) -> None:
    while not ended.wait(_SILENT_SECONDS / 15):
        if silent_seconds() < _SILENT_SECONDS:
            continue
        if bars := _bars[-1:]:
            bars[0].show()
        else:
            say(f"{what}: {_clock(time.monotonic() - began)} so far")


class _RichBar:
    def __init__(self, bars: Progress, what: str, total: int, done: int) -> None:
        self._bars = bars
        self._note = ""
        self._task = bars.add_task(one_line(what), total=total, completed=done, note=self._note)

    def advance(self, n: int = 1, note: str = "") -> None:
        self._note = one_line(note) or self._note
        self._bars.update(self._task, advance=n, note=self._note)


class _RateColumn(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or (None if _is_early(task) else task.speed)
        return Text(f"{_rate(speed)} {self._unit}/s" if speed else "", style="progress.data.speed")


class _TimeColumn(ProgressColumn):
    """Time left, once it can be estimated; at the end, the time it took."""

    def render(self, task: Task) -> Text:
        elapsed = task.finished_time if task.finished else task.elapsed
        if elapsed is None:
            return Text("")
        style = "progress.remaining"
        if task.finished:
            return Text(f"took {_clock(elapsed)}", style=style)
        left = task.time_remaining
        if left is None or _is_early(task):
            return Text(f"{_clock(elapsed)} so far", style=style)
        return Text(f"{_clock(left)} left", style=style)


def _is_early(task: Task) -> bool:
    """Whether too little is done to estimate a rate."""
    early = (task.elapsed or 0.0) < _ESTIMATE_SECONDS
    return early or task.percentage < 100 * _ESTIMATE_SHARE


def _clock(seconds: float) -> str:
    """A time, e.g. ``0:01:30``."""
    return str(timedelta(seconds=round(seconds)))


def _rich_progress(unit: str) -> Progress:
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        _RateColumn(unit),
        _TimeColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=_CONSOLE,
    )


class _LineBar:
    def __init__(self, what: str, total: int, unit: str, done: int) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._done_before = self._done = done
        self._first: tuple[float, int] | None = None
        """When the first units were done, and how many were done then."""
        self._note = ""
        self._started = self._last_line = time.monotonic()
        self._print(f"{what}: {done:,}/{total:,} {unit}")

    def advance(self, n: int = 1, note: str = "") -> None:
        self._done += n
        self._note = note or self._note
        if n and self._first is None:
            self._first = time.monotonic(), self._done
        if time.monotonic() - self._last_line >= LINE_SECONDS:
            self.show()

    def show(self) -> None:
        """Print a line on how far it is."""
        self._print(self._line())

    def end(self, how: str) -> None:
        seconds = time.monotonic() - self._started
        self._print(
            f"{self._what}: {how} {self._done:,}/{self._total:,} {self._unit} "
            f"in {seconds:.1f} s{self._speed_and_note()}"
        )

    def _line(self) -> str:
        share = self._done / self._total if self._total else 1.0
        figures = f"{self._done:,}/{self._total:,} {self._unit} ({share:.0%})"
        made = self._done - self._done_before
        seconds = self._seconds_left()
        if seconds is not None and made >= _ESTIMATE_SHARE * (self._total - self._done_before):
            figures += f", {_clock(seconds)} left"
        else:
            figures += f", {_clock(time.monotonic() - self._started)} so far"
        return f"{self._what}: {figures}{self._speed_and_note()}"

    def _speed_and_note(self) -> str:
        rate = self._units_per_second()
        speed = f", {_rate(rate)} {self._unit}/s" if rate else ""
        return speed + (f", {self._note}" if self._note else "")

    def _seconds_left(self) -> float | None:
        """By the rate since the first units were done; None: no others have been done since."""
        if self._first is None or self._done == self._first[1]:
            return None
        since, done = self._first
        return (self._total - self._done) * (time.monotonic() - since) / (self._done - done)

    def _units_per_second(self) -> float:
        seconds = time.monotonic() - self._started
        return (self._done - self._done_before) / seconds if seconds > 0 else 0.0

    def _print(self, line: str) -> None:
        say(line)
        self._last_line = time.monotonic()


_bars: list[_LineBar] = []
"""Those that are shown, the innermost last."""


def _rate(per_second: float) -> str:
    """Three significant digits, thousands with commas."""
    return f"{per_second:,.0f}" if per_second >= 100 else f"{per_second:.3g}"
