"""The command that says whether a model can be trained here, and what is missing."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from megatron_dasd.command_line import guarded, start_function
from megatron_dasd.printing import say, shown

if TYPE_CHECKING:
    from megatron_dasd.checkpoint.support import Support

_SHOWN = 8
"""Names of tensors that are printed of each kind."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a model; returns the exit status, 1 where it cannot be trained."""
    return start_function(check_model, arguments)


def check_model(
    model: Annotated[
        Path, typer.Argument(metavar="DIR", help="Hugging Face folder, or one with a config.json")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="one JSON object, for programs")] = False,
) -> None:
    """Say what of a model is supported, what is missing, and which weights have no home.

    Reads the config and the headers of the weight files; a folder with a config alone will do.

    The exit status is 1 where the model cannot be trained.
    """
    raise typer.Exit(guarded(lambda: _check(model, as_json)))


def _check(model: Path, as_json: bool) -> int:
    from megatron_dasd.checkpoint.support import examine
    from megatron_dasd.manifests import model_folder

    found = examine(model_folder(model))
    if as_json:
        facts = {
            "family": found.family,
            "supported": found.is_supported,
            "problems": found.problems,
            "weights_not_read": found.weights,
            "missing": found.missing,
            "without_home": found.homeless,
            "carried_along": found.carried,
        }
        say(json.dumps(facts, indent=2))
    else:
        for line in _lines(found):
            say(line)
    return 0 if found.is_supported else 1


def _lines(found: "Support") -> list[str]:
    """The report as text."""
    verdict = "can be trained" if found.is_supported else "cannot be trained as it is"
    lines = [f"{shown(found.family)}: {verdict}"]
    if found.architecture:
        a = found.architecture
        experts = f", {a.experts.num_experts} experts" if a.experts else ""
        lines.append(
            f"  {a.num_layers} layers, hidden size {a.hidden_size}, {a.num_attention_heads} heads, "
            f"{a.num_query_groups} key-value heads, vocabulary {a.vocab_size}{experts}"
        )
    lines += [f"  not supported: {shown(problem)}" for problem in found.problems]
    if found.weights:
        lines.append(f"  weights not looked at: {shown(found.weights)}")
    for what, names in (
        ("missing in the files", found.missing),
        ("without a home", found.homeless),
        ("left as they are by an export", found.carried),
    ):
        if names:
            lines.append(f"  tensors {what}: {len(names)}")
            lines += [f"    {shown(name)}" for name in names[:_SHOWN]]
            lines += ["    ..."] if len(names) > _SHOWN else []
    return lines
