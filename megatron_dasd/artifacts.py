"""A stage's output folder: atomic parts, a lock, a manifest at the end, resume in between.

::

    runs/demo/sample/
      attempt.json            kind, settings and fingerprint of the attempt (written first)
      part-00000.parquet      one atomic part each; its tally is in the Parquet metadata
      set_aside-00000.parquet records that did not pass, each with its reason
      .part-00000.parquet.sha256  its digest as it was written, until the manifest has it
      manifest.json           written last; its presence means "finished"

A part is written to a temporary name, flushed to disk and renamed, so a kill leaves complete parts
only.  A restart with the same fingerprint resumes.  With another fingerprint, a finished result is
moved aside until the new one is whole (``replaced``), and an unfinished one is deleted.  Only a
folder that holds our ``attempt.json`` is touched.
"""

import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from megatron_dasd import __version__, replaced
from megatron_dasd.errors import UserError
from megatron_dasd.json_values import Figures, JsonObject
from megatron_dasd.manifests import (
    ATTEMPT,
    LOCK,
    MANIFEST,
    PART,
    SET_ASIDE,
    FileFacts,
    Manifest,
    digest_of,
    file_sha256,
    fingerprint_of,
    hash_files,
    part_digest_path,
    part_files,
    part_path,
    unfinished_digests,
)
from megatron_dasd.records_io import TALLY_KEY, parquet_errors, to_table

_MANY_VALUES = re.compile(r"\b(token_ids|logprobs)\b|_probability\b")
"""Columns of 8-byte numbers that seldom repeat: a dictionary costs time and saves nothing, but they
compress better and decode faster when split into streams of equal byte places."""


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file so that a kill leaves either the old file or the new one, whole."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_part(
    folder: Path,
    index: int,
    record_type: type,
    records: Iterable[object] | pa.Table,
    counts: Mapping[str, int] | None = None,
    set_aside: Iterable[Mapping[str, str]] = (),
) -> None:
    """Write one part of a stage folder; see :meth:`StageFolder.write_part`.

    For the ranks of a stage, whose launching process holds the folder.
    """
    rejected = list(set_aside)
    if rejected:  # written first: the part itself marks the work as done
        _write_table(part_path(folder, index, SET_ASIDE), to_table(None, rejected, {}))
    _write_table(part_path(folder, index), to_table(record_type, records, dict(counts or {})))


def _leaves(field: pa.Field, path: str = "") -> Iterator[str]:
    """The Parquet columns of a field."""
    path += field.name
    if pa.types.is_struct(field.type):
        for inner in field.type:
            yield from _leaves(inner, f"{path}.")
    elif pa.types.is_list(field.type):
        yield from _leaves(pa.field("element", field.type.value_type), f"{path}.list.")
    else:
        yield path


def _write_table(path: Path, table: pa.Table) -> None:
    # a worker that has outlived its killed run may still be writing the part, perhaps elsewhere
    temporary = path.with_name(f".{path.name}.{os.uname().nodename}.{os.getpid()}.tmp")
    columns = [name for field in table.schema for name in _leaves(field)]
    pq.write_table(
        table,
        temporary,
        compression="zstd",
        use_dictionary=[name for name in columns if not _MANY_VALUES.search(name)],
        use_byte_stream_split=[name for name in columns if _MANY_VALUES.search(name)],
        write_page_checksum=True,
    )
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    # before the part, which marks the work as done
    part_digest_path(path).write_text(file_sha256(temporary))
    temporary.replace(path)


def tally_of(folder: Path) -> Counter[str]:
    """Counts summed over all parts of a stage's folder; none for what is no such folder.

    Raises:
        UserError: a part's counts are damaged.
    """
    total: Counter[str] = Counter()
    for path in part_files(folder):
        total.update(part_counts(path))
    return total


def part_counts(path: Path) -> dict[str, int]:
    """The counts of a part.

    Raises:
        UserError: they are damaged.
    """
    try:
        with parquet_errors(path):
            metadata = pq.read_schema(path).metadata or {}
        counts: dict[str, int] = json.loads(metadata.get(TALLY_KEY, b"{}"))
    except ValueError as error:
        raise UserError(f"{path}: damaged counts ({error}); delete it") from None
    return counts


class EndOfShare(Exception):
    """One of several processes that make a stage's parts has none left to make."""


