"""NVIDIA's apex, and how to recognise other packages of that name.

PyPI's ``apex`` is a web toolkit for Pyramid.  Megatron only asks whether ``import apex`` works, and
then believes that it has the fused layer norm.
"""

import importlib.util
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from pathlib import Path

from megatron_dasd.errors import UserError

_FUSED_PARTS = ("optimizers/fused_adam.py", "normalization/fused_layer_norm.py")
"""What Megatron imports from NVIDIA's apex; a folder without them is another project."""


@dataclass(frozen=True)
class Apex:
    """A module named ``apex`` that Python would import."""

    place: Path
    package: str
    """``NAME VERSION`` of the installed package that brought it; empty: a folder on the path."""
    is_nvidias: bool


def find_apex() -> Apex | None:
    """What ``import apex`` would find, without importing it; None: nothing."""
    spec = importlib.util.find_spec("apex")
    if spec is None:
        return None
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    names = packages_distributions().get("apex", [])
    return Apex(
        place=folders[0] if folders else Path(spec.origin or "apex"),
        package=f"{names[0]} {version(names[0])}" if names else "",
        is_nvidias=any(all((f / part).is_file() for part in _FUSED_PARTS) for f in folders),
    )


def refuse_foreign_apex() -> None:
    """Stop where Megatron would take another project for NVIDIA's apex.

    Raises:
        UserError: naming the place and what to do.
    """
    apex = find_apex()
    if apex is not None and not apex.is_nvidias:
        raise UserError(foreign_message(apex))


def foreign_message(apex: Apex) -> str:
    """One line about an ``apex`` that is not NVIDIA's."""
    remedy = "run: pip uninstall apex" if apex.package else "take its folder off the Python path"
    return (
        f"{apex.place}: this {apex.package or 'apex'} is not NVIDIA's apex, but Megatron would "
        f"take it for that; {remedy}"
    )
