"""What the stages and the programs of conversion say to one another while they run."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from megatron_dasd.device.launch import launch
from megatron_dasd.progress import progress

_MEGABYTE = 10**6


def run_rank(
    module: str,
    payload: dict[str, Any],
    log_dir: Path,
    on_poll: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """Run a program on one rank and return what it gives to :func:`write_result`."""
    result = log_dir / "result.json"
    launch(module, payload | {"result": str(result)}, 1, log_dir, on_poll)
    figures: dict[str, Any] = json.loads(result.read_text())
    return figures


def write_result(payload: dict[str, Any], **figures: Any) -> None:
    """Hand figures back to the launching process, and the largest memory this one ever had."""
    figures |= {"peak_memory_bytes": _peak_memory_bytes()}
    Path(payload["result"]).write_text(json.dumps(figures))


def _peak_memory_bytes() -> int:
    """Largest resident set of this process so far, pages of mapped files included."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM in /proc/self/status")


@contextmanager
def writing_progress(what: str, folder: Path, num_bytes: int) -> Iterator[Callable[[], None]]:
    """Show how much of ``num_bytes`` lies in a folder that another process writes into.

    Yields:
        What is to be called now and then.
    """
    total, shown = round(num_bytes / _MEGABYTE), 0
    with progress(what, total=total, unit="MB") as bar:

        def show() -> None:
            nonlocal shown
            now = min(total, _bytes_below(folder) // _MEGABYTE)
            bar.advance(now - shown)
            shown = now

        yield show
        bar.advance(total - shown)


def _bytes_below(folder: Path) -> int:
    num_bytes = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # renamed just now
            num_bytes += path.stat().st_size if path.is_file() else 0
    return num_bytes
