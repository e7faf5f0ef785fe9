"""Worker processes: those of this machine, or the ranks of an MPI job on many.

Under ``mpiexec -n N python -m mpi4py.futures PROGRAM`` rank 0 runs the program and the others wait
for work.  Anywhere else processes are forked from this one, with what it has loaded: a tokenizer
takes seconds to load.  They are forked before anything runs beside them that could hold a lock.
"""

import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess

from megatron_dasd.device.launch import die_with_launcher
from megatron_dasd.errors import UserError

_FORK = multiprocessing.get_context("fork")


def run_all[Job, Result](
    work: Callable[[Job], Result], jobs: Iterable[Job], num_workers: int | None
) -> Iterator[Result]:
    """Start doing jobs, in any order; gives their results as they come.

    Args:
        work: a function of a module, so that it can be named to other processes.
        jobs: what it is called with; each goes to a process by pickle.
        num_workers: processes on this machine, this one alone for 1; None: one a core.  Under MPI
            all ranks but this one.

    Raises:
        UserError: a process ended before its work was done.
    """
    waiting = list(jobs)
    num_workers = min(num_workers or len(os.sched_getaffinity(0)), len(waiting))
    if _under_mpi() and waiting:
        from mpi4py.futures import MPIPoolExecutor

        return _results(MPIPoolExecutor(), work, waiting)
    if num_workers > 1:
        return _results(ProcessPoolExecutor(num_workers, _FORK, _begin), work, waiting)
    return map(work, waiting)


def _results[Job, Result](
    pool: Executor, work: Callable[[Job], Result], jobs: list[Job]
) -> Iterator[Result]:
    others = set(multiprocessing.active_children())
    with warnings.catch_warnings():
        # other threads of this process wait for work, in libraries that are prepared for a fork
        warnings.filterwarnings("ignore", category=DeprecationWarning, message=".*fork")
        futures = [pool.submit(work, job) for job in jobs]
    return _collected(pool, futures, others)


def _collected[Result](
    pool: Executor, futures: list[Future[Result]], others: set[BaseProcess]
) -> Iterator[Result]:
    try:
        for future in as_completed(futures):
            yield future.result()
        pool.shutdown()
    except BrokenProcessPool:
        raise UserError(
            "a worker process was ended from outside (out of memory?); "
            "the same command goes on from here, num_workers: 1 needs least"
        ) from None
    finally:
        # after an error nothing is waited for: what a worker has not finished is done again
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - others:
            process.kill()


def _begin() -> None:
    """Start of a worker process: it ends with the one that started it, which alone hears Ctrl-C."""
    threading.Thread(target=die_with_launcher, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _under_mpi() -> bool:
    """Whether this is rank 0 of several that ``mpi4py.futures`` has set to work for it."""
    if "mpi4py.futures" not in sys.modules:
        return False
    from mpi4py import MPI

    return bool(MPI.COMM_WORLD.Get_size() > 1)
