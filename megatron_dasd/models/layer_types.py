"""What differs from layer to layer by a Hugging Face config: windows, and layers without rotation.

All of it is pure; the results are lists with an entry for each layer.
"""

from typing import Any

from megatron_dasd.errors import UserError

FULL, SLIDING = "full_attention", "sliding_attention"


def read_window(
    config: dict[str, Any], where: str, rotated: tuple[bool, ...]
) -> tuple[int | None, tuple[bool, ...]]:
    """The sliding window, and the layers that have it.

    Args:
        config: of the text model.
        where: the file, and where in it the config stands, for messages.
        rotated: of each layer, whether it has rotary embedding.  Where one has none, windows are
            by default those layers' (SmolLM3), else those of the layers from
            ``max_window_layers`` on (Qwen2, Qwen3).

    Returns:
        Tokens that a token attends to, itself included; and of each layer whether it has the
        window.  None and no layer: every layer attends to all that stands before.

    Raises:
        UserError: a kind of layer that is not known, or fields that contradict one another.
    """
    layers = config["num_hidden_layers"]
    kinds = config.get("layer_types")
    if kinds is not None:
        for kind in kinds:
            if kind not in (FULL, SLIDING):
                raise UserError(f"{where}layer_types: {kind!r} is not supported")
        if len(kinds) != layers:
            raise UserError(f"{where}layer_types: {len(kinds)} entries for {layers} layers")
    window = config.get("sliding_window") if config.get("use_sliding_window") else None
    if window is None:
        if SLIDING in (kinds or ()):
            raise UserError(
                f"{where}layer_types: {SLIDING!r} without use_sliding_window and sliding_window"
            )
        return None, ()
    if type(window) is not int or window < 1:
        raise UserError(f"{where}sliding_window: {window!r} is no positive whole number")
    if kinds is not None:
        slides = tuple(kind == SLIDING for kind in kinds)
    elif rotated and not all(rotated):
        slides = tuple(not has for has in rotated)
    else:
        first = config.get("max_window_layers", layers)
        if type(first) is not int:
            raise UserError(f"{where}max_window_layers: {first!r} is no whole number")
        slides = tuple(layer >= first for layer in range(layers))
    return (window, slides) if any(slides) else (None, ())


def read_rotated(config: dict[str, Any], where: str) -> tuple[bool, ...]:
    """Of each layer of a SmolLM3, whether it has rotary embedding.

    The config's ``no_rope_layers`` has 1 for a layer **with** it, unlike what its name says.

    Raises:
        UserError: a list of another length, or with other entries.
    """
    layers = config["num_hidden_layers"]
    found = config.get("no_rope_layers")
    if found is None:
        interval = config.get("no_rope_layer_interval", 4)
        if type(interval) is not int or interval < 1:
            raise UserError(f"{where}no_rope_layer_interval: {interval!r} is no positive number")
        return tuple((layer + 1) % interval != 0 for layer in range(layers))
    if not isinstance(found, list) or any(x not in (0, 1) for x in found):
        raise UserError(f"{where}no_rope_layers: must be a list of 0 and 1")
    if len(found) < layers:
        raise UserError(f"{where}no_rope_layers: {len(found)} entries for {layers} layers")
    return tuple(bool(x) for x in found[:layers])
