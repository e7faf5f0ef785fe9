"""Worker processes: those of this machine, or the ranks of an MPI job on many.

Under ``mpiexec -n N python -m mpi4py.futures PROGRAM`` rank 0 runs the program and the others wait
for work; anywhere else processes are forked from a server that has imported what they need.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

from megatron_dasd.device.launch import die_with_launcher
from megatron_dasd.errors import UserError

_CONTEXT = multiprocessing.get_context("forkserver")


def run_all[Job, Result](
    work: Callable[[Job], Result], jobs: Iterable[Job], num_workers: int | None
) -> Iterator[Result]:
    """Do jobs in any order and yield their results as they come.

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

        yield from _results(MPIPoolExecutor(), work, waiting)
    elif num_workers > 1:
        _CONTEXT.set_forkserver_preload([work.__module__])
        pool = ProcessPoolExecutor(num_workers, _CONTEXT, _begin)
        yield from _results(pool, work, waiting)
    else:
        yield from map(work, waiting)


def _results[Job, Result](
    pool: Executor, work: Callable[[Job], Result], jobs: list[Job]
) -> Iterator[Result]:
    others = set(multiprocessing.active_children())
    futures: list[Future[Result]] = []
    try:
        futures = [pool.submit(work, job) for job in jobs]
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
