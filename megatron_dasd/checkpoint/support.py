"""What of a Hugging Face folder can be trained here, and what cannot: the config and the tensors.

Only the config and the headers of the weight files are read.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from megatron_dasd.checkpoint.convert import has_home
from megatron_dasd.checkpoint.hf_folder import HfWeights, read_config
from megatron_dasd.checkpoint.names import tensor_mappings
from megatron_dasd.errors import UserError
from megatron_dasd.models.architecture import Architecture
from megatron_dasd.models.families import FAMILIES, REFUSED, Family
from megatron_dasd.models.hf_config import config_problems, read_architecture


@dataclass(frozen=True)
class Support:
    """What was found."""

    family: str
    """Class that ``transformers`` loads the model with."""
    is_known: bool
    """Whether the family has a row in the table; else the rest holds it against Llama's shape."""
    problems: list[str] = field(default_factory=list)
    """What the config asks for and the trainer does not do, a line each."""
    architecture: Architecture | None = None
    """What the config describes; None: there are problems."""
    weights: str = ""
    """Why the weights were not looked at; empty: they were."""
    missing: list[str] = field(default_factory=list)
    """Tensors that the config asks for and the files have not."""
    homeless: list[str] = field(default_factory=list)
    """Tensors of the files that the config gives no place, and that would be lost."""
    carried: list[str] = field(default_factory=list)
    """Tensors of the files outside of the text model, which an export leaves as they are."""

    @property
    def is_supported(self) -> bool:
        """Whether the model can be imported, trained and exported."""
        found = (self.problems, self.missing, self.homeless)
        return self.is_known and not any(found)


def examine(folder: Path) -> Support:
    """Hold a folder against the table of families and the table of names.

    Args:
        folder: with a ``config.json``; weights are looked at where there are any.

    Raises:
        UserError: no config there, or none that can be read.
    """
    path = folder / "config.json"
    config = read_config(folder)
    name = str(next(iter(config.get("architectures") or ["?"])))
    is_known = name in FAMILIES
    family = FAMILIES.get(name) or _likely(config)
    problems = list(config_problems(config, family, path))
    if not is_known:
        because = REFUSED.get(name, "has no row in models.families.FAMILIES")
        problems.insert(0, f"{path}: field architectures: {name}: {because}")
        return Support(name, False, problems, weights="the family is not known")
    if problems:
        return Support(name, True, problems, weights="the config is not supported")
    architecture = read_architecture(folder)
    try:
        found = HfWeights(folder).names()
    except UserError as error:
        return Support(name, True, [], architecture, weights=str(error))
    return Support(name, True, [], architecture, "", *_compare(found, architecture))


def _likely(config: dict[str, object]) -> Family:
    """The shape that an unknown family is held against: Llama's, around images or not."""
    prefix = "model.language_model." if isinstance(config.get("text_config"), dict) else "model."
    return Family(prefix=prefix, windows=True, attention_bias=True)


def _compare(
    found: Iterable[str], architecture: Architecture
) -> tuple[list[str], list[str], list[str]]:
    """Tensors that are missing, have no home, and are carried along."""
    names = set(found)
    wanted = {name for mapping in tensor_mappings(architecture) for name in mapping.hf}
    rest = sorted(names - wanted)
    carried = [name for name in rest if has_home(name, architecture)]
    return sorted(wanted - names), [name for name in rest if name not in carried], carried
