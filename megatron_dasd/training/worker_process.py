"""A worker's process, supervised: it runs while training does, and ends with it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from megatron_dasd.device.payload import Payload, write_payload
from megatron_dasd.device.srun import STEPS
from megatron_dasd.errors import UserError
from megatron_dasd.printing import say

_LONGEST_PAUSE_SECONDS = 60.0
_WAIT_SECONDS = 0.2
_MOST_FAILURES = 2
"""After training, until it is the worker's mistake and not an accident."""


class WorkerProcess:
    """A process beside the ranks; as a context manager it runs while the body does."""

    def __init__(
        self, program: str, payload: Payload, logs: Path, name: str = "rollout_worker"
    ) -> None:
        """Start nothing yet.

        Args:
            program: module that is run with the payload's file as its argument.
            payload: what the worker is to do.
            logs: where the payload and the worker's log go.
            name: of both files.
        """
        self._program, self._payload, self._logs = program, payload, logs
        self._name, self._log = name, logs / f"{name}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._starts_at = 0.0
        self._pause_seconds = 1.0
        self._num_failures = 0

    def __enter__(self) -> Self:
        self._logs.mkdir(parents=True, exist_ok=True)
        payload = self._logs / f"{self._name}.json"
        write_payload(payload, self._payload)
        self._command = [sys.executable, "-m", self._program, str(payload)]
        self._start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._end(self._process)

    def poll(self) -> None:
        """Restart the worker if it has ended, after a pause that grows; training continues."""
        if self._process is None:
            if time.monotonic() >= self._starts_at:
                self._start()
        elif (status := self._process.poll()) is not None:
            self._end(self._process)
            self._process = None
            self._num_failures += 1
            lived = time.monotonic() - self._started
            if lived > _LONGEST_PAUSE_SECONDS:
                self._pause_seconds = 1.0
            say(
                f"    the {self._name.replace('_', ' ')} ended with status {status}: "
                f"{self._last_line()} (log: {self._log}); training goes on, and it is started "
                f"again in {self._pause_seconds:.0f} s"
            )
            self._starts_at = time.monotonic() + self._pause_seconds
            self._pause_seconds = min(2 * self._pause_seconds, _LONGEST_PAUSE_SECONDS)

    def wait_until(self, is_done: Callable[[], bool]) -> None:
        """Wait for the worker's work once training is over.

        Raises:
            UserError: the worker has ended several times meanwhile.
        """
        self._num_failures = 0
        while not is_done():
            self.poll()
            if self._num_failures > _MOST_FAILURES:
                raise UserError(f"{self._log}: {self._last_line()}")
            time.sleep(_WAIT_SECONDS)

    def _start(self) -> None:
        # the worker's exports run on this machine, not as steps of the job that runs the training
        environment = {name: value for name, value in os.environ.items() if name != STEPS}
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,  # which ends when this process does, however it ends
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # Ctrl-C is this process's to handle
            )
        self._started = time.monotonic()

    @staticmethod
    def _end(process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        process.stdin.close()
        process.kill()
        process.wait()

    def _last_line(self) -> str:
        lines = self._log.read_text(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "no output")
