"""A server of one model as a job: it is started, announced once healthy, and ended with the job.

``python -m megatron_dasd.cluster.serve PIPELINE SERVICE``, in ``slurm/serve.sbatch``.
"""

import argparse
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from megatron_dasd.config.cluster import ServerJob
from megatron_dasd.config.pipeline import Pipeline, load_pipeline
from megatron_dasd.device.ports import free_port
from megatron_dasd.engines.services import RequestedWeights, announce, wanted_weights
from megatron_dasd.errors import STOPPED_STATUS, UserError
from megatron_dasd.last_net import guard
from megatron_dasd.manifests import model_folder
from megatron_dasd.printing import say

_POLL_SECONDS = 1.0
_END_SECONDS = 20.0


def main() -> int:
    """Serve until the job is stopped; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("service")
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    options = parser.parse_args()

    def run() -> int:
        pipeline = load_pipeline(options.pipeline, options.run_dir, options.overrides)
        return serve(pipeline, options.service)

    return guard(run)


def serve(pipeline: Pipeline, service: str) -> int:
    """Run a server until it ends or this process is stopped; returns its exit status.

    When a stage requests other weights of the service, the server is started again with them.

    Raises:
        UserError: there is no such service, or the server does not become healthy.
    """
    if service not in pipeline.cluster.servers:
        raise UserError(f"{pipeline.path}: cluster.servers has no {service}")
    stops = _collect_stop_signals()
    status = None
    while status is None and not stops:
        status = _ServerProcess(pipeline, service, wanted_weights(service), stops).run()
    return STOPPED_STATUS if status is None or stops else status


@dataclass(frozen=True)
class _ServerProcess:
    """A server with one set of weights."""

    pipeline: Pipeline
    service: str
    weights: RequestedWeights | None
    stops: list[int]
    """Signals to stop that have arrived."""

    def run(self) -> int | None:
        """Serve; returns the server's exit status, or None once other weights are requested."""
        settings = self.pipeline.cluster.servers[self.service]
        port = free_port()
        with subprocess.Popen(self._command(settings, port)) as server:
            announced = None
            try:
                health = f"http://127.0.0.1:{port}{settings.health}"
                if not self._wait(server, health, settings.start_seconds):
                    return None
                host = os.environ.get("SLURMD_NODENAME", socket.gethostname())
                url = f"http://{host}:{port}/v1"
                job = os.environ.get("SLURM_JOB_ID", str(os.getpid()))
                announced = announce(self.service, job, url)
                say(f"{self.service}: serving {self._name} at {url}")
                while server.poll() is None and not self.stops:
                    if self._is_outdated():
                        return None
                    time.sleep(_POLL_SECONDS)
                return server.poll() or 0
            finally:
                if announced:
                    announced.unlink(missing_ok=True)
                _end(server)

    @property
    def _name(self) -> str:
        return self.weights.version if self.weights else self.service

    def _command(self, settings: ServerJob, port: int) -> list[str]:
        words = " ".join(settings.command)
        if self.weights and not ("{model}" in words and "{name}" in words):
            raise UserError(
                f"{self.pipeline.path}: cluster.servers.{self.service}.command: to be started with "
                "other weights it needs {model} and, for the name that it serves them by, {name}"
            )
        model = ""
        if self.weights:
            model = self.weights.folder
        elif settings.model:
            model = str(model_folder(self.pipeline.resolve(settings.model)))
        values = {"{port}": str(port), "{model}": model, "{name}": self._name}
        return [_replaced(word, values) for word in settings.command]

    def _wait(self, server: "subprocess.Popen[bytes]", url: str, seconds: float) -> bool:
        """Wait until the server is healthy; False: it must stop first, or its weights are outdated.

        Raises:
            UserError: it ends before, or is not healthy within ``seconds``.
        """
        until = time.monotonic() + seconds
        while not _answers(url):
            if self.stops:
                return False
            if server.poll() is not None:
                raise UserError(f"the server ended with status {server.poll()} before it answered")
            if time.monotonic() > until:
                raise UserError(f"the server does not answer at {url} within {seconds} s")
            if self._is_outdated():
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def _is_outdated(self) -> bool:
        return wanted_weights(self.service) != self.weights


def _replaced(word: str, values: dict[str, str]) -> str:
    for name, value in values.items():
        word = word.replace(name, value)
    return word


def _collect_stop_signals() -> list[int]:
    """A list that grows by each signal to stop that arrives."""
    arrived: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, _: arrived.append(number))
    return arrived


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, http.client.HTTPException):
        return False


def _end(server: "subprocess.Popen[bytes]") -> None:
    if server.poll() is None:
        server.terminate()
        try:
            server.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()


if __name__ == "__main__":
    sys.exit(main())
