"""Grader ``code``: the program of an answer, run on its tests' inputs in a contained worker.

A worker is given the program and the inputs, and returns what came out; the host compares.  So an
answer never meets the outputs that are expected of it.  One child runs all inputs of a request, one
after the other, each within its own limit of processor time.
"""

import builtins
import io
import json
import math
import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from typing import IO, Literal

import msgspec

from megatron_dasd.benchmarks.code_tests import CodeTests, is_expected
from megatron_dasd.containment.protocol import Limits
from megatron_dasd.evaluation.grading.base import Check, Grader

TASK = "megatron_dasd.evaluation.grading.programs:prepare"
LIMITS = Limits(
    seconds=300.0,
    memory_bytes=4 << 30,
    request_bytes=512 << 20,
    reply_bytes=32 << 20,
)
"""Of one program on all its inputs; a test's own limit is in the request."""
_FENCED = re.compile(
    r"```[ \t]*(?:python[0-9.]*|py)?[ \t]*\r?\n(.*?)```", re.DOTALL | re.IGNORECASE
)
# fmt: off
_USUAL = (
    "abc", "array", "bisect", "cmath", "collections", "contextlib", "copy", "dataclasses",
    "datetime", "decimal", "enum", "fractions", "functools", "heapq", "io", "itertools", "json",
    "math", "numpy", "operator", "queue", "random", "re", "statistics", "string", "sys",
    "textwrap", "time", "typing",
)
# fmt: on
"""Modules that are loaded before any answer: behind some walls no file can be opened later."""
_STARRED = (
    "typing",
    "collections",
    "heapq",
    "bisect",
    "math",
    "itertools",
    "functools",
    "operator",
)
"""Modules whose names a function may use without importing them, as where it was asked for."""
_RECURSION = 50_000
_GRACE_SECONDS = 1.0
"""Until a program is killed that goes on beyond its limit."""

Outcome = Literal["ran", "time limit", "error"]


class CodeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How programs are run, and for a question of one's own, its tests."""

    seconds: float = 6.0
    """Processor time of one test, in seconds."""
    tests: list[dict[str, str]] = []
    """Rows ``{input, output, testtype}``; those of a benchmark are kept elsewhere."""
    func_name: str = ""


class Job(msgspec.Struct, frozen=True):
    """What a worker is given."""

    code: str
    kind: Literal["stdin", "functional"]
    function: str
    inputs: list[str]
    seconds: float


class Ran(msgspec.Struct, frozen=True):
    """What came of one input."""

    outcome: Outcome
    output: str = ""
    """What was printed, or the returned value as JSON; of an error, its kind."""


def code_of(answer: str) -> str | None:
    """The last fenced block of an answer; None: it has none."""
    found = _FENCED.findall(answer)
    return str(found[-1]) if found else None


def encode(code: str, tests: CodeTests, first: int, last: int, seconds: float) -> bytes:
    """A request's body: the inputs from ``first`` to before ``last``."""
    inputs = tests.inputs[first:last]
    return msgspec.json.encode(Job(code, tests.kind, tests.function, inputs, seconds))


def first_failure(reply: bytes, tests: CodeTests, first: int, last: int) -> str | None:
    """Why a program does not pass these tests; None: it passes.

    Raises:
        ValueError: the reply is not what a worker says; hostile code can say anything.
    """
    ran = msgspec.json.decode(reply, type=list[Ran])
    for number, one in enumerate(ran[: last - first], start=first):
        if one.outcome != "ran":
            return one.outcome
        if not is_expected(tests.kind, one.output, tests.outputs[number]):
            return "wrong output"
    return None if len(ran) == last - first else "error"


class _OverTimeError(BaseException):
    """The limit of one test; no program's ``except Exception`` catches it."""


