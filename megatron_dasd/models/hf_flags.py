"""``--dasd-hf-model``: the architecture's flags from a Hugging Face config; nobody types them.

They are put before what was typed, for Megatron's own parser.  What was typed and says otherwise
is an error: the checkpoint is that model's, and Megatron would train another on it or none.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from megatron_dasd.config.base import Launch
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import model_folder
from megatron_dasd.models.architecture import Architecture, Flag, Flags
from megatron_dasd.models.hf_config import read_architecture
from megatron_dasd.models.pipeline_stages import Stages, stages_of

_UNSET = object()
_LAYERS_BY_HAND = ("pipeline-model-parallel-layout", "in-pipeline-split")
"""In the names of flags that say which stage has which layers."""


def stages_unless_placed(stages: Stages, names: Iterable[str]) -> Stages | None:
    """The stages of a pipeline; None where a flag says by itself which has which layers.

    Args:
        names: of the flags that are given, words joined by dashes.
    """
    placed = any(part in name for name in names for part in _LAYERS_BY_HAND)
    return None if placed else stages


def check_launch(architecture: Architecture, launch: Launch, flags: Flags | None = None) -> None:
    """Make sure before any rank starts that a layout can hold a model.

    Args:
        flags: Megatron's that are given beside it.

    Raises:
        UserError: naming what cannot be divided.
    """
    given = flags or {}
    expert_tensor = given.get("expert-tensor-parallel-size", launch.tensor_parallel)
    if not isinstance(expert_tensor, int):
        raise UserError(f"expert-tensor-parallel-size: expected an integer, got {expert_tensor}")
    architecture.check_layout(
        launch.tensor_parallel,
        launch.expert_parallel,
        stages_unless_placed(stages_of(launch), given),
        expert_tensor,
        launch.context_parallel,
    )


def add_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add this program's own flags to Megatron's, as its ``extra_args_provider``."""
    group = parser.add_argument_group(title="dasd")
    group.add_argument(
        "--dasd-hf-model",
        metavar="DIR",
        help="Hugging Face folder whose config gives the architecture's flags",
    )
    group.add_argument(
        "--dasd-rotary",
        metavar="JSON",
        help="rotary embedding that Megatron has no flags for; given by --dasd-hf-model",
    )
    group.add_argument(
        "--dasd-attention-output-bias",
        action="store_true",
        help="bias of attention's output projection alone; given by --dasd-hf-model",
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
        stages = stages_unless_placed(
            Stages(
                self.values.get("pipeline_model_parallel_size", 1),
                self.values.get("num_virtual_stages_per_pipeline_rank") or 1,
                self.values.get("decoder_first_pipeline_num_layers"),
                self.values.get("decoder_last_pipeline_num_layers"),
            ),
            [name.replace("_", "-") for name in self.values],
        )
        expert_tensor = self.values.get("expert_tensor_parallel_size")
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
