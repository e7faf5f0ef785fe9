"""Rotary embedding: what a Hugging Face config asks for, and the frequencies that it means (pure).

Megatron's flags express an unscaled embedding with an integral base, part of a head rotated, and
Llama 3's scaling with the published constants.  For everything else this module computes the
frequencies, and ``models.provider`` puts them into Megatron's model.

The formulas are those of ``transformers`` (``modeling_rope_utils``), evaluated in float32 in the
same order, so that angles agree at large positions too.  YaRN is from arXiv 2309.00071.
"""

import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

from megatron_dasd.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

KINDS = ("default", "linear", "llama3", "yarn")
LLAMA3_CONSTANTS = (1.0, 4.0, 8192)
"""Low and high frequency factor and original length, which Megatron holds as constants
(``RotaryEmbedding._apply_scaling``); only the factor is a flag."""
_ORIGINAL = "original_max_position_embeddings"
_FIELDS = {
    "default": set[str](),
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", _ORIGINAL},
    "yarn": {
        "factor",
        _ORIGINAL,
        "attention_factor",
        "beta_fast",
        "beta_slow",
        "mscale",
        "mscale_all_dim",
        "truncate",
    },
}
_ALWAYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}
_OF_IMAGES = {"mrope_section", "mrope_interleaved"}
"""How positions in an image are distinguished; text has one position per token."""


