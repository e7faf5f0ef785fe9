"""What a grader is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

Check = Callable[[str, str, Mapping[str, object]], float]
"""Answer, reference answer and the prompt's ``grader_metadata`` to a score between 0 and 1."""


class NoSettings(msgspec.Struct, frozen=True):
    """The grader reads nothing of a prompt's ``grader_metadata``."""


@dataclass(frozen=True)
class Grader:
    """One way of judging an answer, declared where it stands."""

    name: str
    """What a prompt's ``grader`` says, up to a colon."""
    description: str
    """One line for users."""
    make: Callable[[str], Check]
    """Make the check from what follows the colon, empty without one; raises ValueError when it is
    refused.  Sees nothing of any prompt or answer."""
    settings: type[msgspec.Struct] | None = NoSettings
    """What ``grader_metadata`` may hold; None: any JSON object."""
    evaluates_code: bool = False
    """Whether the check hands the answer to ``eval`` or to a parser that can be made to run code;
    it is refused where nothing contains it."""
    in_process: bool = False
    """Whether the check is safe and quick on any text, and runs in this process."""
    module: str | None = None
    """The package that it needs."""


def without_argument(check: Check) -> Callable[[str], Check]:
    """``make`` of a grader whose name has no part after a colon."""

    def make(argument: str) -> Check:
        if argument:
            raise ValueError(f"takes no {argument!r} after its name")
        return check

    return make
