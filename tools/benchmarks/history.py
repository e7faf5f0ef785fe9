"""Results by commit and CPU model, and which figures have changed by more than their noise."""

import json
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import TypedDict

from benchmarks.figures import Row
from megatron_dasd.artifacts import write_atomic

_FEWEST = 3
"""Results from which the noise of a figure is taken that has one sample a run."""


class Kept(TypedDict):
    """The results of one commit on one CPU model."""

    commit: str
    committed: str
    """Time of the commit, ISO 8601."""
    cpu: str
    cores: int
    rows: list[Row]


@dataclass(frozen=True)
class Change:
    """A figure that differs from an earlier one by more than their noise."""

    name: str
    before: float
    now: float
    noise: float
    """Relative."""
    commit: str
    """Of the earlier figure."""

    @property
    def line(self) -> str:
        """The change in words."""
        return (
            f"{self.name}: {self.before:.3f} at {self.commit}, now {self.now:.3f} "
            f"({self.now / self.before - 1:+.0%}; noise {self.noise:.0%})"
        )


def cpu_model() -> str:
    """The name that the kernel gives the CPU."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.M)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def keep(rows: Sequence[Row], folder: Path) -> Kept | None:
    """Keep results under their commit; rows of an earlier run of it are replaced by name.

    Returns:
        What is kept; None: files differ from the commit, and nothing is.
    """
    if _git("status", "--porcelain", "--untracked-files=no") != "":
        return None
    commit, cpu = _git("rev-parse", "--short=12", "HEAD"), cpu_model()
    path = _folder(folder, cpu) / f"{commit}.json"
    known: list[Row] = json.loads(path.read_bytes())["rows"] if path.exists() else []
    merged = {row["name"]: row for row in [*known, *rows]}
    kept: Kept = {
        "commit": commit,
        "committed": _git("show", "--no-patch", "--format=%cI", "HEAD"),
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "rows": list(merged.values()),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(kept, indent=2).encode() + b"\n")
    return kept


def read(folder: Path, cpu: str) -> list[Kept]:
    """What is kept of a CPU model, the oldest commit first."""
    found: list[Kept] = [
        json.loads(path.read_bytes()) for path in _folder(folder, cpu).glob("*.json")
    ]
    return sorted(found, key=lambda kept: kept["committed"])


def changes(rows: Sequence[Row], earlier: Sequence[Kept]) -> list[Change]:
    """Compare each figure with the newest earlier one of its name.

    The noise of a ratio is the spread of both sides' samples in both runs, each over its median;
    for figures of one sample the spread of the earlier values, where there are at least three.
    """
    found = []
    for row in rows:
        past = [
            (kept["commit"], other)
            for kept in earlier
            for other in kept["rows"]
            if other["name"] == row["name"]
        ]
        if not past:
            continue
        commit, before = past[-1]
        noise = _noise(row, before, [other["value"] for _, other in past])
        if noise is not None and abs(log(row["value"] / before["value"])) > log(1 + noise):
            found.append(Change(row["name"], before["value"], row["value"], noise, commit))
    return found


def _noise(row: Row, before: Row, past: Sequence[float]) -> float | None:
    """Relative noise of the ratio of two figures; None: it is not known."""
    sides = [row["own"], row["peer"], before["own"], before["peer"]]
    if all(len(side) > 1 for side in sides):
        return sum(map(_spread, sides))
    return _spread(past) if len(past) >= _FEWEST else None


def _spread(values: Sequence[float]) -> float:
    return (max(values) - min(values)) / statistics.median(values)


def histories(rows: Sequence[Row], kept: Sequence[Kept]) -> Mapping[str, list[float]]:
    """The values of each figure over the commits."""
    return {
        row["name"]: [
            other["value"] for one in kept for other in one["rows"] if other["name"] == row["name"]
        ]
        for row in rows
    }


def _folder(folder: Path, cpu: str) -> Path:
    return folder / re.sub(r"[^A-Za-z0-9]+", "-", cpu).strip("-").lower()


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], capture_output=True, text=True, check=False, cwd=Path(__file__).parent
    )
    return done.stdout.strip()
