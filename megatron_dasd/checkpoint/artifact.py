"""A Megatron checkpoint: where it lies, of what type it is, and whether it may be opened.

::

    CKPT/                                   in a stage's folder: checkpoint/
      latest_checkpointed_iteration.txt     the iteration that Megatron loads
      iter_0000000/                         .metadata, *.distcp, metadata.json
      hf/                                   config, tokenizer, licence: what the weights came with
"""

import json
import re
import shutil
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import torch
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

from megatron_dasd.checkpoint.hf_folder import README, copy_companions
from megatron_dasd.checkpoint.pickles import METADATA, read_metadata
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import ATTEMPT, require_manifest
from megatron_dasd.paths import inside

CHECKPOINT_FOLDER = "checkpoint"
TRACKER = "latest_checkpointed_iteration.txt"
HF = "hf"
"""What came with the weights from Hugging Face, beside the iterations."""
_EMBEDDING = "embedding.word_embeddings.weight"
_OPTIMIZER = ("optimizer.", "chained_")
"""How the names of an optimizer's tensors begin."""
_RELEASE = "release"
_ITERATION = re.compile("[0-9]{1,12}")


@dataclass(frozen=True)
class MegatronCheckpoint:
    """A whole ``torch_dist`` checkpoint that was inspected and may be opened."""

    folder: Path
    """What Megatron's ``--load`` takes."""
    weights: Path
    """Folder of the iteration that the tracker file names."""
    dtype: str
    """Type of the weights: ``bfloat16`` or ``float32``."""
    metadata: Metadata = field(repr=False)

    @property
    def num_bytes(self) -> int:
        """Size of the weights, without an optimizer's state."""
        return sum(
            prod(tensor.size) * tensor.properties.dtype.itemsize
            for tensor in model_tensors(self.metadata).values()
        )

    @property
    def num_weights(self) -> int:
        """Weights of the model."""
        return sum(prod(tensor.size) for tensor in model_tensors(self.metadata).values())

    @property
    def hf(self) -> Path | None:
        """Config and tokenizer that the weights came with, if they lie beside them."""
        folder = self.folder / HF
        return folder if (folder / "config.json").is_file() else None


def open_checkpoint(path: Path, iteration: int | None = None) -> MegatronCheckpoint:
    """Find a checkpoint and inspect its pickles; to be called before anything else opens it.

    Args:
        path: of a finished stage (import_hf or train), or a folder that Megatron saved into.
        iteration: in place of the one that the tracker file names.

    Raises:
        UserError: the stage has not finished, there is no whole ``torch_dist`` checkpoint, or a
            pickle in it names what no checkpoint is made of.
    """
    if (path / ATTEMPT).exists():
        kind = require_manifest(path).kind
        if not (path / CHECKPOINT_FOLDER / TRACKER).exists():
            raise UserError(f"{path}: a {kind} stage, which leaves no checkpoint")
        path = path / CHECKPOINT_FOLDER
    weights = path / (_iteration_folder(path) if iteration is None else iteration_name(iteration))
    _require_torch_dist(weights)
    metadata = read_metadata(weights)
    embedding = metadata.state_dict_metadata.get(_EMBEDDING)
    if not isinstance(embedding, TensorStorageMetadata):
        raise UserError(
            f"{weights / METADATA}: holds no {_EMBEDDING}; only GPT models are supported"
        )
    dtype = str(embedding.properties.dtype).removeprefix("torch.")
    if embedding.properties.dtype not in (torch.bfloat16, torch.float32):
        raise UserError(f"{weights / METADATA}: weights of type {dtype}, not bfloat16 or float32")
    return MegatronCheckpoint(path, weights, dtype, metadata)


def open_loaded(
    load: str | None, pretrained: str | None, ckpt_step: int | None
) -> MegatronCheckpoint | None:
    """Look through all that Megatron may open for these flags, ``--ckpt-step`` among them.

    Returns:
        Where it goes on from, or else where it begins; None: neither has a checkpoint yet.

    Raises:
        UserError: as :func:`open_checkpoint`, or there is nothing to take that step of.
    """
    start = None
    if pretrained and (Path(pretrained) / TRACKER).exists():
        start = open_checkpoint(Path(pretrained))
    if load and (Path(load) / TRACKER).exists():
        return open_checkpoint(Path(load), ckpt_step)
    if ckpt_step is not None:
        # Megatron would look for it among the pretrained weights
        raise UserError(f"--ckpt-step {ckpt_step}: no checkpoint in --load {load} to take it from")
    return start


def model_tensors(metadata: Metadata) -> dict[str, TensorStorageMetadata]:
    """The model's tensors in a checkpoint, by name; those of an optimizer are left out."""
    return {
        key: value
        for key, value in metadata.state_dict_metadata.items()
        if isinstance(value, TensorStorageMetadata) and not key.startswith(_OPTIMIZER)
    }


def remember_source(model: Path, checkpoint: Path) -> None:
    """Keep what a model came with (config, tokenizer, card) beside a checkpoint of it."""
    folder = checkpoint / HF
    folder.mkdir(exist_ok=True)
    copy_companions(model, folder)
    if (model / README).exists():
        shutil.copyfile(inside(model, README), folder / README)


def _iteration_folder(folder: Path) -> str:
    tracker = folder / TRACKER
    try:
        text = tracker.read_text(errors="replace").strip()
    except FileNotFoundError:
        raise UserError(f"{folder}: no Megatron checkpoint here (no {TRACKER})") from None
    if text == _RELEASE:
        return _RELEASE
    if not _ITERATION.fullmatch(text):
        raise UserError(
            f"{tracker}: {text[:40]!r} is no iteration; tools/repair_checkpoints.py {folder} names "
            "the newest whole one"
        )
    return iteration_name(int(text))


def iteration_name(iteration: int) -> str:
    """Megatron's name for the folder of an iteration."""
    return f"iter_{iteration:07d}"


def _require_torch_dist(weights: Path) -> None:
    path = weights / "metadata.json"
    try:
        backend = json.loads(path.read_text())["sharded_backend"]
    except FileNotFoundError:
        raise UserError(
            f"{weights}: no whole torch_dist checkpoint here (no {path.name}); a checkpoint of "
            "another format is a pickle, which is not opened"
        ) from None
    except (ValueError, KeyError, TypeError, RecursionError, OSError):
        raise UserError(f"{path}: damaged") from None
    if backend != "torch_dist":
        raise UserError(f"{path}: format {backend} is not supported (only torch_dist)")
