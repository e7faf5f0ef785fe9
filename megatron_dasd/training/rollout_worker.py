"""The rollout worker of a training stage, watched over: it ends with the stage, and no sooner."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from megatron_dasd.artifacts import write_atomic
from megatron_dasd.device.srun import STEPS

PROGRAM = "megatron_dasd.pipeline.rollout_worker"
_LONGEST_PAUSE_SECONDS = 60.0


class RolloutWorker:
    """A process beside the ranks; as a context manager it runs while the body does."""

    def __init__(self, payload: dict[str, Any], logs: Path) -> None:
        """Start nothing yet.

        Args:
            payload: see the program.
            logs: where the payload and ``rollout_worker.log`` go.
        """
        self._payload, self._logs = payload, logs
        self._log = logs / "rollout_worker.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._starts_at = 0.0
        self._pause_seconds = 1.0

    def __enter__(self) -> Self:
        self._logs.mkdir(parents=True, exist_ok=True)
        payload = self._logs / "rollout_worker.json"
        write_atomic(payload, json.dumps(self._payload, indent=2).encode())
        self._command = [sys.executable, "-m", PROGRAM, str(payload)]
        self._start()
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _: BaseException | None, __: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._end(self._process)

    def poll(self) -> None:
        """Start it again if it has ended, after a pause that grows; training goes on meanwhile."""
        if self._process is None:
            if time.monotonic() >= self._starts_at:
                self._start()
        elif (status := self._process.poll()) is not None:
            self._end(self._process)
            self._process = None
            lived = time.monotonic() - self._started
            if lived > _LONGEST_PAUSE_SECONDS:
                self._pause_seconds = 1.0
            print(
                f"    the rollout worker ended with status {status}: {self._last_line()} (log: "
                f"{self._log}); training goes on, and it is started again in "
                f"{self._pause_seconds:.0f} s",
                flush=True,
            )
            self._starts_at = time.monotonic() + self._pause_seconds
            self._pause_seconds = min(2 * self._pause_seconds, _LONGEST_PAUSE_SECONDS)

    def _start(self) -> None:
        # its exports are ranks of its own, here, not steps of a job that runs the training's
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
