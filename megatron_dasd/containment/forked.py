"""A function of this process, run in a forked child that has limits on time, memory and output.

For what is no code but may take forever, such as a chat template: a call costs some 50 microseconds
beside the function's own time, and needs no walls.
"""

import fcntl
import gc
import os
import resource
import signal
import socket
import threading
import warnings
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from megatron_dasd.containment.protocol import DONE, FAILED, REPLY, Failure

_REQUEST_SIZE = 8
_SOCKET = 3
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""What stops a job is for the process that uses the child, whose end ends the child too."""


class ForkedFunction:
    """A function from bytes to bytes whose calls run one after the other in one child.

    The child is forked at the first call, and again after a call that went beyond a limit.  It ends
    with the process that made it, and with this object.  Several threads may call.
    """

    def __init__(
        self,
        work: Callable[[bytes], bytes],
        cpu_seconds: float = 2.0,
        memory_bytes: int = 1 << 29,
        reply_bytes: int = 1 << 25,
    ) -> None:
        """Start nothing yet.

        Args:
            work: runs in the child; what it raises becomes a failure.
            cpu_seconds: of one call; the processor's time, so that a busy machine changes nothing.
            memory_bytes: address space that the child may have beyond this process's.
            reply_bytes: most that a call may return.
        """
        self._work, self._cpu_seconds = work, cpu_seconds
        self._memory_bytes, self._reply_bytes = memory_bytes, reply_bytes
        self._lock = threading.Lock()
        self._child: tuple[int, socket.socket] | None = None
        self._owner = 0
        self._end: weakref.finalize[..., ForkedFunction] | None = None

    def __call__(self, body: bytes) -> bytes | Failure:
        """Call the function; of a failure, ``kind`` is timeout, died, error or too long."""
        with self._lock:
            child, host = self._running()
            try:
                host.sendall(len(body).to_bytes(_REQUEST_SIZE) + body)
                header = _receive(host, REPLY.size)
                status, _, size = REPLY.unpack(header)
                payload = _receive(host, size)
            except (OSError, EOFError):
                return self._ended(child)
            except BaseException:  # an interruption: a late answer belongs to no later call
                self._stop()
                raise
        if status == DONE:
            return payload
        kind, _, detail = payload.decode(errors="replace").partition(":")
        return Failure(kind, detail)

    def _running(self) -> tuple[int, socket.socket]:
        if self._child is None or self._owner != os.getpid():  # a fork has another child's socket
            host, theirs = socket.socketpair()
            with warnings.catch_warnings():
                # other threads of this process wait for work, in libraries that take a fork
                warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork")
                child = os.fork()
            if child == 0:
                self._serve(theirs)
            theirs.close()
            self._child, self._owner = (child, host), os.getpid()
            self._end = weakref.finalize(self, _stop, child, host, os.getpid())
        return self._child

    def _ended(self, child: int) -> Failure:
        """Why the child ended within a call."""
        _, status = os.waitpid(child, 0)
        self._stop(waited=True)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF:
            return Failure("timeout", f"it takes more than {self._cpu_seconds:g} s")
        return Failure("died", f"its process ended with wait status {status}")

    def _stop(self, *, waited: bool = False) -> None:
        if self._end is not None and self._child is not None:
            self._end.detach()
            child, host = self._child
            host.close() if waited else _stop(child, host, self._owner)
        self._child = None

    def _serve(self, theirs: socket.socket) -> NoReturn:
        """Answer calls until the other end of the socket is closed."""
        try:
            self._be_child(theirs.fileno())
            with socket.socket(fileno=_SOCKET) as host:
                while True:
                    size = int.from_bytes(_receive(host, _REQUEST_SIZE))
                    body = _receive(host, size)
                    signal.setitimer(signal.ITIMER_PROF, self._cpu_seconds)
                    status, said = self._answer(body)
                    signal.setitimer(signal.ITIMER_PROF, 0)
                    host.sendall(REPLY.pack(status, 0, len(said)) + said)
        finally:
            os._exit(0)

    def _answer(self, body: bytes) -> tuple[bytes, bytes]:
        try:
            said = self._work(body)
        except MemoryError:
            return FAILED, b"too long:it takes more than " + _size(self._memory_bytes)
        except Exception as error:
            return FAILED, f"error:{error or type(error).__name__}"[:1000].encode(errors="replace")
        if len(said) > self._reply_bytes:
            return FAILED, b"too long:it gives more than " + _size(self._reply_bytes)
        return DONE, said

    def _be_child(self, connection: int) -> None:
        """Give up what is not needed, and take on the limits."""
        for stop in _IGNORED:
            signal.signal(stop, signal.SIG_IGN)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        connection = fcntl.fcntl(connection, fcntl.F_DUPFD, _SOCKET)
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in range(_SOCKET):
            os.dup2(nothing, number)
        os.dup2(connection, _SOCKET)
        os.closerange(_SOCKET + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        os.environ.clear()
        gc.freeze()  # the collector would otherwise copy every page of what is loaded
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        space = pages * resource.getpagesize() + self._memory_bytes
        for kind, most in (
            (resource.RLIMIT_AS, space),
            (resource.RLIMIT_FSIZE, 0),
            (resource.RLIMIT_CORE, 0),
        ):
            hard = resource.getrlimit(kind)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(kind, (most, most))


def _stop(child: int, host: socket.socket, owner: int) -> None:
    host.close()
    if owner == os.getpid():
        with suppress(OSError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _receive(connection: socket.socket, size: int) -> bytes:
    """Read exactly this many bytes.

    Raises:
        EOFError: the other end closed it before.
    """
    found = bytearray()
    while len(found) < size:
        chunk = connection.recv(min(size - len(found), 1 << 20))
        if not chunk:
            raise EOFError
        found += chunk
    return bytes(found)


def _size(num_bytes: int) -> bytes:
    return f"{num_bytes >> 20:,} MiB".encode()
