"""The command that writes a first pipeline file."""

import os
import shutil
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from megatron_dasd.command_line import guarded
from megatron_dasd.errors import UserError
from megatron_dasd.printing import say

Place = Literal["cpu", "gpu", "slurm"]
FILE = "pipeline.yaml"
MICRO = "cpu_micro"
"""The example on random weights."""
_QUESTIONS = {
    "teacher": "Teacher, a Hugging Face folder (empty: one behind a server)",
    "teacher_url": "Base URL of the teacher's server, e.g. http://localhost:8000/v1",
    "student": "Student, a Hugging Face folder",
    "prompts": "Prompts, JSON lines or Parquet",
}
_FLAGS = {"teacher": "--teacher or --teacher-url", "student": "--student", "prompts": "--prompts"}


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="where the file goes; made if need be")
    ] = Path(),
    teacher: Annotated[
        str | None, typer.Option(metavar="DIR", help="Hugging Face folder of the teacher")
    ] = None,
    teacher_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="server that runs the teacher, e.g. http://localhost:8000/v1"
        ),
    ] = None,
    student: Annotated[
        str | None, typer.Option(metavar="DIR", help="Hugging Face folder of the student")
    ] = None,
    prompts: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="prompts, a JSON line each (docs/commands.md)"),
    ] = None,
    where: Annotated[
        Place | None, typer.Option(metavar="PLACE", help="where it runs: cpu, gpu or slurm")
    ] = None,
    gpus: Annotated[
        int, typer.Option(metavar="N", min=1, help="GPUs that train, with gpu and slurm")
    ] = 8,
    micro: Annotated[
        bool, typer.Option("--micro", help="copy the example on random weights: runs in a minute")
    ] = False,
) -> None:
    """Write a first pipeline file of some 20 lines.

    What no flag says is asked for on a terminal.
    """

    def work() -> None:
        if micro:
            copy_micro(folder)
        else:
            given = {
                "teacher": teacher,
                "teacher_url": teacher_url,
                "student": student,
                "prompts": prompts,
            }
            write_file(folder, _asked(given), _place(where), gpus)
        say(f"next: dasd run {folder / FILE} --show-graph, then without --show-graph")

    raise typer.Exit(guarded(work))


def copy_micro(folder: Path) -> None:
    """Copy the example on random weights.

    Raises:
        UserError: there is a pipeline file already.
    """
    from megatron_dasd.shipped import shipped_folder

    source = shipped_folder("examples") / MICRO
    _refuse_existing(folder)
    for name in (FILE, "text.txt"):
        shutil.copyfile(source / name, folder / name)
    say(f"{folder / FILE}: written, with text.txt")


def write_file(folder: Path, given: dict[str, str], where: Place, gpus: int) -> None:
    """Write a pipeline file of the recipe ``dasd``, checked as every pipeline file is.

    Args:
        given: ``teacher``, ``teacher_url``, ``student``, ``prompts``; a teacher may lack one.

    Raises:
        UserError: a model or file is missing, or there is a pipeline file already.
    """
    from megatron_dasd.artifacts import write_atomic
    from megatron_dasd.config.pipeline import load_pipeline
    from megatron_dasd.manifests import model_folder

    for name in ("teacher", "student"):
        if name in given:
            model_folder(Path(given[name]))
    if not Path(given["prompts"]).exists():
        raise UserError(f"{given['prompts']}: no such file (--prompts)")
    _refuse_existing(folder)
    paths: dict[str, str] = {
        name: _seen_from(folder, Path(given[name]))
        for name in ("teacher", "student", "prompts")
        if name in given
    }
    draft = folder / f".{FILE}.draft"
    draft.write_text(_text(folder, paths, given.get("teacher_url"), where, gpus), encoding="utf-8")
    try:
        load_pipeline(draft)
        write_atomic(folder / FILE, draft.read_bytes())
    finally:
        draft.unlink()
    say(f"{folder / FILE}: written")


def _refuse_existing(folder: Path) -> None:
    if (folder / FILE).exists():
        raise UserError(f"{folder / FILE}: exists already; choose another folder or remove it")
    folder.mkdir(parents=True, exist_ok=True)


def _asked(given: dict[str, str | None]) -> dict[str, str]:
    """The answers, from the flags or from the terminal.

    Raises:
        UserError: a flag is missing and there is no terminal to ask on.
    """
    answers = {name: value for name, value in given.items() if value}
    has_teacher = "teacher" in answers or "teacher_url" in answers
    needed = [] if has_teacher else ["teacher"]
    needed += [name for name in ("student", "prompts") if name not in answers]
    if needed and not sys.stdin.isatty():
        flags = ", ".join(_FLAGS[name] for name in needed)
        raise UserError(f"give {flags}, or --micro for the example on random weights")
    for name in needed:
        answers[name] = typer.prompt(_QUESTIONS[name], default="" if name == "teacher" else None)
    if not answers.get("teacher"):
        answers.pop("teacher", None)
        if "teacher_url" not in answers:
            answers["teacher_url"] = typer.prompt(_QUESTIONS["teacher_url"])
    return answers


def _place(where: Place | None) -> Place:
    """Where the pipeline is to run: as given, else where this machine can."""
    if where is not None:
        return where
    from megatron_dasd.device.gpus import in_sight

    if in_sight():
        return "gpu"
    return "slurm" if shutil.which("sbatch") else "cpu"


def _seen_from(folder: Path, path: Path) -> str:
    """A path as the pipeline file gives it: relative where it lies below the file's folder."""
    absolute, home = path.resolve(), folder.resolve()
    return os.path.relpath(absolute, home) if absolute.is_relative_to(home) else str(absolute)


def _text(
    folder: Path, paths: dict[str, str], teacher_url: str | None, where: Place, gpus: int
) -> str:
    from megatron_dasd.config.yaml_files import yaml_text

    name = folder.resolve().name or "first"
    on_cpu = where == "cpu"
    server = {"urls": [teacher_url], **({} if "teacher" in paths else {"api": "chat"})}
    teacher: dict[str, object] = {"model": paths["teacher"]} if "teacher" in paths else {}
    if teacher_url:
        teacher["engine"] = {"server": server}
    training: dict[str, object] = {
        "epochs": 2,
        "global_batch_size": 4 if on_cpu else 64,
        "lr": 5.0e-5,
        "precision": "fp32" if on_cpu else "bf16",
    }
    if not on_cpu:
        training["launch"] = {"num_ranks": gpus, "distributed_optimizer": True}
    content: dict[str, object] = {
        "name": name,
        "run_dir": f"runs/{name}",
        "recipe": "dasd",
        "teacher": teacher,
        "student": {"model": paths["student"]},
        "prompts": {"files": [paths["prompts"]], "heldout_fraction": 0.1},
        "temperatures": [0.6, 1.0],
        "num_candidates": 4,
        "max_new_tokens": 512 if on_cpu else 16384,
        "seq_length": 1024 if on_cpu else 32768,
        "engine": {"batch_size": 32, "dtype": "float32" if on_cpu else "bfloat16"},
        "training": training,
        "figures": {"title": f"Distillation {name}", "evaluate": []},
    }
    if where == "slurm":
        content["cluster"] = {"gpus_per_node": min(gpus, 8), "time": "04:00:00"}
    comments = (
        "# Distribution-aligned distillation.  docs/recipes.md says what each field stands for;\n"
        "# dasd settings recipe lists all of them.  run_dir is relative to the working directory,\n"
        "# every other path to this file.\n"
    )
    return comments + yaml_text(content, in_one_line=True)
