"""A function in a forked child: its limits, its end, and that of the process that calls it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from megatron_dasd.containment.forked import ForkedFunction
from megatron_dasd.containment.protocol import Failure


def number_of_process(_: bytes) -> bytes:
    return str(os.getpid()).encode()


def fail(_: bytes) -> bytes:
    raise ValueError("not like this")


def spin(_: bytes) -> bytes:
    while True:
        pass


def too_large(_: bytes) -> bytes:
    return bytes(1 << 40)


def kill_itself(_: bytes) -> bytes:
    os.kill(os.getpid(), signal.SIGKILL)
    return b""


def is_running(number: int) -> bool:
    """Nobody may have waited for an orphan that has ended."""
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_child_answers_many_calls_of_any_size_and_ends_with_the_object() -> None:
    echo = ForkedFunction(lambda body: body)
    for body in (b"", b"a", os.urandom(5 << 20)):
        assert echo(body) == body
    forked = ForkedFunction(number_of_process)
    child = forked(b"")
    assert child == forked(b"") != str(os.getpid()).encode()
    assert isinstance(child, bytes)
    del forked
    assert not psutil.pid_exists(int(child))


@pytest.mark.parametrize(
    ("work", "failure"),
    [
        (fail, Failure("error", "not like this")),
        (spin, Failure("timeout", "it takes more than 0.2 s")),
        (too_large, Failure("too long", "it takes more than 512 MiB")),
        (lambda _: bytes(2 << 20), Failure("too long", "it gives more than 1 MiB")),
        (kill_itself, Failure("died", "its process ended with wait status 9")),
    ],
)
def test_what_goes_beyond_a_limit_is_a_failure(
    work: Callable[[bytes], bytes], failure: Failure
) -> None:
    forked = ForkedFunction(work, cpu_seconds=0.2, reply_bytes=1 << 20)
    assert [forked(b""), forked(b"")] == [failure, failure]


def test_threads_and_forks_call_it() -> None:
    echo = ForkedFunction(lambda body: body)
    bodies = [str(number).encode() * 1000 for number in range(200)]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(echo, bodies)) == bodies
    fork = os.fork()
    if fork == 0:
        os._exit(0 if [echo(body) for body in bodies] == bodies else 1)
    assert [echo(body) for body in bodies] == bodies
    assert os.waitpid(fork, 0)[1] == 0


def test_the_child_ends_with_a_killed_process() -> None:
    program = (
        "import os, time; from megatron_dasd.containment.forked import ForkedFunction\n"
        "print(ForkedFunction(lambda _: b'%d' % os.getpid())(b'').decode(), flush=True)\n"
        "forked = ForkedFunction(lambda _: b'%d' % os.getpid())\n"
        "print(forked(b'').decode(), flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first, second = int(process.stdout.readline()), int(process.stdout.readline())
        assert not psutil.pid_exists(first)
        assert psutil.pid_exists(second)
        process.kill()
        process.stdout.read()
    ends = time.monotonic() + 60
    while is_running(second) and time.monotonic() < ends:
        time.sleep(0.01)
    assert not is_running(second)
