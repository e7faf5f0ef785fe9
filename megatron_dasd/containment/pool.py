"""Warm workers behind walls, from the host's side: requests in, results or failures out."""

import os
import selectors
import signal
import socket
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import IO, Self

import msgspec

from megatron_dasd.containment.protocol import (
    DONE,
    PREPARE,
    REPLY,
    REQUEST,
    RUN,
    Failure,
    Limits,
    Orders,
)
from megatron_dasd.containment.walls import Walls, search_path

_MOST_WORKERS = 8
_WARDEN = (
    "import sys; sys.path[:] = sys.argv.pop().split(':'); "
    "from megatron_dasd.containment.warden import main; main()"
)

Request = tuple[str, bytes]
"""A key and a body."""
Outcome = bytes | Failure


class WorkerError(Exception):
    """A worker does not start; the message says why, in one line."""


class _Worker:
    """One worker process, and the request that it has at the moment."""

    def __init__(self, task: str, walls: Walls, limits: Limits) -> None:
        self._limits = limits
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (as long as the worker)
        self.socket, theirs = socket.socketpair()
        orders = Orders(task, limits, walls.system_calls, walls.folder, walls.drop_user)
        command = walls.command(
            _WARDEN, msgspec.json.encode(orders).decode(), ":".join(search_path())
        )
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
                env={},
                cwd="/",
                start_new_session=True,
            )
        self.socket.setblocking(False)
        self._unsent: bytes | memoryview = b""
        self._received = bytearray()
        self._prepared: set[str] = set()
        self._then: Request | None = None
        self.started = False
        self.number: int | None = None
        """Of the request that it works on."""
        self.ends = time.monotonic() + limits.prepare_seconds

    def take(self, number: int, request: Request, kind: bytes = RUN) -> None:
        """Begin a request; its key is prepared first when it is new to this worker."""
        self.number = number
        key, body = request
        if kind == RUN and key not in self._prepared:
            self._then = request
            kind, body = PREPARE, b""
        seconds = self._limits.seconds if kind == RUN else self._limits.prepare_seconds
        self.ends = time.monotonic() + seconds
        encoded = key.encode()
        # a view: what is left is not copied at every step
        self._unsent = memoryview(REQUEST.pack(kind, len(encoded), len(body)) + encoded + body)
        self._preparing = key if kind == PREPARE else None
        self.send()

    def send(self) -> None:
        """Hand over as much of the request as the socket takes."""
        try:
            while self._unsent:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
        except BlockingIOError:
            pass
        except OSError:  # it is gone, which receiving tells as well
            self._unsent = b""

    def is_alive(self) -> bool:
        """Whether its process has not ended."""
        return self._process.poll() is None

    @property
    def events(self) -> int:
        """What to wait for."""
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)

    def receive(self) -> tuple[Outcome, bool] | None:
        """The outcome, and whether the worker must be replaced; None when it is not whole yet."""
        try:
            chunk = self.socket.recv(1 << 16)
        except BlockingIOError:
            return None
        except OSError:
            chunk = b""
        if not chunk:
            return Failure("died", self._last_words()), True
        self._received += chunk
        if len(self._received) < REPLY.size:
            return None
        status, replace, size = REPLY.unpack_from(self._received)
        if size > self._limits.reply_bytes + 1024 or len(self._received) > REPLY.size + size:
            return Failure("died", "its worker broke the protocol"), True
        if len(self._received) < REPLY.size + size:
            return None
        payload = bytes(self._received[REPLY.size :])
        self._received.clear()
        outcome = payload if status == DONE else msgspec.json.decode(payload, type=Failure)
        return self._next(outcome, bool(replace))

    def _next(self, outcome: Outcome, replace: bool) -> tuple[Outcome, bool] | None:
        if not self.started:
            self.started = True
            return None
        if self._preparing is not None and not isinstance(outcome, Failure):
            self._prepared.add(self._preparing)
            if self._then is not None:
                assert self.number is not None
                request, self._then = self._then, None
                self.take(self.number, request)
                return None
        return outcome, replace

    def _last_words(self) -> str:
        """Its last line of errors; its starting can fail in many ways, later it writes none."""
        self.stop()
        self._stderr.seek(0)
        lines = self._stderr.read(1 << 16).decode(errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else "its worker ended"

    def stop(self) -> None:
        """Kill it and what it started; may be called again."""
        self.socket.close()
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class Pool:
    """Workers that stay warm; each has one request at a time.

    A task is a function ``prepare(key) -> work`` in an importable module, and ``work(body) ->
    result`` takes and gives bytes.  ``prepare`` is trusted: it runs once a worker and key, may
    import and read what it likes within the walls, and never sees a request's body.  ``work`` runs
    in a child of its own for every request.

    One thread at a time may use a pool; the process that made it must be the one that uses it.
    """

    def __init__(
        self,
        task: str,
        walls: Walls,
        limits: Limits | None = None,
        size: int | None = None,
    ) -> None:
        """Start nothing yet.

        Args:
            task: ``module:function``.
            walls: what its workers are kept behind.
            limits: of each request.
            size: number of workers; None: one for each usable core, at most eight.
        """
        self.walls = walls
        self.limits = limits or Limits()
        self._task = task
        self.size = size or min(len(os.sched_getaffinity(0)), _MOST_WORKERS)
        self._workers: list[_Worker] = []
        self._owner = os.getpid()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Kill the workers."""
        workers, self._workers = self._workers, []
        if self._owner == os.getpid():
            for worker in workers:
                worker.stop()

    def prepare(self, key: str) -> Failure | None:
        """Let one worker prepare for a key: None, or why it cannot.

        Raises:
            WorkerError: no worker starts.
        """
        [outcome] = self._exchange([(key, b"")], PREPARE)
        return outcome if isinstance(outcome, Failure) else None

    def run(self, requests: Sequence[Request]) -> list[Outcome]:
        """Results in the order of the requests, as many at a time as there are workers.

        Raises:
            WorkerError: no worker starts.
        """
        return self._exchange(requests, RUN)

    def _exchange(self, requests: Sequence[Request], kind: bytes) -> list[Outcome]:
        outcomes: dict[int, Outcome] = {}
        waiting: deque[int] = deque()
        for number, (_, body) in enumerate(requests):
            if len(body) > self.limits.request_bytes:
                detail = f"a request of more than {self.limits.request_bytes:,} bytes"
                outcomes[number] = Failure("too long", detail)
            else:
                waiting.append(number)
        try:
            while len(outcomes) < len(requests):
                self._hand_out(waiting, requests, kind)
                for worker, outcome, replace in self._wait():
                    assert worker.number is not None
                    outcomes[worker.number] = outcome
                    worker.number = None
                    if replace:
                        self._drop(worker)
        except BaseException:
            self.close()  # a worker with an unanswered request cannot be used again
            raise
        return [outcomes[number] for number in range(len(requests))]

    def _hand_out(self, waiting: deque[int], requests: Sequence[Request], kind: bytes) -> None:
        busy = sum(worker.number is not None for worker in self._workers)
        while len(self._workers) < min(self.size, busy + len(waiting)):
            self._workers.append(_Worker(self._task, self.walls, self.limits))
        for worker in self._workers:
            if worker.started and worker.number is None and not worker.is_alive():
                self._drop(worker)
                return self._hand_out(waiting, requests, kind)
            if waiting and worker.started and worker.number is None:
                number = waiting.popleft()
                worker.take(number, requests[number], kind)

    def _wait(self) -> list[tuple[_Worker, Outcome, bool]]:
        """Wait until something happens; what has come of requests since."""
        with selectors.DefaultSelector() as selector:
            active = [w for w in self._workers if w.number is not None or not w.started]
            for worker in active:
                selector.register(worker.socket, worker.events, worker)
            left = min(worker.ends for worker in active) - time.monotonic()
            ready = selector.select(max(left, 0))
        done: list[tuple[_Worker, Outcome, bool]] = []
        for key, events in ready:
            worker = key.data
            if events & selectors.EVENT_WRITE:
                worker.send()
            if events & selectors.EVENT_READ and (came := worker.receive()):
                self._check_start(worker, came[0])
                done.append((worker, *came))
        for worker in active:
            late = worker.ends <= time.monotonic()
            if late and all(worker is not other for other, _, _ in done):
                failure = Failure("timeout", "no answer within the limit")
                self._check_start(worker, failure)
                if worker.number is not None:
                    done.append((worker, failure, True))
        return done

    def _check_start(self, worker: _Worker, outcome: Outcome) -> None:
        if not worker.started and isinstance(outcome, Failure):
            raise WorkerError(f"no worker starts behind {self.walls.name}: {outcome.detail}")

    def _drop(self, worker: _Worker) -> None:
        worker.stop()
        self._workers.remove(worker)
