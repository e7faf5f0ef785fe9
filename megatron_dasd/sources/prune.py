"""Stage prune_layers: a student made from a model by leaving layers out."""

import json
import re
from collections.abc import Mapping
from pathlib import Path

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.checkpoint.hf_folder import HfWeights
from megatron_dasd.checkpoint.hf_writer import write_hf_folder
from megatron_dasd.config.sources import PruneLayers
from megatron_dasd.errors import UserError
from megatron_dasd.json_values import Figures, JsonObject, read_object, require
from megatron_dasd.manifests import MODEL, model_folder
from megatron_dasd.sources.heads import add_zero_heads

_LAYER = re.compile(r"^model\.layers\.(\d+)\.")


def run(settings: PruneLayers, inputs: Mapping[str, Path], folder: StageFolder) -> Figures:
    """Write the Hugging Face folder of the smaller model."""
    source = model_folder(inputs[settings.model])
    file = source / "config.json"
    config = read_object(file)
    try:
        num_layers = require(config, "num_hidden_layers", int)
    except ValueError as error:
        raise UserError(f"{file}: {error}") from None
    if settings.num_layers_removed > num_layers - 2:
        raise UserError(
            f"num_layers_removed: {settings.num_layers_removed} of {num_layers} layers would not "
            "leave the first and the last"
        )
    kept = kept_layers(num_layers, num_layers - settings.num_layers_removed)
    weights = HfWeights(source)
    tensors = {
        new: weights.read(old) for old in sorted(weights.names()) if (new := renamed(old, kept))
    }
    config = smaller_config(config, kept)
    if settings.num_key_value_heads:
        try:
            tensors, config = add_zero_heads(tensors, config, settings.num_key_value_heads)
        except ValueError as error:
            raise UserError(f"{file}: {error}") from None
    scratch = folder.scratch(MODEL)
    write_hf_folder(scratch, tensors, source)
    (scratch / "config.json").write_text(json.dumps(config, indent=2))
    folder.commit(scratch)
    return {
        "kept_layers": kept,
        "num_parameters": sum(tensor.numel() for tensor in tensors.values()),
    }


def kept_layers(num_layers: int, num_kept: int) -> list[int]:
    """Numbers of the layers to keep: first, last, and between them the nearest to even spacing."""
    gaps = num_kept - 1
    return [(2 * i * (num_layers - 1) + gaps) // (2 * gaps) for i in range(num_kept)]


def renamed(name: str, kept: list[int]) -> str | None:
    """A tensor's name in the smaller model; None when its layer is left out."""
    match = _LAYER.match(name)
    if match is None:
        return name
    layer = int(match[1])
    return f"model.layers.{kept.index(layer)}.{name[match.end() :]}" if layer in kept else None


def smaller_config(config: JsonObject, kept: list[int]) -> JsonObject:
    """The config with the new number of layers, and their kinds where it lists them."""
    smaller = config | {"num_hidden_layers": len(kept)}
    if layer_types := config.get("layer_types"):
        assert isinstance(layer_types, list)  # one a layer, as transformers writes it
        smaller["layer_types"] = [layer_types[layer] for layer in kept]
    return smaller
