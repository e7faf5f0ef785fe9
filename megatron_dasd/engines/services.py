"""Servers that are found by name: each announces its URL in a file of the service's folder.

::

    $DASD_SERVICES/            of a submitted pipeline: <run_dir>/jobs/services
      teacher/
        1234.url               a line, the base URL of the server of job 1234
      weights.json           the weights that its servers are to be started with
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
    """Where a service's servers announce themselves.

    Raises:
        UserError: nothing says where services are.
    """
    place = os.environ.get(SERVICES)
    if not place:
        raise UserError(
            f"engine.server.service: {name}: nobody has started it ({SERVICES} is not set); submit "
            "the pipeline with tools/submit.py, or give engine.server.urls"
        )
    return Path(place) / name


def announced_urls(name: str) -> list[str]:
    """Base URLs of the servers that are announced now."""
    return [text for path in sorted(service_folder(name).glob("*.url")) if (text := _read(path))]


def announce(name: str, job: str, url: str) -> Path:
    """Announce a server; returns the file, which goes when the server does."""
    folder = service_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / f"{job}.url", f"{url}\n".encode())
    return folder / f"{job}.url"


@dataclass(frozen=True)
class Wanted:
    """Weights that the servers of a service are to be started with."""

    folder: str
    """A Hugging Face folder."""
    version: str
    """The name that they then serve it by."""


def want_weights(name: str, wanted: Wanted) -> None:
    """Let the servers of a service start again with some weights."""
    folder = service_folder(name)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / _WEIGHTS, json.dumps(asdict(wanted)).encode())


def wanted_weights(name: str) -> Wanted | None:
    """What the servers of a service are to be started with; None: with what their job says."""
    text = _read(service_folder(name) / _WEIGHTS)
    return Wanted(**json.loads(text)) if text else None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:  # withdrawn meanwhile
        return ""
