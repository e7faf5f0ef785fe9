"""The trusted half of a worker: imports the task once, and forks a child for every request.

Runs inside the walls, in an interpreter without an environment.  The child holds no descriptor but
its own pipe, so that what it runs can answer for its own request only.
"""

import ctypes
import gc
import importlib
import os
import resource
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import msgspec

from megatron_dasd.containment.protocol import (
    DONE,
    FAILED,
    PREPARE,
    REPLY,
    REQUEST,
    Failure,
    Orders,
)

Work = Callable[[bytes], bytes]

NOBODY = 65534
_RESERVE_SECONDS = 0.5
"""Left of the host's deadline for the answer's way back."""
_PIPE = 3
_SET_PARENT_DEATH_SIGNAL, _SET_DUMPABLE, _SET_SECCOMP, _SET_NO_NEW_PRIVILEGES = 1, 4, 22, 38
_SECCOMP_FILTER = 2
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Serve requests that arrive on standard input, a socket, until the host closes it."""
    orders = msgspec.json.decode(sys.argv[1], type=Orders)
    for name in _ONE_THREAD:  # threads do not survive a fork
        os.environ[name] = "1"
    host = socket.socket(fileno=os.dup(0))
    nothing = os.open("/dev/null", os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    module, _, function = orders.task.partition(":")
    prepare: Callable[[str], Work] = getattr(importlib.import_module(module), function)
    _prctl(_SET_DUMPABLE, 0)  # a child of the same user cannot look into this process
    os.dup2(nothing, 2)
    os.close(nothing)
    host.sendall(REPLY.pack(DONE, 0, 0))
    _serve(host, prepare, orders)


def _serve(host: socket.socket, prepare: Callable[[str], Work], orders: Orders) -> None:
    ready: dict[str, Work] = {}
    while header := host.recv(REQUEST.size, socket.MSG_WAITALL):
        kind, key_size, body_size = REQUEST.unpack(header)
        key = host.recv(key_size, socket.MSG_WAITALL).decode()
        body = host.recv(body_size, socket.MSG_WAITALL)
        outcome: bytes | Failure
        if kind == PREPARE:
            outcome = _prepare(ready, key, prepare)
        else:
            outcome = run_in_child(ready[key], body, orders)
        failed = isinstance(outcome, Failure)
        payload = msgspec.json.encode(outcome) if isinstance(outcome, Failure) else outcome
        replace = int(orders.folder is not None and not _emptied(orders.folder))
        status = FAILED if failed else DONE
        host.sendall(REPLY.pack(status, replace, len(payload)) + payload)


def _prepare(ready: dict[str, Work], key: str, prepare: Callable[[str], Work]) -> bytes | Failure:
    try:
        ready[key] = prepare(key)
    except ValueError as error:  # the task's refusal
        return Failure("error", str(error)[:1000])
    except Exception as error:
        return Failure("error", f"{type(error).__name__}: {error}"[:1000])
    gc.collect()
    gc.freeze()  # a child's collector would otherwise copy every page of what is loaded
    return b""


def run_in_child(work: Work, body: bytes, orders: Orders) -> bytes | Failure:
    """Give a request to a child of its own and wait for what it writes, within the limits."""
    ends = time.monotonic() + max(orders.limits.seconds - _RESERVE_SECONDS, 0.1)
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        _be_child(work, body, orders, send)
    os.close(send)
    try:
        said, failure = _read(receive, ends, orders.limits.reply_bytes)
    finally:
        os.close(receive)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    if failure is not None:
        return failure
    if said[:1] == DONE:
        return said[1:]
    if said[:1] == FAILED:
        return Failure("error", said[1:].decode(errors="replace"))
    return Failure("died", _how_it_ended(status))


def _read(receive: int, ends: float, most: int) -> tuple[bytes, Failure | None]:
    said = bytearray()
    poll = select.poll()
    poll.register(receive, select.POLLIN)
    while True:
        left = ends - time.monotonic()
        if left <= 0 or not poll.poll(left * 1000):
            return b"", Failure("timeout", "no answer within the limit")
        chunk = os.read(receive, 1 << 16)
        said += chunk
        if not chunk:
            return bytes(said), None
        if len(said) > most + 1:
            return b"", Failure("too long", f"an answer of more than {most:,} bytes")


def _how_it_ended(status: int) -> str:
    if os.WIFSIGNALED(status):
        # the warden's own SIGKILL also hits a child that has only closed its pipe
        return f"ended by signal {os.WTERMSIG(status)} without an answer"
    return f"ended with status {os.WEXITSTATUS(status)} without an answer"


def _be_child(work: Work, body: bytes, orders: Orders, send: int) -> NoReturn:
    """Give up what is not needed, do the work, write what came of it, and end."""
    try:
        os.dup2(send, _PIPE)
        os.closerange(_PIPE + 1, 1 << 16)
        os.environ.clear()
        gc.disable()  # it lives for one answer, and within a limit on memory
        _restrict(orders)
        try:
            said = DONE + work(body)
        except BaseException as error:
            said = FAILED + f"{type(error).__name__}: {error}"[:1000].encode(errors="replace")
        while said:
            said = said[os.write(_PIPE, said) :]
    finally:
        os._exit(0)


def _restrict(orders: Orders) -> None:
    limits = orders.limits
    cpu_seconds = int(limits.seconds) + 1
    for kind, most in (
        (resource.RLIMIT_CPU, cpu_seconds),
        (resource.RLIMIT_AS, limits.memory_bytes),
        (resource.RLIMIT_FSIZE, limits.file_bytes),
        (resource.RLIMIT_NOFILE, limits.open_files),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_NPROC, 0),  # no further process
    ):
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            most = min(most, hard)
        resource.setrlimit(kind, (most, most))
    if orders.drop_user:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    _prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    _prctl(_SET_DUMPABLE, 0)
    _prctl(_SET_NO_NEW_PRIVILEGES, 1)
    if orders.system_calls:
        program = _Program(len(orders.system_calls) // 8, orders.system_calls)
        _prctl(_SET_SECCOMP, _SECCOMP_FILTER, ctypes.addressof(program))


def _prctl(option: int, value: int, pointer: int = 0) -> None:
    arguments = (ctypes.c_ulong(given) for given in (value, pointer, 0, 0))
    if _libc.prctl(option, *arguments) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def _emptied(folder: str) -> bool:
    """Remove what a child left in its folder; whether nothing is left."""
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            Path(entry.path).unlink()
    return not any(Path(folder).iterdir())
