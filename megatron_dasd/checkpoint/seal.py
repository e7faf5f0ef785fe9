"""Seals of checkpoints: sizes and hashes of the files of each, taken when it was whole.

Read back from what was written, so that a file that a disk has lost a part of since is found out.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from megatron_dasd.artifacts import write_atomic
from megatron_dasd.manifests import file_sha256

SEAL = "seal.json"


def write_seal(checkpoint: Path) -> None:
    """Seal the folder of an iteration."""
    write_atomic(checkpoint / SEAL, json.dumps(_facts(checkpoint), indent=2).encode())


def unseal(checkpoint: Path) -> None:
    """Before a checkpoint is written again: the seal was of the files that were there before."""
    (checkpoint / SEAL).unlink(missing_ok=True)


def is_sealed(checkpoint: Path) -> bool:
    """Whether there is a seal; what it says is :func:`damage`'s to compare."""
    return (checkpoint / SEAL).is_file()


def damage(checkpoint: Path) -> str | None:
    """What is not as it was when the checkpoint was sealed; None: nothing, or it has no seal."""
    try:
        sealed: dict[str, Any] = json.loads((checkpoint / SEAL).read_text())
    except FileNotFoundError:
        return None
    except ValueError:
        return f"{checkpoint / SEAL}: damaged"
    # sizes first: a file cut short is told without reading all of them
    for name, facts in sealed.items():
        path = checkpoint / name
        if not path.is_file():
            return f"{path}: missing"
        size = path.stat().st_size
        if size != facts["bytes"]:
            return f"{path}: {size} bytes, {facts['bytes']} when it was saved"
    found = _facts(checkpoint)
    changed = [name for name, facts in sealed.items() if found[name] != facts]
    return f"{checkpoint / changed[0]}: other content than when it was saved" if changed else None


def _facts(checkpoint: Path) -> dict[str, dict[str, Any]]:
    paths = sorted(p for p in checkpoint.iterdir() if p.is_file() and not _is_ours(p.name))
    with ThreadPoolExecutor() as threads:  # hashing lets go of the interpreter
        hashes = list(threads.map(file_sha256, paths))
    return {
        path.name: {"bytes": path.stat().st_size, "sha256": sha256}
        for path, sha256 in zip(paths, hashes, strict=True)
    }


def _is_ours(name: str) -> bool:
    return name == SEAL or name.endswith(".tmp")
