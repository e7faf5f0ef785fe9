"""Starts the ranks of a distributed program, here or on a job's nodes, and watches over them.

One process a rank, its output in a log file of its own.  A rank that fails ends the others; the
ranks end with this process however it ends, so that no orphan keeps writing to a checkpoint.
A signal to stop this process is passed on to the ranks, which are waited for: training saves first.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

from megatron_dasd.device import gpus, srun
from megatron_dasd.device.ports import free_port
from megatron_dasd.errors import (
    MISTAKE_STATUS,
    STOPPED_STATUS,
    UNEXPECTED_STATUS,
    Stopped,
    UnexpectedError,
    UserError,
)
from megatron_dasd.last_net import ERROR_PREFIX, guard

_POLL_SECONDS = 0.1
STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
"""What schedulers send before a time limit or a preemption.  Ranks get SIGTERM for either."""
_ENVIRONMENT = {
    # Megatron requires it: kernels of one stream start in the order they were launched in.
    "CUDA_DEVICE_MAX_CONNECTIONS": "1",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def launch(
    module: str,
    payload: object,
    num_ranks: int,
    log_dir: Path,
    on_poll: Callable[[], None] | None = None,
) -> None:
    """Run ``python -m module PAYLOAD.json`` as ``num_ranks`` processes and wait for them.

    Args:
        module: one with a ``main(payload)`` that ends in :func:`run_program` when run by itself.
        payload: what the program is to do, of the type that its ``main`` is annotated with;
            handed over as a JSON file (:mod:`.payload`).
        log_dir: where the payload and ``rank-N.log`` go.
        on_poll: called several times a second, e.g. to move a progress bar.

    Raises:
        UserError: a rank failed; with its own line if it wrote one, else with its log's name.
        Stopped: this process got SIGTERM or SIGUSR1, and all ranks have ended.
    """
    log_dir.mkdir(parents=True, exist_ok=True)
    payload_path = log_dir / "payload.json"
    from megatron_dasd.device.payload import write_payload  # pydantic: no --help needs it

    write_payload(payload_path, payload)
    on_poll = on_poll or (lambda: None)
    if steps := srun.steps_folder():
        _launch_step(steps, module, payload_path, num_ranks, log_dir, on_poll)
        return
    context = _context()
    environment = _ENVIRONMENT | {
        "MASTER_ADDR": "127.0.0.1",
        # One rank alone takes any port at the moment it listens: nobody can be there before it.
        "MASTER_PORT": str(free_port("127.0.0.1") if num_ranks > 1 else 0),
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_WORLD_SIZE": str(num_ranks),
    }
    ranks: list[BaseProcess] = []
    with _stops() as stops:
        try:
            for rank in range(num_ranks):
                own = environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                log = log_dir / f"rank-{rank}.log"
                process: BaseProcess = context.Process(
                    target=_run_rank, args=(module, payload_path, own, log)
                )
                _start(process, module, rank)
                ranks.append(process)
            _watch(module, ranks, stops, log_dir, on_poll)
        finally:
            for process in ranks:
                process.kill()
            for process in ranks:
                process.join()
    if stops:
        raise Stopped(f"stopped on {stops[0].name}")


def _context() -> SpawnContext | ForkServerContext:
    """How ranks are started: forked from a process that has imported Megatron, or spawned.

    Where there is a GPU they are spawned: see ``device.preload``.
    """
    if gpus.in_sight():
        return multiprocessing.get_context("spawn")
    forking = multiprocessing.get_context("forkserver")
    forking.set_forkserver_preload(["megatron_dasd.device.preload"])
    return forking


def _launch_step(
    steps: Path,
    module: str,
    payload: Path,
    num_ranks: int,
    log_dir: Path,
    on_poll: Callable[[], None],
) -> None:
    """Start the ranks on the nodes of a Slurm job, whose script sets where they meet."""
    environment = _ENVIRONMENT | {"MASTER_PORT": str(free_port())}
    request = srun.step_request(module, payload, num_ranks, log_dir, environment)
    for log in log_dir.glob("rank-*.log"):
        log.unlink()  # an earlier attempt's might be taken for this one's
    with _stops() as stops:
        status = srun.run_step(steps, request, stops, on_poll)
    if stops:
        raise Stopped(f"stopped on {stops[0].name}")
    if status == STOPPED_STATUS:
        raise Stopped("a rank was stopped by a signal")
    if status:
        kind = UnexpectedError if status == UNEXPECTED_STATUS else UserError
        raise kind(_reason_of_step(module, status, log_dir))


def run_program[P](main: Callable[[P], None]) -> None:
    """Entry point of a program: read its payload, from the file that argv names, and run it.

    Standard error is the rank's log, which takes the traceback of an unexpected error.
    """
    from megatron_dasd.device.payload import read_payload

    run_guarded(lambda: main(read_payload(main, Path(sys.argv[1]))), logs_traceback=True)


def run_module(module: str) -> None:
    """The same for a program that is still to be imported, which takes seconds."""
    from megatron_dasd.device.payload import read_payload

    def run() -> None:
        main = importlib.import_module(module).main
        main(read_payload(main, Path(sys.argv[1])))

    run_guarded(run, logs_traceback=True)


def run_guarded(main: Callable[[], None], *, logs_traceback: bool = False) -> None:
    """Run as a rank, and report what ends it in one line.

    Args:
        main: the rank's work.
        logs_traceback: whether standard error is a log; otherwise an unexpected error's traceback
            goes to a file that the line names.
    """
    status = guard(main, logs_traceback=logs_traceback)
    if status:
        sys.stdout.flush()
        os._exit(status)  # the other ranks may wait in a collective: so do not wait for them


def _start(process: BaseProcess, module: str, rank: int) -> None:
    """Start a rank.

    Raises:
        UserError: the fork server has ended.
    """
    try:
        process.start()
    except (EOFError, ConnectionError) as error:
        raise UserError(
            f"{module}: rank {rank} did not start, the process that forks the ranks has ended "
            f"({type(error).__name__}), perhaps for lack of memory; start the command again"
        ) from None


@contextlib.contextmanager
def _stops() -> Iterator[list[signal.Signals]]:
    """Collect the signals to stop that arrive meanwhile; they have no other effect."""
    came: list[signal.Signals] = []
    if threading.current_thread() is not threading.main_thread():
        yield came  # Python handles signals in the main thread alone
        return

    def note(number: int, _: FrameType | None) -> None:
        came.append(signal.Signals(number))

    before = {number: signal.signal(number, note) for number in STOP_SIGNALS}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(
    module: str,
    ranks: list[BaseProcess],
    stops: list[signal.Signals],
    log_dir: Path,
    on_poll: Callable[[], None],
) -> None:
    running = True
    num_passed_on = 0
    while running:
        if len(stops) > num_passed_on:
            num_passed_on = len(stops)
            for process in ranks:
                process.terminate()
        running = any(process.exitcode is None for process in ranks)
        codes = [process.exitcode for process in ranks]
        failures = [rank for rank, code in enumerate(codes) if code]
        if failures and stops:
            return  # one that had nothing to save ended at once, and the others with it
        for rank in failures:
            if codes[rank] == STOPPED_STATUS:
                raise Stopped(f"rank {rank} was stopped by a signal")
        if failures:
            # A rank that reports a user's mistake explains the others, which merely lost it.
            order = [MISTAKE_STATUS, UNEXPECTED_STATUS]
            rank = min(failures, key=lambda rank: (codes[rank] not in order, codes[rank], rank))
            kind = UnexpectedError if codes[rank] == UNEXPECTED_STATUS else UserError
            raise kind(_reason(module, rank, codes[rank], log_dir))
        on_poll()
        if running:
            time.sleep(_POLL_SECONDS)


def _run_rank(module: str, payload: Path, environment: dict[str, str], log: Path) -> None:
    """Body of a rank's process."""
    threading.Thread(target=die_with_launcher, daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the launching process's to handle
    end_on_signals()
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(output, sys.stdout.fileno())
    os.dup2(output, sys.stderr.fileno())
    os.environ.update(environment)
    _share_cores(int(environment["WORLD_SIZE"]))
    sys.argv = [module, str(payload)]
    run_module(module)


def end_on_signals() -> None:
    """From here on a signal to stop ends this process in order, with status 75.

    For a program's start, and for one that has nothing to save but what it has written.  A training
    takes the signals over when there is a step to end.
    """

    def stop(number: int, _: FrameType | None) -> None:
        raise Stopped(f"stopped on {signal.Signals(number).name}")

    for number in STOP_SIGNALS:
        signal.signal(number, stop)


def die_with_launcher() -> None:
    """Wait for the end of the process that started this one, and end with it.

    Not by the kernel's parent-death signal: the parent may be the fork server, which stays.
    """
    launcher = multiprocessing.parent_process()
    assert launcher is not None
    launcher.join()
    os.kill(os.getpid(), signal.SIGKILL)


def _share_cores(num_ranks: int) -> None:
    import torch  # not at the top: the launching process needs no torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // num_ranks))


def _reason(module: str, rank: int, code: int | None, log_dir: Path) -> str:
    log = log_dir / f"rank-{rank}.log"
    mistake, last = _ending(log)
    if mistake and code == UNEXPECTED_STATUS:
        return f"{module}: rank {rank} ended with status {code}: {mistake} (log: {log})"
    return mistake or f"{module}: rank {rank} ended with status {code}: {last} (log: {log})"


def _reason_of_step(module: str, status: int, log_dir: Path) -> str:
    """The mistake that a rank reports; else the end of the log that was written to last."""
    logs = sorted(log_dir.glob("rank-*.log"), key=lambda log: log.stat().st_mtime)
    for log in logs:
        if mistake := _ending(log)[0]:
            return mistake
    end = f": {_ending(logs[-1])[1]} (log: {logs[-1]})" if logs else ""
    return f"{module}: the step ended with status {status}{end}"


def _ending(log: Path) -> tuple[str | None, str]:
    """The user's mistake that a log reports, if any, and its last line."""
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    mistakes = [line for line in lines if line.startswith(ERROR_PREFIX)]
    mistake = mistakes[-1].removeprefix(ERROR_PREFIX) if mistakes else None
    return mistake, lines[-1].strip() if lines else "no output"
