"""The model card of an exported folder: what the hub reads, and what the pipeline knows.

Facts come from the manifests of the stages that the checkpoint depends on.  They are identified by
digest: a folder that no longer holds what was read is left out.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from megatron_dasd import __version__
from megatron_dasd.checkpoint.artifact import CHECKPOINT_FOLDER
from megatron_dasd.checkpoint.hf_folder import README, HfWeights, read_config, weights_dtype
from megatron_dasd.checkpoint.mtp import MTP, number_of_heads
from megatron_dasd.config.training import ModelCard
from megatron_dasd.config.yaml_files import parse_yaml
from megatron_dasd.manifests import LOGS, METRICS, Manifest, lineage
from megatron_dasd.models.families import FAMILIES
from megatron_dasd.printing import one_line

_LICENCE_FIELDS = ("license", "license_name", "license_link")
_FRONT_MATTER = re.compile(r"---\s*\n(.{0,65536}?)\n---\s*\n", re.DOTALL)
_TRAIN = "train"
_UNKNOWN = "-"
"""Shown for what is not known, such as a setting that an older version did not have."""
_SHOWN_SETTINGS = (
    "checkpoint",
    "data",
    "epochs",
    "global_batch_size",
    "lr",
    "min_lr",
    "lr_decay_style",
    "precision",
    "adam_beta1",
    "adam_beta2",
    "weight_decay",
    "clip_grad",
)


def write_card(folder: Path, card: ModelCard, source: Path, checkpoint: Path) -> None:
    """Write ``README.md`` into an exported folder.

    Args:
        folder: with config and weights.
        card: what the user says; goes before what the source's card says.
        source: Hugging Face folder that the student came from.
        checkpoint: the stage that was exported, or a plain checkpoint, which has no manifest.
    """
    config = read_config(folder)
    front = _front_matter(card, source, config)
    stages = lineage(checkpoint)
    multimodal = FAMILIES[config["architectures"][0]].multimodal
    environment = Environment(
        loader=PackageLoader("megatron_dasd.checkpoint", ""),
        undefined=StrictUndefined,
        finalize=_in_place,
    )
    text = environment.get_template("card.md.j2").render(
        name=card.name or folder.name,
        quoted_name=Markup(json.dumps(one_line(card.name or folder.name), ensure_ascii=False)),
        size=_size(folder),
        mtp=_mtp(folder, source),
        dtype=weights_dtype(folder),
        auto_class="AutoModelForImageTextToText" if multimodal else "AutoModelForCausalLM",
        architecture=config["architectures"][0],
        base_model=front.get("base_model"),
        license=front.get("license"),
        chat=_has_chat_template(folder),
        version=__version__,
        training=[_training(path, m) for path, m in stages.items() if m.kind == _TRAIN],
        stages=[_stage(manifest) for manifest in stages.values()],
    )
    (folder / README).write_text(f"---\n{ModelCardData(**front).to_yaml()}\n---\n\n{text}\n")


def _front_matter(card: ModelCard, source: Path, config: Mapping[str, object]) -> dict[str, Any]:
    """Fields of the card's YAML; those that nobody states are left out."""
    before = _card_of(source)
    fields: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["megatron-core", "distillation", config.get("model_type")],
        "base_model": card.base_model or _hub_id(source),
        "datasets": card.datasets or None,
        "language": card.language or before.get("language"),
    }
    licence = {"license": card.license} if card.license else before
    fields |= {name: licence.get(name) for name in _LICENCE_FIELDS}
    return {name: value for name, value in fields.items() if value}


def _hub_id(folder: Path) -> str | None:
    """The hub's id of a folder in its cache: ``models--OWNER--NAME/snapshots/REVISION``."""
    kind, *id_parts = folder.resolve().parent.parent.name.split("--")
    return "/".join(id_parts) if kind == "models" and id_parts else None


def _card_of(source: Path) -> dict[str, Any]:
    """The YAML of a folder's own card; empty where there is none that can be read."""
    try:
        found = _FRONT_MATTER.match((source / README).read_text())
        content = parse_yaml(found[1]) if found else {}
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _in_place(value: object) -> object:
    """A text as one line that ends no cell of a table and begins no markup."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    text = one_line(value).replace("\\", "\\\\").replace("|", "\\|")
    return text.replace("<", "&lt;").replace("[", "\\[")


def _size(folder: Path) -> str:
    numbers = sum(t.num_bytes // t.dtype.itemsize for t in HfWeights(folder).tensors.values())
    return f"{numbers / 1e9:.2f} billion" if numbers >= 1e9 else f"{numbers / 1e6:.3g} million"


def _mtp(folder: Path, source: Path) -> str | None:
    """What became of the heads that guess several tokens ahead; None: there were none."""
    if any(name.startswith(MTP) for name in HfWeights(folder).names()):
        return "copied"
    return "dropped" if number_of_heads(source) else None


def _has_chat_template(folder: Path) -> bool:
    tokenizer = folder / "tokenizer_config.json"
    inside_it = tokenizer.exists() and '"chat_template"' in tokenizer.read_text()
    return inside_it or (folder / "chat_template.jinja").exists()


def _training(folder: Path, manifest: Manifest) -> dict[str, object]:
    newest: dict[str, float] = {}
    metrics = folder / LOGS / METRICS
    for line in metrics.read_text().splitlines() if metrics.exists() else ():
        with suppress(ValueError, TypeError, RecursionError):  # cut off by a kill
            newest |= json.loads(line)
    losses = {name: newest.get(name) for name in ("loss", "heldout_loss")}
    shown = {name: _UNKNOWN if x is None else f"{x:.4f}" for name, x in losses.items()}
    return {
        "stage": manifest.stage,
        "steps": manifest.figures.get("iterations", _UNKNOWN),
        **{name: manifest.settings.get(name, _UNKNOWN) for name in _SHOWN_SETTINGS},
        **shown,
    }


def _stage(manifest: Manifest) -> dict[str, object]:
    counts = ", ".join(f"{name} {count:,}" for name, count in sorted(manifest.counts.items()))
    return {
        "stage": manifest.stage,
        "kind": manifest.kind,
        "inputs": manifest.inputs or [_UNKNOWN],
        "counts": counts or _UNKNOWN,
        # a checkpoint's bytes differ between runs that give the same weights; a card's may not
        "digest": _UNKNOWN if _has_checkpoint(manifest) else f"`{manifest.digest[:16]}`",
    }


def _has_checkpoint(manifest: Manifest) -> bool:
    return any(Path(name).parts[0] == CHECKPOINT_FOLDER for name in manifest.files)
