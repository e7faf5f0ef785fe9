"""Inputs are verified: what a stage reads is what the stages before it wrote.

The content of every file of a finished stage is compared with the digest in its manifest before
another stage reads it, so that nothing is made from a damaged file.  A file is hashed once:
``.verified.json`` in the stage's folder remembers the digest, inode, size and times that it had.
"""

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from megatron_dasd.errors import UserError
from megatron_dasd.manifests import (
    ATTEMPT,
    VERIFIED,
    Manifest,
    check_files,
    file_digests,
    require_manifest,
)
from megatron_dasd.printing import say

_WORTH_A_LINE = 10**10
"""Bytes to hash from which on the user learns what the stage is waiting for."""

type _State = list[int | str]
"""Inode, size in bytes, times of the last change of content and of anything (ns), SHA-256."""


def verify_stages(folders: Iterable[Path]) -> None:
    """Compare the files of finished stages with their manifests' digests, many at a time.

    A path that is no stage's folder is passed over: the user's own files have no manifest.

    Raises:
        UserError: a file is missing or differs; names the first, its stage and what to do.
    """
    stages = [_Stage(path, require_manifest(path)) for path in folders if (path / ATTEMPT).exists()]
    for stage in stages:
        check_files(stage.folder, stage.manifest)
        stage.find_unverified()
    num_bytes = sum(stage.manifest.files[n]["bytes"] for stage in stages for n in stage.waiting)
    if num_bytes >= _WORTH_A_LINE:
        say(f"    verifying {num_bytes / 1e9:,.0f} GB of inputs")
    paths = [stage.folder / name for stage in stages for name in stage.waiting]
    with closing(file_digests(paths)) as hashes:
        for stage in stages:
            stage.compare(hashes)


@dataclass
class _Stage:
    """A finished stage whose files are being verified."""

    folder: Path
    manifest: Manifest
    verified: dict[str, _State] = field(default_factory=dict)
    """Files whose content is the manifest's, by name, as they were then."""
    waiting: dict[str, _State] = field(default_factory=dict)
    """Files to be hashed, as they are now."""

    def find_unverified(self) -> None:
        """Tell the files that were verified and have not changed since from those to be hashed."""
        remembered = _remembered(self.folder)
        for name in self.manifest.files:
            state = self._state(name)
            known = remembered.get(name) == state
            (self.verified if known else self.waiting)[name] = state

    def compare(self, hashes: Iterator[str]) -> None:
        """Compare hashes with the manifest's, and remember those that are equal.

        Args:
            hashes: of the waiting files, in order; no more are taken.
        """
        try:
            for name in self.waiting:
                path = self.folder / name
                if next(hashes) != self.manifest.files[name]["sha256"]:
                    raise UserError(
                        f"{path}: its content is not what stage {self.manifest.stage} wrote; "
                        f"delete {self.folder} to run the stage again"
                    )
                if self._state(name) == self.waiting[name]:  # nobody wrote to it meanwhile
                    self.verified[name] = self.waiting[name]
        except OSError as error:
            raise UserError(f"{error.filename or self.folder}: {error.strerror}") from None
        finally:
            if self.waiting:
                _remember(self.folder, self.verified)

    def _state(self, name: str) -> _State:
        found = (self.folder / name).stat()
        # a program can set the time of the last change of content, but not that of any change
        times = found.st_mtime_ns, found.st_ctime_ns
        return [found.st_ino, found.st_size, *times, self.manifest.files[name]["sha256"]]


def _remembered(folder: Path) -> dict[str, object]:
    """What an earlier verification remembered; nothing, where that is damaged."""
    try:
        found = json.loads((folder / VERIFIED).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _remember(folder: Path, verified: dict[str, _State]) -> None:
    """Remember what was verified; where the folder may not be written, it is verified again.

    Several processes may do so at the same time, so each writes a file of its own first.
    """
    try:
        number, written = tempfile.mkstemp(prefix=f"{VERIFIED}.", suffix=".tmp", dir=folder)
        with os.fdopen(number, "w") as file:
            json.dump(verified, file)
        Path(written).replace(folder / VERIFIED)
    except OSError:
        return
