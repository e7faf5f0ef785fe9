"""The file of training's metrics: a JSON line for each step and each held-out evaluation."""

import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from megatron_dasd.artifacts import write_atomic

_TAIL_BYTES = 4096
"""The end of the file that holds its newest lines."""


class StepLine(BaseModel):
    """What those who watch a training read of a step's line."""

    model_config = ConfigDict(frozen=True)

    iteration: int
    loss: float
    tokens_per_second: float = 0.0
    mfu: float | None = None
    peak_memory_gib: float | None = None
    on_policy_rows: int = 0
    on_policy_age: float = 0.0


def append_line(path: Path | None, line: dict[str, object]) -> None:
    """Append a line; None: there is no file."""
    if path is not None:
        with path.open("a") as file:
            file.write(json.dumps(line) + "\n")


def last_step(metrics: Path) -> StepLine | None:
    """The newest whole line that is a step's; None: there is none yet."""
    try:
        with metrics.open("rb") as file:
            # read several times a second, so not the whole of a long run's file
            file.seek(max(0, metrics.stat().st_size - _TAIL_BYTES))
            tail = file.read().decode(errors="replace")
    except FileNotFoundError:
        return None
    for line in reversed(tail.splitlines()):
        try:
            return StepLine.model_validate_json(line)
        except ValidationError:  # torn, or a held-out evaluation's
            continue
    return None


def forget_after(path: Path, iteration: int) -> None:
    """Drop the lines of later iterations, which will be trained again, and a torn last one."""
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            is_kept = json.loads(line)["iteration"] <= iteration
        except (ValueError, LookupError, TypeError, RecursionError):
            continue
        if line.endswith(b"\n") and is_kept:
            kept.append(line)
    write_atomic(path, b"".join(kept))
