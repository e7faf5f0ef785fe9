"""``--dasd-hf-model``: the architecture's flags from a Hugging Face config; nobody types them.

They are put before what was typed, for Megatron's own parser.  What was typed and says otherwise
is an error: the checkpoint is that model's, and Megatron would train another on it or none.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from megatron_dasd.errors import UserError
from megatron_dasd.manifests import model_folder
from megatron_dasd.models.architecture import Architecture, Flag, Flags, read_architecture

_UNSET = object()
_LAYERS_BY_HAND = ("pipeline-num-layers", "pipeline-model-parallel-layout", "in-pipeline-split")
"""In the names of flags that say which stage has which layers."""


def number_of_stages(pipeline: int, virtual: int, names: Iterable[str]) -> int:
    """Parts that a model's layers are divided into evenly.

    Args:
        names: of the flags that are given, words joined by dashes; 1 stage where one of them
            places the layers.
    """
    placed = any(part in name for name in names for part in _LAYERS_BY_HAND)
    return 1 if placed else pipeline * virtual


def add_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add this program's own flags to Megatron's, as its ``extra_args_provider``."""
    group = parser.add_argument_group(title="dasd")
    group.add_argument(
        "--dasd-hf-model",
        metavar="DIR",
        help="Hugging Face folder whose config gives the architecture's flags",
    )
    return parser


class CommandLine:
    """The flags that were typed for Megatron's program, without those at their defaults.

    To be made once the CPU adapter is installed, where there is no GPU.
    """

    def __init__(self, argv: list[str]) -> None:
        from megatron.training.arguments import add_megatron_arguments

        parser = argparse.ArgumentParser(allow_abbrev=False)
        self._parser = add_arguments(add_megatron_arguments(parser))
        self._unset = dict.fromkeys(vars(self._parser.parse_args([])), _UNSET)
        self.values = self.parse(argv)
        """Values by Megatron's name of the argument, of the typed flags alone."""

    def parse(self, argv: list[str]) -> dict[str, Any]:
        """Values of the flags that ``argv`` names, in Megatron's types."""
        namespace = argparse.Namespace(**self._unset)
        found = vars(self._parser.parse_args(argv, namespace))
        return {name: value for name, value in found.items() if value is not _UNSET}

    def architecture(self) -> Architecture | None:
        """The model's architecture, where ``--dasd-hf-model`` names one.

        Raises:
            UserError: no such model, or one that Megatron cannot hold.
        """
        folder = self.values.get("dasd_hf_model")
        return read_architecture(model_folder(Path(folder))) if folder else None

    def architecture_flags(self, architecture: Architecture) -> Flags:
        """The architecture's flags under the typed layout.

        Raises:
            UserError: a typed flag says otherwise, or the layout does not fit the model.
        """
        tensor = self.values.get("tensor_model_parallel_size", 1)
        expert = self.values.get("expert_model_parallel_size", 1)
        stages = number_of_stages(
            self.values.get("pipeline_model_parallel_size", 1),
            self.values.get("num_virtual_stages_per_pipeline_rank") or 1,
            [name.replace("_", "-") for name in self.values],
        )
        expert_tensor = self.values.get("expert_tensor_parallel_size") or tensor
        context = self.values.get("context_parallel_size", 1)
        architecture.check_layout(tensor, expert, stages, expert_tensor, context)
        flags = architecture.flags(tensor, expert)
        for name, expected in flags.items():
            self._refuse_contradiction(name, expected)
        return flags

    def _refuse_contradiction(self, name: str, expected: Flag) -> None:
        # Where the model has no such thing, any value serves to learn Megatron's name of it.
        value = [] if isinstance(expected, bool) else ["1" if expected is None else str(expected)]
        ((attribute, parsed),) = self.parse([f"--{name}", *value]).items()
        typed = self.values.get(attribute, _UNSET)
        # A switch that the model has off, or what it has not at all, must not be typed.
        if typed is not _UNSET and (expected is None or expected is False or typed != parsed):
            raise UserError(
                f"--{name} {_shown(typed)} contradicts the model's {_shown(expected)}, which "
                f"follows from {self.values['dasd_hf_model']}/config.json"
            )


def _shown(value: object) -> str:
    """A flag's value as a user would say it."""
    return {"None": "none", "True": "on", "False": "off"}.get(str(value), str(value))
