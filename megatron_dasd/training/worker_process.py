"""The process of the rollout worker, supervised: it runs while training does, and ends with it."""

import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from megatron_dasd.device.payload import write_payload
from megatron_dasd.device.srun import STEPS
from megatron_dasd.printing import say
from megatron_dasd.training.exchange import WorkerPayload

_LONGEST_PAUSE_SECONDS = 60.0


class WorkerProcess:
    """A process beside the ranks; as a context manager it runs while the body does."""

    def __init__(self, program: str, payload: WorkerPayload, logs: Path) -> None:
        """Start nothing yet.

        Args:
            program: module that is run with the payload's file as its argument.
            payload: what the worker is to do.
            logs: where the payload and ``rollout_worker.log`` go.
        """
        self._program, self._payload, self._logs = program, payload, logs
        self._log = logs / "rollout_worker.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._starts_at = 0.0
        self._pause_seconds = 1.0

    def __enter__(self) -> Self:
        self._logs.mkdir(parents=True, exist_ok=True)
        payload = self._logs / "rollout_worker.json"
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
            lived = time.monotonic() - self._started
            if lived > _LONGEST_PAUSE_SECONDS:
                self._pause_seconds = 1.0
            say(
                f"    the rollout worker ended with status {status}: {self._last_line()} (log: "
                f"{self._log}); training goes on, and it is started again in "
                f"{self._pause_seconds:.0f} s"
            )
            self._starts_at = time.monotonic() + self._pause_seconds
            self._pause_seconds = min(2 * self._pause_seconds, _LONGEST_PAUSE_SECONDS)

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
