"""Conversion by hand, without a pipeline file: the flags of three tools, and what they run.

What converts is imported when it runs, so that ``--help`` loads neither torch nor pydantic.
"""

import argparse
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_dasd.errors import UserError
from megatron_dasd.manifests import model_folder

if TYPE_CHECKING:
    from argparse import _ArgumentGroup

    from megatron_dasd.checkpoint.process import Conversion
    from megatron_dasd.config.training import ExportHf, VerifyConversion

_GIGABYTE = 10**9


@dataclass(frozen=True)
class ByHand:
    """What a tool does when it is given flags in place of a pipeline file."""

    usage: str
    add_arguments: "Callable[[_ArgumentGroup], None]"
    run: Callable[[argparse.Namespace], None]

    def given(self, options: argparse.Namespace) -> str | None:
        """The first of its flags that names a folder, if one was given."""
        places = ("hf", "ckpt", "out")
        return next((name for name in places if getattr(options, name, None)), None)


def _import_arguments(group: "_ArgumentGroup") -> None:
    group.add_argument("--hf", type=Path, metavar="DIR", help="Hugging Face folder to import")
    group.add_argument("--out", type=Path, metavar="CKPT", help="new folder of the checkpoint")


def _import(options: argparse.Namespace) -> None:
    from megatron_dasd.checkpoint.import_stage import import_hf

    hf, out = _given(options, "hf"), _given(options, "out")
    with _new_folder(out) as (scratch, logs):
        done = import_hf(model_folder(hf), scratch, logs)
    print(f"{out}: {_summary(done)}")


def _export_arguments(group: "_ArgumentGroup") -> None:
    group.add_argument("--ckpt", type=Path, metavar="CKPT", help="checkpoint, of any layout")
    group.add_argument("--out", type=Path, metavar="DIR", help="new folder of the model")
    group.add_argument(
        "--hf",
        type=Path,
        metavar="DIR",
        help="config and tokenizer (default: beside the checkpoint)",
    )
    group.add_argument(
        "--max-shard-gb",
        type=float,
        metavar="N",
        help="size of a safetensors file, in units of 1e9 bytes (default: as for export_hf stages)",
    )
    group.add_argument("--name", help="the model card's title (default: the new folder's name)")
    group.add_argument("--license", help="for the model card, e.g. apache-2.0")
    group.add_argument("--base-model", metavar="ID", help="for the model card, e.g. Qwen/Qwen3-4B")
    group.add_argument(
        "--dataset", action="append", default=[], metavar="ID", help="for the card (repeatable)"
    )
    group.add_argument(
        "--language", action="append", default=[], metavar="CODE", help="for the card (repeatable)"
    )


def _export(options: argparse.Namespace) -> None:
    from megatron_dasd.checkpoint.artifact import open_checkpoint
    from megatron_dasd.checkpoint.card import write_card
    from megatron_dasd.checkpoint.export_stage import export_hf
    from megatron_dasd.config.training import ExportHf, ModelCard

    ckpt, out = _given(options, "ckpt"), _given(options, "out")
    max_shard_gb = _or_default(options, ExportHf, "max_shard_gb")
    if max_shard_gb <= 0:
        raise UserError(f"--max-shard-gb {max_shard_gb:g}: must be above 0")
    checkpoint = open_checkpoint(ckpt)
    source = model_folder(options.hf) if options.hf else checkpoint.hf
    if source is None:
        raise UserError(f"{ckpt}: no config and tokenizer beside the checkpoint; give --hf DIR")
    card = ModelCard(
        name=options.name or out.resolve().name,
        license=options.license,
        base_model=options.base_model,
        datasets=options.dataset,
        language=options.language,
    )
    with _new_folder(out) as (scratch, logs):
        done = export_hf(checkpoint, source, scratch, logs, max_shard_gb)
        write_card(scratch, card, source, ckpt)
    print(f"{out}: {_summary(done)}")


def _verify_arguments(group: "_ArgumentGroup") -> None:
    group.add_argument("--hf", type=Path, metavar="DIR", help="Hugging Face folder")
    group.add_argument("--ckpt", type=Path, metavar="CKPT", help="checkpoint of the same model")
    group.add_argument(
        "--text", type=Path, metavar="FILE", help="text to compare logits on (default: a short one)"
    )
    default = "(default: as for verify_conversion stages)"
    group.add_argument(
        "--num-tokens", type=int, metavar="N", help=f"positions to compare {default}"
    )
    group.add_argument(
        "--tolerance", type=float, metavar="N", help=f"largest difference of a logit {default}"
    )


def _verify(options: argparse.Namespace) -> None:
    from megatron_dasd.checkpoint.artifact import open_checkpoint
    from megatron_dasd.checkpoint.verify_stage import SAMPLE, check, text_tokens, verify
    from megatron_dasd.config.training import VerifyConversion

    hf, ckpt = model_folder(_given(options, "hf")), _given(options, "ckpt")
    num_tokens = int(_or_default(options, VerifyConversion, "num_tokens"))
    token_ids = text_tokens(hf, [_read_text(options.text or SAMPLE)], num_tokens)
    if not token_ids:
        raise UserError(f"{options.text}: no text to compare the models on")
    with _log_folder() as logs:
        verification = verify(hf, open_checkpoint(ckpt), token_ids, logs)
    tensors, logits = verification.tensors, verification.logits
    equal = tensors.num_tensors - len(tensors.different)
    print(f"tensors equal bit for bit:       {equal:,} of {tensors.num_tensors:,}")
    print(f"positions compared:              {logits.num_tokens:,}")
    print(f"largest difference of a logit:   {logits.max_difference:.2e}")
    print(f"smallest cosine:                 {logits.min_cosine:.7f}")
    print(f"agreement of the top token:      {logits.top_token_agreement:.2%}")
    check(hf, verification, _or_default(options, VerifyConversion, "tolerance"))


BY_HAND = {
    "import_hf": ByHand("--hf DIR --out CKPT", _import_arguments, _import),
    "export_hf": ByHand("--ckpt CKPT --out DIR [--hf DIR]", _export_arguments, _export),
    "verify_conversion": ByHand("--hf DIR --ckpt CKPT [--text FILE]", _verify_arguments, _verify),
}
"""By the kind of stage that does the same in a pipeline."""


def _given(options: argparse.Namespace, name: str) -> Path:
    path: Path | None = getattr(options, name)
    if path is None:
        raise UserError(f"--{name} is missing (or give a pipeline file)")
    return path


def _or_default(
    options: argparse.Namespace, settings: "type[ExportHf | VerifyConversion]", name: str
) -> float:
    """An option's value; where it is left out, the default of the setting of that name."""
    value: float | None = getattr(options, name)
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