@dataclass(frozen=True)
class Rotary:
    """A rotary embedding, with every default filled in."""

    base: float
    kind: str = "default"
    share: float = 1.0
    """Part of a head's channels that is rotated: the first ones."""
    factor: float = 1.0
    original_length: float = 0
    """Positions that the model was trained on before it was extended."""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    """Whether YaRN rounds the bounds of its ramp to whole channels."""
    attention_factor: float = 1.0
    """Cosines and sines are multiplied by it, so that scores are multiplied by its square."""

    @property
    def is_megatrons(self) -> bool:
        """Whether Megatron's flags express it exactly."""
        if self.base != int(self.base):
            return False
        constants = (self.low_freq_factor, self.high_freq_factor, self.original_length)
        return self.kind == "default" or (self.kind == "llama3" and constants == LLAMA3_CONSTANTS)

    def frequencies(self, head_dim: int) -> "Tensor":
        """Radians per position, float32 ``[rotated channels / 2]``.

        Args:
            head_dim: channels of a head.
        """
        import torch  # which reading a config does not need

        dim = int(head_dim * self.share)
        powers = self.base ** (torch.arange(0, dim, 2, dtype=torch.float32, device="cpu") / dim)
        plain = 1.0 / powers
        if self.kind == "linear":
            return plain / self.factor
        if self.kind == "llama3":
            return self._llama3(plain)
        if self.kind == "yarn":
            return self._yarn(powers, dim)
        return plain

    def _llama3(self, plain: "Tensor") -> "Tensor":
        """Long waves are divided by the factor, short ones kept, those between interpolated."""
        import torch

        low, high = self.low_freq_factor, self.high_freq_factor
        waves = 2 * math.pi / plain
        scaled = torch.where(waves > self.original_length / low, plain / self.factor, plain)
        smooth = (self.original_length / waves - low) / (high - low)
        between = (1 - smooth) * scaled / self.factor + smooth * scaled
        is_between = (waves >= self.original_length / high) & (waves <= self.original_length / low)
        return torch.where(is_between, between, scaled)

    def _yarn(self, powers: "Tensor", dim: int) -> "Tensor":
        """A ramp over the channels, from the plain frequencies to those divided by the factor."""
        import torch

        low, high = (self._channel(turns, dim) for turns in (self.beta_fast, self.beta_slow))
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        if low == high:
            high += 0.001
        ramp = (
            (torch.arange(dim // 2, dtype=torch.float32, device="cpu") - low) / (high - low)
        ).clamp(0, 1)
        kept = 1 - ramp
        return 1.0 / (self.factor * powers) * (1 - kept) + 1.0 / powers * kept

    def _channel(self, turns: float, dim: int) -> float:
        """The channel that makes so many turns within the original length."""
        return (
            dim * math.log(self.original_length / (turns * 2 * math.pi)) / (2 * math.log(self.base))
        )

    def to_json(self) -> str:
        """All fields, for the command line of a Megatron program."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of :meth:`to_json`."""
        return cls(**json.loads(text))


def read_rotary(
    config: dict[str, Any], where: str, default_base: float = 10000.0, share: float = 1.0
) -> Rotary:
    """The rotary embedding that a config asks for.

    Args:
        config: of the text model.
        where: the file, and where in it the config stands, for messages.
        default_base: ``rope_theta`` where the config has none.
        share: of a head's channels that the family rotates where the config does not say; 1: all,
            and the family knows nothing else.

    Raises:
        UserError: an embedding that is not known here, or a field that does not fit it.
    """
    # transformers 5 nests the rotary settings, earlier versions do not; the old name goes first.
    field = "rope_scaling" if config.get("rope_scaling") else "rope_parameters"
    rope: dict[str, Any] = config.get(field) or {}
    refused = f"{where}{field}"
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in KINDS or any(isinstance(x, dict) for x in rope.values()):
        raise UserError(f"{refused}: {rope} is not supported (only rope_type {', '.join(KINDS)})")
    known = _FIELDS[kind] | _ALWAYS | _OF_IMAGES
    for name in sorted(rope.keys() - known - {_ORIGINAL, "factor"}):
        if rope[name] is not None:
            raise UserError(f"{refused}: {name} is not known for rope_type {kind}")
    found = rope.get("partial_rotary_factor") or config.get("partial_rotary_factor") or share
    if not _is_number(found) or not 0 < found <= 1 or (share == 1 and found != 1):
        only = "only 1.0" if share == 1 else "above 0, at most 1"
        raise UserError(f"{where}partial_rotary_factor: {found} is not supported ({only})")
    base = rope.get("rope_theta") or config.get("rope_theta") or default_base
    if not _is_number(base) or base <= 1:
        raise UserError(f"{where}rope_theta: {base!r} is no number above 1")
    values = _values(kind, rope, config, refused)
    return Rotary(float(base), kind, float(found), **values)


def _values(
    kind: str, rope: dict[str, Any], config: dict[str, Any], refused: str
) -> dict[str, Any]:
    """The numbers of a scaling, by the names of :class:`Rotary`."""
    if kind == "default":
        return {}
    values = {"factor": _number(rope, "factor", refused)}
    if kind == "linear":
        return values
    length = config.get(_ORIGINAL) or rope.get(_ORIGINAL) or config["max_position_embeddings"]
    values["original_length"] = _number({_ORIGINAL: length}, _ORIGINAL, refused)
    if kind == "llama3":
        for name in ("low_freq_factor", "high_freq_factor"):
            values[name] = _number(rope, name, refused)
        if values["low_freq_factor"] >= values["high_freq_factor"]:
            raise UserError(f"{refused}: low_freq_factor must be below high_freq_factor")
        return values
    for name in ("beta_fast", "beta_slow"):
        if rope.get(name):
            values[name] = _number(rope, name, refused)
    truncate = rope.get("truncate", True)
    if not isinstance(truncate, bool):
        raise UserError(f"{refused}: truncate {truncate!r} is neither true nor false")
    return {**values, "truncate": truncate, "attention_factor": _attention_factor(rope, refused)}


def _attention_factor(rope: dict[str, Any], refused: str) -> float:
    """YaRN's, by ``attention_factor`` where it is given, else 0.1 ln(factor) + 1."""
    if rope.get("attention_factor") is not None:
        return _number(rope, "attention_factor", refused)
    factor = rope["factor"]

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    if rope.get("mscale") and rope.get("mscale_all_dim"):
        of_all = _number(rope, "mscale_all_dim", refused)
        return scale(_number(rope, "mscale", refused)) / scale(of_all)
    return scale(1.0)


def _number(values: dict[str, Any], name: str, refused: str) -> float:
    value = values.get(name)
    if value is None:
        raise UserError(f"{refused}: {name} is missing")
    if not _is_number(value) or value <= 0:
        raise UserError(f"{refused}: {name} {value!r} is no positive number")
    return value  # type: ignore[no-any-return]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