class StageFolder:
    """The output folder of a running stage; as a context manager it holds the folder's lock."""

    def __init__(
        self, path: Path, stage: str, kind: str, settings: JsonObject, inputs: dict[str, str]
    ) -> None:
        self.path = path
        self._stage, self._kind, self._settings, self._inputs = stage, kind, settings, inputs
        self.fingerprint = fingerprint_of(kind, settings, inputs)
        self._started = time.monotonic()
        self._lock_fd = -1

    def __enter__(self) -> Self:
        self._open()
        try:
            if not self._is_same_attempt():
                self._start_anew()
            (self.path / MANIFEST).unlink(missing_ok=True)
        except BaseException:
            os.close(self._lock_fd)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._lock_fd)

    def _refuse_foreign_files(self) -> None:
        if (self.path / ATTEMPT).exists():
            return
        ours = (LOCK, f".{ATTEMPT}.tmp")
        foreign = sorted(entry.name for entry in self.path.iterdir() if entry.name not in ours)
        if foreign:
            raise UserError(
                f"{self.path}: holds files that no stage wrote ({foreign[0]}, ...); "
                "choose another run_dir or move them away"
            )

    def _open(self) -> None:
        self.path.resolve().mkdir(parents=True, exist_ok=True)
        self._refuse_foreign_files()
        self._lock_fd = replaced.lock(self.path)

    def _start_anew(self) -> None:
        """Keep a finished result of another fingerprint beside the folder; delete any other."""
        if (self.path / MANIFEST).exists():
            replaced.set_aside(self.path)
            moved = self._lock_fd
            self._open()
            os.close(moved)
        replaced.empty(self.path)
        identity = {
            "stage": self._stage,
            "kind": self._kind,
            "settings": self._settings,
            "inputs": self._inputs,
            "fingerprint": self.fingerprint,
        }
        write_atomic(self.path / ATTEMPT, json.dumps(identity, indent=2).encode())

    def _is_same_attempt(self) -> bool:
        try:
            attempt = json.loads((self.path / ATTEMPT).read_text())
            return bool(attempt["fingerprint"] == self.fingerprint)
        except (FileNotFoundError, ValueError, LookupError, TypeError, RecursionError):
            return False

    # -- parts ---------------------------------------------------------------------------------

    def part_path(self, index: int) -> Path:
        """Path of the part ``index``; it exists only when the part is whole."""
        return part_path(self.path, index)

    def expect(self, num_parts: int) -> None:
        """Note how many parts there will be, where several processes make them."""

    def claim(self, index: int) -> bool:
        """Take a part that is missing; False where another process has taken it."""
        return True

    def end_of_share(self) -> None:
        """Note that this process has made its parts.

        Raises:
            EndOfShare: other processes have parts in the making, and one of them finishes the
                stage.
        """

    def has_part(self, index: int) -> bool:
        """Whether this part was written, by this attempt or an earlier one."""
        return self.part_path(index).exists()

    def write_part(
        self,
        index: int,
        record_type: type,
        records: Iterable[object] | pa.Table,
        counts: Mapping[str, int] | None = None,
        set_aside: Iterable[Mapping[str, str]] = (),
    ) -> None:
        """Write one part atomically, with its counts and the records set aside while making it.

        Args:
            index: number of the part, counted from 0.
            record_type: dataclass of ``records``.
            records: records, or a table of them.
            counts: the part's records by outcome; the manifest has the sum over parts.
            set_aside: rows ``{"reason", "record"}`` that did not pass, kept beside the part.
        """
        write_part(self.path, index, record_type, records, counts, set_aside)

    def written_part(self, index: int) -> Path:
        """Path of a part that this stage reads again: it holds what was written.

        Raises:
            UserError: its content has changed since an earlier attempt.
        """
        path = self.part_path(index)
        _check_part(path, file_sha256(path))
        return path

    def tally(self) -> Counter[str]:
        """Counts summed over all parts written so far."""
        return tally_of(self.path)

    def delete_parts(self) -> None:
        """Delete all parts, and the records set aside beside them."""
        for kind in (PART, SET_ASIDE):
            for path in part_files(self.path, kind):
                path.unlink()

    # -- other files ---------------------------------------------------------------------------

    def write_json(self, name: str, value: object) -> None:
        """Write a JSON file atomically."""
        write_atomic(self.path / name, json.dumps(value, indent=2, sort_keys=True).encode())

    def scratch(self, name: str) -> Path:
        """An empty folder to build a multi-file result in; hand it to :meth:`commit`."""
        temporary = self.path / f".{name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        return temporary

    def commit(self, scratch: Path) -> Path:
        """Rename a finished scratch folder to its name, replacing an earlier one."""
        final = scratch.with_name(scratch.name.removeprefix(".").removesuffix(".tmp"))
        if final.exists():
            shutil.rmtree(final)
        scratch.rename(final)
        return final

    # -- the end -------------------------------------------------------------------------------

    def finish(
        self, counts: Mapping[str, int] | None = None, figures: Figures | None = None
    ) -> Manifest:
        """Write the manifest: from here on the stage is finished.

        Args:
            counts: overrides the counts summed over parts.
            figures: what the report shows of this stage.
        """
        for leftover in self.path.glob(".*.tmp"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        files = hash_files(self.path)
        self._check_parts(files)
        manifest = Manifest(
            stage=self._stage,
            kind=self._kind,
            settings=self._settings,
            inputs=self._inputs,
            fingerprint=self.fingerprint,
            version=__version__,
            counts=dict(counts if counts is not None else self.tally()),
            figures=dict(figures or {}),
            seconds=round(time.monotonic() - self._started, 3),
            files=files,
            digest=digest_of(files),
        )
        self.write_json(MANIFEST, asdict(manifest))
        for digest in unfinished_digests(self.path):
            digest.unlink()
        replaced.delete_replaced(self.path)
        return manifest

    def _check_parts(self, files: Mapping[str, FileFacts]) -> None:
        """Check that the parts are still what was written, perhaps by an attempt long ago.

        Raises:
            UserError: names the first that differs.
        """
        for part in [*part_files(self.path), *part_files(self.path, SET_ASIDE)]:
            _check_part(part, files[part.name]["sha256"])


def _check_part(part: Path, sha256: str) -> None:
    """Compare a part's hash with the one that it was written with.

    Raises:
        UserError: they differ.
    """
    digest = part_digest_path(part)
    written = digest.read_text(errors="replace") if digest.exists() else ""
    # a crash of the machine may leave an empty file
    if written and written != sha256:
        raise UserError(
            f"{part}: its content is not what this stage wrote; delete it and start again"
        )
