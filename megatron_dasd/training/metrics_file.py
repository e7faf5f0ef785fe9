"""The file of training's metrics: a JSON line a step, and one an evaluation."""

import json
from pathlib import Path
from typing import Any

from megatron_dasd.artifacts import write_atomic

_TAIL_BYTES = 4096
"""The end of the file that holds its newest lines."""


def last_step(metrics: Path) -> dict[str, Any] | None:
    """The newest whole line of the metrics that tells of a step."""
    try:
        with metrics.open("rb") as file:
            # asked for several times a second, so not the whole of a long run's file
            file.seek(max(0, metrics.stat().st_size - _TAIL_BYTES))
            tail = file.read().decode()
    except FileNotFoundError:
        return None
    for line in reversed(tail.splitlines()):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if "loss" in row:
            return row  # type: ignore[no-any-return]
    return None


def forget_after(path: Path, iteration: int) -> None:
    """Drop the lines of later iterations, which are to be trained again, and a torn last one."""
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if line.endswith(b"\n") and row["iteration"] <= iteration:
            kept.append(line)
    write_atomic(path, b"".join(kept))
