"""What settings choose by name: each declared name has one object, and other names are refused."""

from dataclasses import dataclass

import pytest

from megatron_dasd.config.registry import Registry
from megatron_dasd.errors import UserError


@dataclass(frozen=True)
class Colour:
    name: str


RED, BLUE = Colour("red"), Colour("blue")


def test_objects_are_found_by_name_and_kept_in_order() -> None:
    colours = Registry("colour", [RED, BLUE], ["blue", "red"])
    assert colours["blue"] is BLUE
    assert list(colours) == [RED, BLUE]


def test_an_unknown_name_is_refused_with_what_there_is() -> None:
    colours = Registry("colour", [RED, BLUE], ["red", "blue"])
    with pytest.raises(UserError, match="unknown colour 'green'; choose one of red, blue"):
        colours["green"]


@pytest.mark.parametrize(
    ("objects", "declared"),
    [
        ([RED], ["red", "blue"]),  # declared in the settings, and nothing does it
        ([RED, BLUE], ["red"]),  # no setting can choose it
        ([RED, Colour("red")], ["red"]),
    ],
)
def test_names_and_objects_that_differ_are_refused_at_import(
    objects: list[Colour], declared: list[str]
) -> None:
    with pytest.raises(ValueError, match="colour: the objects and the declared names differ"):
        Registry("colour", objects, declared)
