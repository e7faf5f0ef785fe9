"""Several processes that ask servers for one stage, with one bound of requests in flight over all.

::

    stage ─► clients, each with a share of the bound ─► parts ─► the stage, which finds all parts

Each client runs the stage on the same folder.  It takes a part that no client has taken, when it
has room for one, and ends where the parts do.  Which client makes a part changes nothing in it.
"""

import contextlib
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from megatron_dasd.artifacts import EndOfShare, StageFolder, part_counts, write_atomic
from megatron_dasd.config.base import Server, Settings
from megatron_dasd.config.execution import models_within
from megatron_dasd.manifests import part_files
from megatron_dasd.progress import progress
from megatron_dasd.workers import Workers

_CLAIMS = "claims"
_TOTAL = "total"
"""File among the claims that holds the number of parts."""
_FIRST_POLL_SECONDS, _POLL_SECONDS = 0.2, 2.0


@dataclass(frozen=True)
class _ClientJob:
    settings: Settings
    inputs: Mapping[str, Path]
    folder: Path
    claims: Path
    """Folder of an empty file for each part that a client has taken."""


class _ClientFolder(StageFolder):
    """A stage's folder in a client; the process that started the clients holds its lock."""

    def __init__(self, job: _ClientJob) -> None:
        super().__init__(job.folder, job.folder.name, job.settings.kind, {}, {})
        self._claims = job.claims

    def expect(self, num_parts: int) -> None:
        if self.claim(-1):  # one client tells the number
            write_atomic(self._claims / _TOTAL, str(num_parts).encode())

    def claim(self, index: int) -> bool:
        try:
            (self._claims / str(index)).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def end_of_share(self) -> None:
        raise EndOfShare


def share_among_clients(
    settings: Settings, inputs: Mapping[str, Path], folder: StageFolder
) -> None:
    """Make the parts of a stage that asks servers, from several processes where it has them.

    The stage then finds all parts.  Nothing is done for a stage that asks no servers, or does so
    from one process: it makes its parts itself.

    Raises:
        UserError: a client fails, as the stage does.
    """
    servers = [found for found in models_within(settings) if isinstance(found, Server)]
    if not settings.works_over_mpi or len(servers) != 1 or servers[0].reload:
        return
    concurrency = servers[0].concurrency
    wanted = min(servers[0].client_processes, concurrency)
    with Workers(wanted, wanted) as workers:
        count = min(workers.count, concurrency)
        if not count:
            return
        claims = folder.scratch(_CLAIMS)
        jobs = (
            _ClientJob(_with_concurrency(settings, share), dict(inputs), folder.path, claims)
            for share in shares(concurrency, count)
        )
        over = threading.Event()
        showing = threading.Thread(target=_show, args=(folder.path, claims, over), daemon=True)
        showing.start()
        try:
            for _ in workers.in_order(_run_client, jobs):
                pass
        finally:
            over.set()
            showing.join()


def shares(total: int, count: int) -> list[int]:
    """[count] a number divided into shares that differ by 1 at most."""
    return [total // count + (number < total % count) for number in range(count)]


def _with_concurrency(settings: Settings, concurrency: int) -> Settings:
    """The settings with another bound of requests in flight."""
    change = {"concurrency": concurrency}
    for name in ("engine", "server"):
        found = getattr(settings, name, None)
        if isinstance(found, Server):
            return settings.model_copy(update={name: found.model_copy(update=change)})
        if found is not None:
            server = found.server.model_copy(update=change)
            return settings.model_copy(update={name: found.model_copy(update={"server": server})})
    raise AssertionError("a stage whose servers are in engine or server")


def _run_client(job: _ClientJob) -> None:
    run: Callable[..., object] = import_module(job.settings.stage.module).run
    # the process that started the clients shows how all of them get on
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            run(job.settings, job.inputs, _ClientFolder(job))
        except EndOfShare:
            return


def _show(folder: Path, claims: Path, over: threading.Event) -> None:
    """Show how many parts there are, until the clients are over."""
    total = claims / _TOTAL
    while not over.wait(_FIRST_POLL_SECONDS) and not total.exists():
        pass
    if not total.exists():
        return
    known, num_parts = set(part_files(folder)), int(total.read_text())
    started, counts = time.monotonic(), Counter[str]()
    with (
        contextlib.suppress(EndOfShare),
        progress("asking servers", num_parts, "parts", done=len(known)) as bar,
    ):
        while True:
            ended = over.wait(_POLL_SECONDS)
            fresh = set(part_files(folder)) - known
            known |= fresh
            for part in fresh:
                counts.update(part_counts(part))
            bar.advance(len(fresh), note=_note(counts, time.monotonic() - started))
            if ended and len(known) < num_parts:
                raise EndOfShare  # so that the bar says where it stopped
            if ended:
                return


def _note(counts: Mapping[str, int], seconds: float) -> str:
    rate = counts.get("generated tokens", 0) / seconds
    faults = (
        f"{count:,} x {name.removeprefix('fault: ')}"
        for name, count in sorted(counts.items())
        if name.startswith("fault: ")
    )
    return ", ".join([*([f"{rate:,.0f} tokens/s"] if rate else []), *faults])
