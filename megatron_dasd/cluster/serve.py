"""A server of one model as a job: started, waited for, announced, ended with the job.

``python -m megatron_dasd.cluster.serve PIPELINE SERVICE``, in ``slurm/serve.sbatch``.
"""

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from megatron_dasd.config.cluster import ServerJob
from megatron_dasd.config.pipeline import Pipeline, load_pipeline
from megatron_dasd.engines.services import announce
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

    Raises:
        UserError: it does not come up.
    """
    if service not in pipeline.cluster.servers:
        raise UserError(f"{pipeline.path}: cluster.servers has no {service}")
    settings = pipeline.cluster.servers[service]
    port = _free_port()
    with subprocess.Popen(_command(pipeline, settings, port)) as server:
        stopped = _end_on_signals(server)
        announced = None
        try:
            _wait(server, f"http://127.0.0.1:{port}{settings.health}", settings.start_seconds)
            url = f"http://{os.environ.get('SLURMD_NODENAME', socket.gethostname())}:{port}/v1"
            announced = announce(service, os.environ.get("SLURM_JOB_ID", str(os.getpid())), url)
            print(f"{service}: serving at {url}", flush=True)
            status = server.wait()
        finally:
            if announced:
                announced.unlink(missing_ok=True)
            _end(server)
    return STOPPED_STATUS if stopped else status


def _command(pipeline: Pipeline, settings: ServerJob, port: int) -> list[str]:
    model = str(model_folder(pipeline.resolve(settings.model))) if settings.model else ""
    return [w.replace("{port}", str(port)).replace("{model}", model) for w in settings.command]


def _end_on_signals(server: "subprocess.Popen[bytes]") -> list[int]:
    came: list[int] = []

    def stop(number: int, _: Any) -> None:
        came.append(number)
        server.terminate()

    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, stop)
    return came


def _wait(server: "subprocess.Popen[bytes]", url: str, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not _answers(url):
        if server.poll() is not None:
            raise UserError(f"the server ended with status {server.returncode} before it answered")
        if time.monotonic() > until:
            raise UserError(f"the server does not answer at {url} within {seconds} s")
        time.sleep(_POLL_SECONDS)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
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
