"""Servers found by the name of their service: each writes its URL to a file in its folder.

::

    $DASD_SERVICES/            of a submitted pipeline: <run_dir>/jobs/services
      teacher/
        1234.url               one line: base URL of the server of job 1234
        weights.json           the weights that the servers must start with
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from megatron_dasd.artifacts import write_atomic
from megatron_dasd.errors import UserError

SERVICES = "DASD_SERVICES"
"""Environment variable: the folder of all services."""
_WEIGHTS = "weights.json"


def service_folder(name: str) -> Path:
    """Folder where a service's servers announce themselves.

    Raises:
        UserError: the environment does not say where services are.
    """
    place = os.environ.get(SERVICES)
    if not place:
        raise UserError(
            f"engine.server.service: {name}: not started ({SERVICES} is not set); submit "
            "the pipeline with tools/submit.py, or give engine.server.urls"
        )
    return Path(place) / name


def announced_urls(name: str) -> list[str]:
    """Base URLs of the servers that are announced at the moment."""
    return [text for path in sorted(service_folder(name).glob("*.url")) if (text := _read(path))]


def announce(name: str, job: str, url: str) -> Path:
    """Announce a server; returns the file, to be deleted when the server ends."""
    folder = service_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / f"{job}.url", f"{url}\n".encode())
    return folder / f"{job}.url"


@dataclass(frozen=True)
class RequestedWeights:
    """Weights that the servers of a service must start with."""

    folder: str
    """A Hugging Face folder."""
    version: str
    """The name under which they then serve the model."""


def request_weights(name: str, weights: RequestedWeights) -> None:
    """Ask the servers of a service to restart with some weights."""
    folder = service_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / _WEIGHTS, json.dumps(asdict(weights)).encode())


def wanted_weights(name: str) -> RequestedWeights | None:
    """The weights that a service's servers must start with; None: those of its settings."""
    text = _read(service_folder(name) / _WEIGHTS)
    return RequestedWeights(**json.loads(text)) if text else None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:  # withdrawn meanwhile
        return ""
