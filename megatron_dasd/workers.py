"""Independent jobs on many cores: processes of this machine, or the ranks of an MPI job on several.

Under ``mpiexec -n N python -m mpi4py.futures PROGRAM`` rank 0 runs the program and the others wait
for work.  Elsewhere workers are forked from this process and share what it has loaded: a tokenizer
takes seconds to load.  They are forked before any thread runs that could hold a lock.
"""

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from typing import Self

from megatron_dasd.device.launch import die_with_launcher
from megatron_dasd.errors import UserError

_FORK = multiprocessing.get_context("fork")
_AHEAD = 4
"""Jobs handed out and not yet taken back, for each process: what hides a slow one among them."""


class Workers:
    """Processes that do jobs; a context manager, which ends them.

    What is to be shared with them is loaded before it is entered, and threads are started after.
    """

    def __init__(self, num_workers: int | None, num_jobs: int) -> None:
        """Choose how many processes there will be.

        Args:
            num_workers: processes on this machine; 1: this process alone; None: one a core.
                Ignored under MPI, where all ranks but this one work.
            num_jobs: the number of jobs to come; no more processes than that are started.
        """
        wanted = min(num_workers or len(os.sched_getaffinity(0)), num_jobs)
        self.count = _num_other_ranks() if num_jobs else 0
        """Processes beside this one; 0: this process does the jobs."""
        self._over_mpi = self.count > 0
        if not self._over_mpi and wanted > 1:
            self.count = wanted
        self._pool: Executor | None = None
        self._others: set[BaseProcess] = set()

    def __enter__(self) -> Self:
        if self._over_mpi:
            from mpi4py.futures import MPIPoolExecutor

            self._pool = MPIPoolExecutor()
        elif self.count:
            self._others = set(multiprocessing.active_children())
            self._pool = ProcessPoolExecutor(self.count, _FORK, _begin)
            with warnings.catch_warnings():
                # other threads of this process wait for work, in libraries prepared for a fork
                warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork")
                self._pool.submit(int)  # the first job forks all processes
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if self._pool is None:
            return
        # after an error nothing is waited for: unfinished work is done again by the next run
        self._pool.shutdown(wait=error is None, cancel_futures=True)
        if not self._over_mpi:
            for process in set(multiprocessing.active_children()) - self._others:
                process.kill()

    def in_order[Task, Result](
        self, work: Callable[[Task], Result], jobs: Iterable[Task]
    ) -> Iterator[Result]:
        """Do jobs, many at a time; yields their results in the order of the jobs.

        Jobs are taken from the iterable as there is room, so the results that wait are bounded.
        ``jobs`` may be made from results of another call: both share the processes.

        Args:
            work: a module-level function, so that other processes can import it.
            jobs: its arguments; each is pickled to a process.

        Raises:
            UserError: a process was killed.
            Exception: what the first job in order raises.
        """
        if self._pool is None:
            yield from map(work, jobs)
            return
        waiting: deque[Future[Result]] = deque()
        try:
            for job in jobs:
                waiting.append(self._pool.submit(work, job))
                while waiting and (waiting[0].done() or len(waiting) >= _AHEAD * self.count):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise UserError(
                "a worker process was ended from outside (out of memory?); "
                "the same command goes on from here, num_workers: 1 needs least"
            ) from None


def _begin() -> None:
    """Set up a worker: it ends with its parent, which alone handles Ctrl-C."""
    threading.Thread(target=die_with_launcher, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _num_other_ranks() -> int:
    """Ranks that wait for work under ``mpi4py.futures``; 0 elsewhere."""
    if "mpi4py.futures" not in sys.modules:
        return 0
    from mpi4py import MPI

    return int(MPI.COMM_WORLD.Get_size()) - 1