def prepare(key: str) -> Callable[[bytes], bytes]:
    """Load what programs usually import; the task of a contained worker."""
    loaded = [name for name in _USUAL if _is_loaded(name)]
    starred: dict[str, object] = {}
    for name in _STARRED:
        exec(f"from {name} import *", starred)  # the interpreter's own modules
    starred |= {name: sys.modules[name] for name in loaded}

    def run(body: bytes) -> bytes:
        job = msgspec.json.decode(body, type=Job)
        sys.setrecursionlimit(_RECURSION)
        _run_threads_at_once()
        signal.signal(signal.SIGPROF, _LIMIT)
        found: list[Ran] = []
        for given in job.inputs:
            found.append(_run_one(job, given, starred))
            if found[-1].outcome != "ran":
                break
        return msgspec.json.encode(found)

    return run


def _run_threads_at_once() -> None:
    """Let a thread's work be done where it is started: programs use threads for deep recursion, and
    none can be started here."""
    threading.Thread.start = threading.Thread.run  # type: ignore[method-assign]
    threading.Thread.join = lambda self, timeout=None: None  # type: ignore[method-assign]


def _is_loaded(name: str) -> bool:
    try:
        import_module(name)
    except ImportError:
        return False
    return True


class _Limit:
    """The limit of the test that runs."""

    def __init__(self) -> None:
        self._reached = False

    def start(self, seconds: float) -> None:
        """Begin a test; zero ends the last one."""
        self._reached = False
        signal.setitimer(signal.ITIMER_PROF, seconds, _GRACE_SECONDS if seconds else 0)

    def __call__(self, number: int, frame: object) -> None:
        if self._reached:  # the program has caught the first one
            os._exit(1)
        self._reached = True
        raise _OverTimeError


_LIMIT = _Limit()


def _run_one(job: Job, given: str, starred: dict[str, object]) -> Ran:
    _LIMIT.start(job.seconds)
    try:
        if job.kind == "stdin":
            return Ran("ran", _printed(job.code, given))
        return Ran("ran", _returned(job, given, starred))
    except _OverTimeError:
        return Ran("time limit")
    except MemoryError:
        return Ran("error", "MemoryError")
    except BaseException as error:
        return Ran("error", type(error).__name__)
    finally:
        _LIMIT.start(0)


def _printed(code: str, given: str) -> str:
    """What a program prints that reads ``given`` from standard input."""
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding="utf-8", write_through=True)
    with _standard_input(given), redirect_stdout(out):
        try:
            exec(compile(code, "answer", "exec"), {"__name__": "__main__"})
        except SystemExit as ended:
            if ended.code not in (None, 0):
                raise
        finally:
            out.flush()
    return raw.getvalue().decode(errors="replace")


@contextmanager
def _standard_input(given: str) -> Iterator[None]:
    """Standard input as a text, by any of its names; the descriptor itself is closed to files."""
    before, opened = sys.stdin, builtins.open

    def open_input(file: object, mode: str = "r", *rest: object, **more: object) -> IO[str]:
        if file in (0, "/dev/stdin"):
            return io.TextIOWrapper(io.BytesIO(given.encode()), encoding="utf-8")
        return opened(file, mode, *rest, **more)  # type: ignore[call-overload,no-any-return]

    sys.stdin = io.TextIOWrapper(io.BytesIO(given.encode()), encoding="utf-8")
    builtins.open = open_input  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdin, builtins.open = before, opened


def _returned(job: Job, given: str, starred: dict[str, object]) -> str:
    """What the function returns, as JSON; what it prints is left out."""
    arguments = [json.loads(line) for line in given.split("\n")]
    scope = dict(starred) | {"__name__": "answer"}
    with redirect_stdout(io.StringIO()):
        exec(compile(job.code, "answer", "exec"), scope)
        holder = scope.get("Solution")
        if isinstance(holder, type):
            function = getattr(holder(), job.function)
        else:
            function = scope[job.function]
        assert callable(function)
        return json.dumps(_plain(function(*arguments)))


def _plain(value: object) -> object:
    """A value with numbers of other packages as Python's."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if hasattr(value, "tolist"):
        return value.tolist()
    return value


def _refused(argument: str) -> Check:
    raise ValueError("code is graded against tests, not against a reference answer")


CODE = Grader(
    name="code",
    description="A program that passes all of its tests.",
    make=_refused,
    settings=CodeSettings,
    evaluates_code=True,
)
