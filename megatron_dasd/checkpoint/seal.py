"""Seals of checkpoints: sizes and hashes of the files of each, taken when it was whole.

The hashes are of what is read back from the disk, so that a file that loses a part later is
noticed.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

from megatron_dasd.artifacts import write_atomic
from megatron_dasd.json_values import checked_as
from megatron_dasd.manifests import file_sha256

SEAL = "seal.json"


class FileFacts(TypedDict):
    """A file at the time when its checkpoint was sealed."""

    bytes: int
    sha256: str


def write_seal(checkpoint: Path) -> None:
    """Seal the folder of an iteration."""
    write_atomic(checkpoint / SEAL, json.dumps(_facts(checkpoint), indent=2).encode())


def unseal(checkpoint: Path) -> None:
    """Before a checkpoint is written again: the seal was of the files that were there before."""
    (checkpoint / SEAL).unlink(missing_ok=True)


def is_sealed(checkpoint: Path) -> bool:
    """Whether there is a seal; :func:`damage` compares it with the files."""
    return (checkpoint / SEAL).is_file()


def damage(checkpoint: Path) -> str | None:
    """The first file that has changed since the checkpoint was sealed; None: none, or no seal."""
    try:
        sealed = checked_as(dict[str, FileFacts], (checkpoint / SEAL).read_bytes())
    except FileNotFoundError:
        return None
    except ValueError:
        return f"{checkpoint / SEAL}: damaged"
    # sizes first: a file cut short is found without reading all of them
    for name, facts in sealed.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{path}: missing"
        size = path.stat().st_size
        if size != facts["bytes"]:
            return f"{path}: {size} bytes, {facts['bytes']} when it was saved"
    found = _facts(checkpoint)
    changed = [name for name, facts in sealed.items() if found.get(name) != facts]
    return f"{checkpoint / changed[0]}: other content than when it was saved" if changed else None


def _facts(checkpoint: Path) -> dict[str, FileFacts]:
    paths = sorted(p for p in checkpoint.iterdir() if p.is_file() and not _is_ours(p.name))
    with ThreadPoolExecutor() as threads:  # hashing lets go of the interpreter
        hashes = list(threads.map(file_sha256, paths))
    return {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256}
        for path, sha256 in zip(paths, hashes, strict=True)
    }


def _is_ours(name: str) -> bool:
    return name == SEAL or name.endswith(".tmp")
