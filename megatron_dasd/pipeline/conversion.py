"""Conversion by hand, without a pipeline file: three commands, and what they run.

What converts is imported when it runs, so that ``--help`` loads neither torch nor pydantic.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from megatron_dasd.command_line import FileOptions, guarded, spread
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import model_folder
from megatron_dasd.pipeline.of_kind import run_stages_of
from megatron_dasd.printing import say

if TYPE_CHECKING:
    from megatron_dasd.checkpoint.process import Conversion
    from megatron_dasd.config.training import ExportHf, ModelCard, VerifyConversion

_GIGABYTE = 10**9


HfFolder = Annotated[
    Path | None, typer.Option("--hf", metavar="DIR", help="Hugging Face folder of the model")
]
Checkpoint = Annotated[
    Path | None, typer.Option("--ckpt", metavar="CKPT", help="checkpoint, of any layout")
]
Many = list[str] | None


@spread
def import_hf(
    options: FileOptions,
    hf: HfFolder = None,
    out: Annotated[
        Path | None, typer.Option(metavar="CKPT", help="new folder of the checkpoint")
    ] = None,
) -> None:
    """Import a Hugging Face folder as a Megatron checkpoint.

    Give --hf and --out, or a pipeline file, whose import_hf stages are run.
    """

    def by_hand() -> None:
        from megatron_dasd.checkpoint.import_stage import import_hf as convert

        source, target = _given("hf", hf), _given("out", out)
        with _new_folder(target) as (scratch, logs):
            done = convert(model_folder(source), scratch, logs)
        say(f"{target}: {_summary(done)}")

    _end(
        "import_hf",
        options,
        {"hf": hf, "out": out},
        by_hand,
    )


@spread
def export_hf(
    options: FileOptions,
    ckpt: Checkpoint = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="new folder of the model")] = None,
    hf: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="config and tokenizer [default: beside the checkpoint]"),
    ] = None,
    max_shard_gb: Annotated[
        float | None,
        typer.Option(
            metavar="N",
            help="size of a safetensors file, in units of 1e9 bytes [default: that of the setting]",
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="the model card's title [default: the new folder's name]")
    ] = None,
    license_id: Annotated[
        str | None, typer.Option("--license", help="for the model card, e.g. apache-2.0")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(metavar="ID", help="for the model card, e.g. Qwen/Qwen3-4B")
    ] = None,
    dataset: Annotated[Many, typer.Option(metavar="ID", help="for the card (repeatable)")] = None,
    language: Annotated[
        Many, typer.Option(metavar="CODE", help="for the card (repeatable)")
    ] = None,
) -> None:
    """Export a Megatron checkpoint as a Hugging Face folder with a model card.

    Give --ckpt and --out, or a pipeline file, whose export_hf stages are run.
    """

    def by_hand() -> None:
        from megatron_dasd.config.training import ModelCard

        card = {"name": name, "license": license_id, "base_model": base_model}
        lists = {"datasets": dataset or [], "language": language or []}
        target = _given("out", out)
        titled = card | {"name": name or target.resolve().name}
        model_card = ModelCard.model_validate(titled | lists)
        _export(_given("ckpt", ckpt), target, hf, max_shard_gb, model_card)

    _end(
        "export_hf",
        options,
        {"hf": hf, "ckpt": ckpt, "out": out},
        by_hand,
    )


def _export(
    ckpt: Path, out: Path, hf: Path | None, max_shard_gb: float | None, card: "ModelCard"
) -> None:
    from megatron_dasd.checkpoint.artifact import open_checkpoint
    from megatron_dasd.checkpoint.card import write_card
    from megatron_dasd.checkpoint.export_stage import export_hf as convert
    from megatron_dasd.config.training import ExportHf

    shard_gb = _or_default(max_shard_gb, ExportHf, "max_shard_gb")
    if shard_gb <= 0:
        raise UserError(f"--max-shard-gb {shard_gb:g}: must be above 0")
    checkpoint = open_checkpoint(ckpt)
    source = model_folder(hf) if hf else checkpoint.hf
    if source is None:
        raise UserError(f"{ckpt}: no config and tokenizer beside the checkpoint; give --hf DIR")
    with _new_folder(out) as (scratch, logs):
        done = convert(checkpoint, source, scratch, logs, shard_gb)
        write_card(scratch, card, source, ckpt)
    say(f"{out}: {_summary(done)}")


@spread
def verify_conversion(
    options: FileOptions,
    hf: HfFolder = None,
    ckpt: Checkpoint = None,
    text: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="text to compare logits on [default: a short one]"),
    ] = None,
    num_tokens: Annotated[
        int | None,
        typer.Option(metavar="N", help="positions to compare [default: that of the setting]"),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            metavar="N", help="largest difference of a logit [default: that of the setting]"
        ),
    ] = None,
) -> None:
    """Compare every tensor and the logits of a checkpoint with a Hugging Face folder.

    Give --hf and --ckpt, or a pipeline file, whose verify_conversion stages are run.
    """

    def by_hand() -> None:
        _verify(_given("hf", hf), _given("ckpt", ckpt), text, num_tokens, tolerance)

    _end(
        "verify_conversion",
        options,
        {"hf": hf, "ckpt": ckpt},
        by_hand,
    )


def _verify(
    hf: Path, ckpt: Path, text: Path | None, num_tokens: int | None, tolerance: float | None
) -> None:
    from megatron_dasd.checkpoint.artifact import open_checkpoint
    from megatron_dasd.checkpoint.verify_stage import SAMPLE, check, text_tokens, verify
    from megatron_dasd.config.training import VerifyConversion

    model = model_folder(hf)
    positions = int(_or_default(num_tokens, VerifyConversion, "num_tokens"))
    token_ids = text_tokens(model, [_read_text(text or SAMPLE)], positions)
    if not token_ids:
        raise UserError(f"{text}: no text to compare the models on")
    with _log_folder() as logs:
        verification = verify(model, open_checkpoint(ckpt), token_ids, logs)
    tensors, logits = verification.tensors, verification.logits
    equal = tensors.num_tensors - len(tensors.different)
    say(f"tensors equal bit for bit:       {equal:,} of {tensors.num_tensors:,}")
    say(f"positions compared:              {logits.num_tokens:,}")
    say(f"largest difference of a logit:   {logits.max_difference:.2e}")
    say(f"smallest cosine:                 {logits.min_cosine:.7f}")
    say(f"agreement of the top token:      {logits.top_token_agreement:.2%}")
    check(model, verification, _or_default(tolerance, VerifyConversion, "tolerance"))


CONVERSIONS: Mapping[str, Callable[..., None]] = {
    "import_hf": import_hf,
    "export_hf": export_hf,
    "verify_conversion": verify_conversion,
}
"""By the kind of stage that does the same in a pipeline."""


def _end(
    kind: str,
    options: FileOptions,
    places: Mapping[str, Path | None],
    by_hand: Callable[[], None],
) -> NoReturn:
    """Run by hand, or the stages of the pipeline file where one is given."""
    given = next((name for name, path in places.items() if path), None)
    if options.pipeline and given:
        raise typer.BadParameter(f"a pipeline file or --{given}, not both")
    raise typer.Exit(
        guarded(by_hand if options.pipeline is None else partial(run_stages_of, kind, options))
    )


def _given(name: str, path: Path | None) -> Path:
    if path is None:
        raise UserError(f"--{name} is missing (or give a pipeline file)")
    return path


def _or_default(
    value: float | None, settings: "type[ExportHf | VerifyConversion]", name: str
) -> float:
    """An option's value; where it is left out, the default of the setting of that name."""
    return float(settings.model_fields[name].default) if value is None else value


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None


def _summary(done: "Conversion") -> str:
    peak = done.converted.peak_memory_bytes / _GIGABYTE
    return f"{done.converted.num_tensors:,} tensors in {done.dtype}, peak memory {peak:.1f} GB"


@contextmanager
def _new_folder(out: Path) -> Iterator[tuple[Path, Path]]:
    """A scratch folder that becomes ``out`` at the end, and one for logs.

    Raises:
        UserError: ``out`` exists and is not empty.
    """
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out}: exists already; choose another --out or remove it")
    out.parent.mkdir(parents=True, exist_ok=True)
    scratch = out.with_name(f".{out.name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)  # of an attempt that was killed
    scratch.mkdir()
    try:
        with _log_folder() as logs:
            yield scratch, logs
        scratch.replace(out)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _log_folder() -> Iterator[Path]:
    """A folder for the logs of other processes; kept only when an error names it."""
    logs = Path(tempfile.mkdtemp(prefix="megatron-dasd-"))
    message = ""
    try:
        yield logs
    except UserError as error:
        message = str(error)
        raise
    finally:
        if str(logs) not in message:
            shutil.rmtree(logs)
