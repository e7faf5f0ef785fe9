"""How a stage's folder is read: names of its files, its manifest, digests, lineage.

``artifacts`` writes such folders.
"""

import hashlib
import json
import os
import sys
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TypedDict

from megatron_dasd.errors import UserError
from megatron_dasd.json_values import Figures, JsonObject, read_as

MANIFEST = "manifest.json"
ATTEMPT = "attempt.json"
LOCK = ".lock"
VERIFIED = ".verified.json"
"""Which files were found equal to the manifest's digests, and the state that they had then."""
MODEL = "model"
"""Where a stage that makes a Hugging Face folder puts it inside its own."""
_DIGEST_SUFFIX = ".sha256"
_ABOUT_FILES = (MANIFEST, ATTEMPT, LOCK, VERIFIED)
"""Files about a result; no part of it."""
LOGS = "logs"
"""A stage's output while it runs; no part of its result, so in no digest."""
PART, SET_ASIDE = "part", "set_aside"
"""Kinds of numbered files: the records of a part, and those that did not pass while it was made."""
METRICS = "metrics.jsonl"
"""In the logs of a training stage: a JSON line for every step and every held-out evaluation."""


def part_path(folder: Path, index: int, kind: str = PART) -> Path:
    """Path of part ``index``, counted from 0; the file exists only when it is whole."""
    return folder / f"{kind}-{index:05d}.parquet"


def part_files(folder: Path, kind: str = PART) -> list[Path]:
    """The parts that a folder holds, in order; empty when there is no such folder."""
    # by length first: part 100000 has a digit more, and comes after part 99999
    return sorted(folder.glob(f"{kind}-*.parquet"), key=lambda path: (len(path.name), path.name))


def part_digest_path(part: Path) -> Path:
    """Where the SHA-256 of a part lies, as it was written, until the stage's manifest has it."""
    return part.with_name(f".{part.name}{_DIGEST_SUFFIX}")


def unfinished_digests(folder: Path) -> list[Path]:
    """The digests of parts that a folder holds beside them."""
    return sorted(folder.glob(f".*{_DIGEST_SUFFIX}"))


class FileFacts(TypedDict):
    """What a manifest records of a file."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """Describes a finished stage and its result."""

    stage: str
    kind: str
    settings: JsonObject
    inputs: dict[str, str]
    """Digest of every input folder or file, by reference."""
    fingerprint: str
    """SHA-256 of kind, settings and input digests: the same fingerprint, the same result."""
    version: str
    counts: dict[str, int]
    """Records by outcome, e.g. ``kept`` or ``dropped: truncation``; some again by temperature."""
    figures: Figures
    seconds: float
    """Wall time of the attempt that finished the stage."""
    files: dict[str, FileFacts]
    """By path inside the folder."""
    digest: str
    """SHA-256 over the files; identifies the result for the stages that read it."""

    @property
    def outcomes(self) -> dict[str, int]:
        """The counts without those by temperature, which count the same records again."""
        again = ("kept T=", "dropped T=")
        return {name: count for name, count in self.counts.items() if not name.startswith(again)}


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a finished stage, or None when the stage is not finished.

    Raises:
        UserError: the manifest is damaged.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    advice = "delete it to run the stage again"
    manifest = read_as(path, Manifest, advice)
    try:
        _check_consistent(manifest)
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}); {advice}") from None
    return manifest


def _check_consistent(manifest: Manifest) -> None:
    """Check that a manifest's fields belong together and that its paths stay inside the folder.

    Raises:
        ValueError: says which do not.
    """
    for name in manifest.files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or not name.isprintable():
            raise ValueError(f"field files: {name!r} is no path inside the folder")
    if manifest.digest != digest_of(manifest.files):
        raise ValueError("field digest: is not that of the files")
    if manifest.fingerprint != fingerprint_of(manifest.kind, manifest.settings, manifest.inputs):
        raise ValueError("field fingerprint: is not that of kind, settings and inputs")


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
    """The manifests of a finished stage and of the stages it depends on, by folder, inputs first.

    A dependency is included when its folder lies beside the stage's and its digest is still the one
    that was read.  Empty when the stage has not finished.
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
    """Check that the files of a finished stage are still there, by name and size.

    Raises:
        UserError: a file is missing or has another size; names the first.
    """
    for name, facts in manifest.files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != facts["bytes"]:
            raise UserError(
                f"{path}: is missing or has another size than when stage {manifest.stage} "
                f"finished; delete {folder} to run the stage again"
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


def fingerprint_of(kind: str, settings: Mapping[str, object], inputs: Mapping[str, str]) -> str:
    """SHA-256 (hex) of what determines a stage's result."""
    what = {"kind": kind, "settings": settings, "inputs": inputs}
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def hashing_threads() -> ThreadPoolExecutor:
    """Threads on all cores that this process may use; hashing releases the interpreter lock."""
    return ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="hash")


def file_sha256(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def file_digests(paths: Sequence[Path]) -> Generator[str]:
    """Yield the SHA-256 (hex) of each file, many hashed at a time.

    They are hashed on all cores of this machine, or by all ranks of an MPI job.

    Raises:
        OSError: a file cannot be read.
    """
    if "mpi4py.futures" in sys.modules:
        from megatron_dasd.workers import Workers

        with Workers(1, len(paths)) as workers:
            yield from workers.in_order(file_sha256, paths)
        return
    threads = hashing_threads()
    try:
        yield from threads.map(file_sha256, paths)
    finally:
        threads.shutdown(cancel_futures=True)


def input_digest(path: Path) -> str:
    """Identity of an input: a finished stage's digest, or the hash of a user's file or folder.

    Raises:
        UserError: the path does not exist, or is a stage folder whose stage has not finished.
    """
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_file():
        return _file_digest(path, _state(path))
    if (path / ATTEMPT).exists():
        return require_manifest(path).digest
    # many stages read the same model, and hashing it takes longer than most of them take to start
    return _folder_digest(path, tuple(_state(file) for file in _files(path)))


type _State = tuple[str, int, int, int]
"""Path, size, time of change and inode of a file: while they stay, its digest does."""


def _state(file: Path) -> _State:
    facts = file.stat()
    return str(file), facts.st_size, facts.st_mtime_ns, facts.st_ino


@lru_cache(maxsize=1024)
def _file_digest(file: Path, _as_it_is: _State) -> str:
    return file_sha256(file)


@lru_cache(maxsize=64)
def _folder_digest(folder: Path, _as_it_is: tuple[_State, ...]) -> str:
    return digest_of(hash_files(folder))


def hash_files(folder: Path) -> dict[str, FileFacts]:
    """Size and hash of every file of a result, by path inside the folder."""
    paths = list(_files(folder))
    return {
        str(path.relative_to(folder)): {"bytes": path.stat().st_size, "sha256": sha256}
        for path, sha256 in zip(paths, file_digests(paths), strict=True)
    }


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        logs = path.relative_to(folder).parts[0] == LOGS
        about = path.name in _ABOUT_FILES or (
            path.name.startswith(".") and path.name.endswith(_DIGEST_SUFFIX)
        )
        if path.is_file() and not about and not logs:
            yield path


def digest_of(files: Mapping[str, FileFacts]) -> str:
    """SHA-256 (hex) over the names and hashes of files."""
    lines = (f"{name} {facts['sha256']}\n" for name, facts in sorted(files.items()))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
