"""The status of a pipeline's jobs: stage, job, state, progress, last line of the log."""

from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from megatron_dasd.cluster import queue
from megatron_dasd.cluster.jobs import JOBS
from megatron_dasd.cluster.submit import job_numbers
from megatron_dasd.config.pipeline import Pipeline
from megatron_dasd.manifests import LOGS, METRICS, part_files, read_manifest
from megatron_dasd.printing import say, shown
from megatron_dasd.training.metrics_file import last_step

_TAIL_BYTES = 4096
NOT_STARTED = "not started, an input failed"
_STYLES = {"done": "green", "RUNNING": "cyan", "PENDING": "dim", "not submitted": "dim"}


@dataclass(frozen=True)
class Line:
    """One job or stage."""

    name: str
    job: str
    state: str
    """Slurm's state with its reason; ``done``: the stage has finished; ``not submitted``."""
    progress: str
    last: str
    """Last line of the job's log."""
    log: Path | None

    @property
    def has_failed(self) -> bool:
        """Whether the job is over without having succeeded."""
        state = self.state.split(" ")[0]
        return state not in ("done", "not", "ended") and state not in queue.LIVE


def look(pipeline: Pipeline) -> list[Line]:
    """One line for every stage in running order, then for every server.

    Raises:
        UserError: Slurm is not installed here, or the file of the jobs' numbers is damaged.
    """
    numbers = job_numbers(pipeline)
    states = queue.states(numbers.values())
    others = [name for name in numbers if name not in pipeline.stages]
    lines = []
    for name in [*pipeline.stages, *others]:
        number = numbers.get(name, "")
        log = _log(pipeline, name, number)
        is_done = name in pipeline.stages and _is_done(pipeline, name)
        state = "done" if is_done else _state(number, states.get(number), name in others)
        lines.append(Line(name, number, state, _progress(pipeline, name), _last_line(log), log))
    return lines


def show(lines: list[Line]) -> None:
    """Print a table, and for each failed job its last line and its log."""
    table = Table(box=SIMPLE)
    for column in ("stage", "job", "state", "progress", "last line"):
        table.add_column(column, overflow="fold")
    for line in lines:
        style = "red" if line.has_failed else _STYLES.get(line.state.split(" ")[0], "")
        table.add_row(
            line.name,
            line.job or "-",
            Text(line.state, style),
            line.progress,
            Text(shown(line.last)),
        )
    Console().print(table)
    for line in lines:
        if line.has_failed:
            say(f"{line.name}: {line.state}: {line.last or 'no output'} (log: {line.log})")


def _is_done(pipeline: Pipeline, stage: str) -> bool:
    """Whether a stage has finished with the settings of the file; inputs are not compared."""
    manifest = read_manifest(pipeline.stage_dir(stage))
    return manifest is not None and manifest.settings == pipeline.stages[stage].identity()


def _state(number: str, state: queue.State | None, is_server: bool) -> str:
    if not number:
        return "not submitted"
    if state is None:
        return "ended, forgotten by Slurm"
    if state.reason == "DependencyNeverSatisfied":
        return NOT_STARTED
    if is_server and not state.is_live:
        return f"ended {state.state}"
    details = " ".join(filter(None, [state.reason and f"({state.reason})", state.nodes]))
    return f"{state.state} {details}".strip()


def _progress(pipeline: Pipeline, name: str) -> str:
    if name not in pipeline.stages:
        return ""
    folder = pipeline.stage_dir(name)
    manifest = read_manifest(folder)
    if manifest is not None:
        return ", ".join(f"{what} {count:,}" for what, count in manifest.counts.items())
    step = last_step(folder / LOGS / METRICS)
    if step:
        return f"iteration {step.iteration:,}, loss {step.loss:.4f}"
    num_parts = len(part_files(folder))
    return f"{num_parts:,} parts" if num_parts else ""


def _log(pipeline: Pipeline, name: str, number: str) -> Path | None:
    return pipeline.run_dir / JOBS / f"{name}-{number}.log" if number else None


def _last_line(log: Path | None) -> str:
    if log is None or not log.exists():
        return ""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
        lines = file.read().decode(errors="replace").splitlines()
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
