"""A real vLLM on the CPU for tests, in the environment that ``.ci/install-vllm`` makes."""

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

VENV = Path(__file__).parents[1] / ".vllm-venv"
SERVED_NAME = "served"
"""What requests call the model, whichever folder it came from."""
_READY_SECONDS = 240.0
_FLAGS = (
    "--dtype=bfloat16",
    "--max-model-len=1024",
    "--max-num-seqs=16",
    "--max-num-batched-tokens=2048",
    "--enforce-eager",
    # with it, seeds of single requests end the engine once many are under way
    "--no-enable-chunked-prefill",
)
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "auto",
    "VLLM_SERVER_DEV_MODE": "1",  # takes other weights
}


def vllm_python() -> Path:
    """The interpreter that has vLLM; skips the test, with the reason, where there is none."""
    if not (VENV / ".installed").exists():
        why = VENV / "why-not"
        pytest.skip(why.read_text().strip() if why.exists() else "no vLLM: .ci/install-vllm")
    return VENV / "bin" / "python"


@contextmanager
def serving(model: Path, log: Path, *flags: str) -> Iterator[str]:
    """Serve a Hugging Face folder; gives the base URL, ``http://127.0.0.1:PORT/v1``.

    The server has answered its health check before the body runs and has ended after it.

    Args:
        log: where the server's own words go.
        flags: of vLLM, after those that every test server has; the last of a kind counts.
    """
    port = free_port()
    command = [
        *(str(vllm_python()), "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(model), "--served-model-name", SERVED_NAME),
        *("--host", "127.0.0.1", "--port", str(port), *_FLAGS, *flags),
    ]
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            env=os.environ | ENVIRONMENT,
            start_new_session=True,
        )
    try:
        _wait_until_ready(process, f"http://127.0.0.1:{port}/health", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        _end(process)


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    until = time.monotonic() + _READY_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-40:])
    pytest.fail(f"vLLM did not come up (exit status {process.poll()}):\n{tail}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and the engine that it started, by their process group."""
    for number, seconds in ((signal.SIGTERM, 15), (signal.SIGKILL, 15)):
        try:
            os.killpg(process.pid, number)
            process.wait(seconds)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue
