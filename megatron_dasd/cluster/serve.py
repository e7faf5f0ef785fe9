"""A server of one model as a job: started, waited for, announced, ended with the job.

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
from megatron_dasd.engines.services import RequestedWeights, announce, wanted_weights
from megatron_dasd.errors import MISTAKE_STATUS, STOPPED_STATUS, UserError
from megatron_dasd.manifests import model_folder

_POLL_SECONDS = 1.0
_END_SECONDS = 20.0


def main() -> int:
    """Serve until told to stop; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pipeline", type=Path)
    parser.add_argument("service")
    parser.add_argument("--run-dir", type=Path)
    parser.add_argument("--set", action="append", default=[], dest="overrides")
    options = parser.parse_args()
    try:
        pipeline = load_pipeline(options.pipeline, options.run_dir, options.overrides)
        return serve(pipeline, options.service)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return MISTAKE_STATUS


def serve(pipeline: Pipeline, service: str) -> int:
    """Run a server until it ends or this process is told to stop; returns its status.

    When a stage wants the service to have other weights, it is started again with these.

    Raises:
        UserError: it does not come up.
    """
    if service not in pipeline.cluster.servers:
        raise UserError(f"{pipeline.path}: cluster.servers has no {service}")
    stops = _note_signals()
    status = None
    while status is None and not stops:
        status = _Served(pipeline, service, wanted_weights(service), stops).run()
    return STOPPED_STATUS if status is None or stops else status


@dataclass(frozen=True)
class _Served:
    """A server with some weights."""

    pipeline: Pipeline
    service: str
    weights: RequestedWeights | None
    stops: list[int]

    def run(self) -> int | None:
        """Serve; gives the server's status, None when other weights are wanted."""
        settings = self.pipeline.cluster.servers[self.service]
        port = _free_port()
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
                print(f"{self.service}: serving {self._name} at {url}", flush=True)
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
        named = self.pipeline.resolve(settings.model) if settings.model else None
        model = self.weights.folder if self.weights else str(model_folder(named)) if named else ""
        said = " ".join(settings.command)
        if self.weights and not ("{model}" in said and "{name}" in said):
            raise UserError(
                f"{self.pipeline.path}: cluster.servers.{self.service}.command: to be started with "
                "other weights it needs {model} and, for the name that it serves them by, {name}"
            )
        words = {"{port}": str(port), "{model}": model, "{name}": self._name}
        return [_replaced(word, words) for word in settings.command]

    def _wait(self, server: "subprocess.Popen[bytes]", url: str, seconds: float) -> bool:
        """Wait until it answers; gives whether its weights are still wanted then."""
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


def _replaced(word: str, words: dict[str, str]) -> str:
    for name, value in words.items():
        word = word.replace(name, value)
    return word


def _note_signals() -> list[int]:
    came: list[int] = []
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda number, _: came.append(number))
    return came


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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
