"""What a stage's folder says of itself: its manifest, and the identity of what is in it.

The reading side; ``artifacts`` is the one that writes.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from megatron_dasd.errors import UserError

MANIFEST = "manifest.json"
ATTEMPT = "attempt.json"
LOCK = ".lock"
MODEL = "model"
"""Where a stage that makes a Hugging Face folder puts it inside its own."""
LOGS = "logs"
"""What a stage says while it runs; no part of its result, and so of no digest."""
METRICS = "metrics.jsonl"
"""In the logs of a training stage: a JSON line for every step and every held-out evaluation."""


@dataclass(frozen=True)
class Manifest:
    """What a finished stage says of itself."""

    stage: str
    kind: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    """Digest of every input folder or file, by reference."""
    fingerprint: str
    """SHA-256 of kind, settings and input digests: the same fingerprint, the same result."""
    version: str
    counts: dict[str, int]
    """Records by what became of them, e.g. ``kept`` or ``dropped: truncation``."""
    figures: dict[str, Any]
    seconds: float
    """Wall time of the attempt that finished the stage."""
    files: dict[str, dict[str, Any]]
    """``bytes`` and ``sha256`` of every file, by path inside the folder."""
    digest: str
    """SHA-256 over the files: what later stages take as this stage's identity."""


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a finished stage, or None when the stage is not finished.

    Raises:
        UserError: the manifest is damaged.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        return Manifest(**json.loads(path.read_text()))
    except (json.JSONDecodeError, TypeError) as error:
        raise UserError(
            f"{path}: damaged manifest ({error}); delete it to run the stage again"
        ) from None


def require_manifest(folder: Path) -> Manifest:
    """Return the manifest of an input stage.

    Raises:
        UserError: the stage has not finished.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise UserError(f"{folder}: no finished stage here (no {MANIFEST}); run that stage first")
    return manifest


def lineage(folder: Path) -> dict[Path, Manifest]:
    """A finished stage and those that it rests on, by folder, each after what it reads.

    Only folders that lie beside it and still hold what was read, by their digest; of a folder that
    is no finished stage's, nothing.
    """
    found: dict[Path, Manifest] = {}

    def visit(path: Path, manifest: Manifest) -> None:
        for reference, digest in manifest.inputs.items():
            other = path.parent / reference
            beside = Path(reference).name == reference and other not in found
            before = read_manifest(other) if beside else None
            if before is not None and before.digest == digest:
                visit(other, before)
        found[path] = manifest

    if (last := read_manifest(folder)) is not None:
        visit(folder, last)
    return found


def check_files(folder: Path, manifest: Manifest) -> None:
    """Make sure that the files of a finished stage are still there, by name and size.

    Raises:
        UserError: naming the first file that is not.
    """
    for name, facts in manifest.files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != facts["bytes"]:
            raise UserError(
                f"{path}: is missing or has another size than when the stage finished; "
                f"delete {folder} to run the stage again"
            )


def model_folder(path: Path) -> Path:
    """The Hugging Face folder behind an input: the path itself, or ``model`` in a stage's folder.

    Raises:
        UserError: neither holds a ``config.json``.
    """
    for folder in (path, path / MODEL):
        if (folder / "config.json").is_file():
            return folder
    raise UserError(f"{path}: no Hugging Face model here (no config.json)")


def fingerprint_of(kind: str, settings: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """SHA-256 (hex) of what determines a stage's result."""
    what = {"kind": kind, "settings": settings, "inputs": inputs}
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def input_digest(path: Path) -> str:
    """Identity of an input: a finished stage's digest, or the hash of a user's file or folder.

    Raises:
        UserError: the path does not exist, or is a stage folder whose stage has not finished.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_file():
        return file_sha256(path)
    if (path / ATTEMPT).exists():
        return require_manifest(path).digest
    # many stages read the same model, and hashing it takes longer than most of them take to start
    stats = ((str(file), file.stat()) for file in _files(path))
    return _folder_digest(path, tuple((n, s.st_size, s.st_mtime_ns, s.st_ino) for n, s in stats))


@lru_cache(maxsize=64)
def _folder_digest(folder: Path, _as_it_is: tuple[tuple[str, int, int, int], ...]) -> str:
    return digest_of(hash_files(folder))


def hash_files(folder: Path) -> dict[str, dict[str, Any]]:
    """``bytes`` and ``sha256`` of every file of a result, by path inside the folder."""
    paths = list(_files(folder))
    with ThreadPoolExecutor() as threads:  # hashing lets go of the interpreter
        hashes = list(threads.map(file_sha256, paths))
    return {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256}
        for path, sha256 in zip(paths, hashes, strict=True)
    }


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        logs = path.relative_to(folder).parts[0] == LOGS
        if path.is_file() and path.name not in (MANIFEST, ATTEMPT, LOCK) and not logs:
            yield path


def digest_of(files: Mapping[str, Mapping[str, Any]]) -> str:
    """SHA-256 (hex) over the names and hashes of files."""
    lines = (f"{name} {facts['sha256']}\n" for name, facts in sorted(files.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
