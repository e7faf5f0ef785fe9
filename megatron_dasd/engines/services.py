"""Servers found by the name of their service: each writes its URL to a file in its folder.

::

    $DASD_SERVICES/            of a submitted pipeline: <run_dir>/jobs/services
      teacher/                 mode 0700: who writes here is sent the prompts and the API key
        1234.url               one line: base URL of the server of job 1234
        weights.json           the weights that the servers must start with

The files are checked like settings.
"""

import errno
import os
import re
import stat
from pathlib import Path

import msgspec

from megatron_dasd.artifacts import write_atomic
from megatron_dasd.config.base import url_fault
from megatron_dasd.engines.scrub import escaped
from megatron_dasd.errors import UserError

SERVICES = "DASD_SERVICES"
"""Environment variable: the folder of all services."""
_WEIGHTS = "weights.json"
_MOST_BYTES = 16 << 10
"""Of a file in a service's folder."""
_MOST_SERVERS = 10_000
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{,127}")


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
    """Base URLs of the servers that are announced at the moment.

    Raises:
        UserError: the folder is not the user's alone, or a file in it is no announcement.
    """
    folder = service_folder(name)
    if not _is_there(folder):
        return []
    urls = []
    files = sorted(folder.glob("*.url"))
    if len(files) > _MOST_SERVERS:
        raise UserError(f"{folder}: more than {_MOST_SERVERS} servers are announced")
    for file in files:
        url = _read(file)
        if url and (wrong := url_fault(url)):
            raise UserError(f"{_named(file)}: {wrong}; delete the file")
        if url:
            urls.append(url)
    return urls


def announce(name: str, job: str, url: str) -> Path:
    """Announce a server; returns the file, to be deleted when the server ends.

    Raises:
        UserError: no server can have this URL, or the folder is not the user's alone.
    """
    if wrong := url_fault(url):
        raise UserError(f"{escaped(url)}: {wrong}")
    file = _made(service_folder(name)) / f"{job}.url"
    write_atomic(file, f"{url}\n".encode())
    return file


class RequestedWeights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Weights that the servers of a service must start with."""

    folder: str
    """A Hugging Face folder."""
    version: str
    """The name under which they then serve the model."""


_weights = msgspec.json.Decoder(RequestedWeights)


def request_weights(name: str, weights: RequestedWeights) -> None:
    """Ask the servers of a service to restart with some weights.

    Raises:
        UserError: the folder is not the user's alone.
    """
    write_atomic(_made(service_folder(name)) / _WEIGHTS, msgspec.json.encode(weights))


def wanted_weights(name: str) -> RequestedWeights | None:
    """The weights that a service's servers must start with; None: those of its settings.

    Raises:
        UserError: the folder is not the user's alone, or the file is not one of ours.
    """
    folder = service_folder(name)
    file = folder / _WEIGHTS
    text = _read(file) if _is_there(folder) else ""
    if not text:
        return None
    try:
        weights = _weights.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise UserError(f"{_named(file)}: {escaped(str(error))}; delete the file") from None
    if not (weights.folder.startswith("/") and weights.folder.isprintable()):
        raise UserError(f"{_named(file)}: folder is no absolute path; delete the file")
    if not _VERSION.fullmatch(weights.version):
        raise UserError(f"{_named(file)}: version is no version of weights; delete the file")
    return weights


def _made(folder: Path) -> Path:
    """The folder, made for the user alone where it is missing."""
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror})") from None
    _is_there(folder)
    return folder


def _is_there(folder: Path) -> bool:
    """Whether a service's folder exists; it and the folder of all services must be the user's.

    What others can only read is closed to them.

    Raises:
        UserError: others own it or can write in it.
    """
    for place in (folder.parent, folder):
        try:
            found = place.stat()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise UserError(f"{_named(place)}: {error.strerror}") from None
        if not stat.S_ISDIR(found.st_mode):
            raise UserError(f"{_named(place)}: is no folder of services ({SERVICES})")
        if found.st_uid != os.getuid():
            raise UserError(
                f"{_named(place)}: belongs to another user, whose servers would be sent your "
                f"prompts; name a folder of your own in {SERVICES}"
            )
        if found.st_mode & 0o022:
            raise UserError(
                f"{_named(place)}: other users can write in it; look at what it holds and run: "
                f"chmod 700 {_named(place)}"
            )
    if found.st_mode & 0o077:
        folder.chmod(0o700)
    return True


def _read(file: Path) -> str:
    """The text of a small file of the user's; empty when it has been withdrawn meanwhile."""
    try:
        # a pipe is not waited for, and a link is not followed
        number = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(number, "rb") as opened:
            found = os.fstat(opened.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid():
                raise UserError(f"{_named(file)}: is no file of yours; delete it")
            data = opened.read(_MOST_BYTES + 1)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ESTALE):
            return ""
        raise UserError(f"{_named(file)}: not readable ({error.strerror}); delete it") from None
    if len(data) > _MOST_BYTES:
        raise UserError(f"{_named(file)}: is longer than {_MOST_BYTES} bytes; delete it")
    try:
        return data.decode().strip()
    except UnicodeDecodeError:
        raise UserError(f"{_named(file)}: is no UTF-8 text; delete it") from None


def _named(path: Path) -> str:
    return escaped(str(path))
