"""How the stages of conversion run their one-rank programs, and get their results."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from megatron_dasd.checkpoint.payloads import ConversionPayload, Converted
from megatron_dasd.device.launch import launch
from megatron_dasd.progress import progress

RESULT = "result.json"
"""In the folder of logs: what a program gave back."""
_MEGABYTE = 10**6


@dataclass(frozen=True)
class Conversion:
    """What an import or export did."""

    dtype: str
    """Type of the weights."""
    converted: Converted

    def figures(self) -> dict[str, object]:
        """Figures for a stage's manifest."""
        return {"dtype": self.dtype, **self.converted.model_dump()}


def run_rank[R: BaseModel](
    module: str,
    payload: ConversionPayload,
    kind: type[R],
    log_dir: Path,
    on_poll: Callable[[], None] | None = None,
) -> R:
    """Run a program on one rank and return what it gives to :func:`write_result`.

    Args:
        module: the program.
        payload: what it is to do; its ``result`` lies in ``log_dir``.
        kind: class of its result.
        log_dir: where its log goes.
        on_poll: called several times a second.

    Raises:
        UserError: the program failed.
    """
    launch(module, payload, 1, log_dir, on_poll)
    return kind.model_validate_json(payload.result.read_text())


def write_result(payload: ConversionPayload, result: BaseModel) -> None:
    """Hand a program's result back to the process that launched it."""
    payload.result.write_text(result.model_dump_json())


def peak_memory_bytes() -> int:
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
    total, shown = max(1, round(num_bytes / _MEGABYTE)), 0
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
