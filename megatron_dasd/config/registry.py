"""Things that the settings choose by name, e.g. strategies and divergences.

The names are declared once, in the settings, which import nothing heavy.  The objects stand beside
the code that they run.  :class:`Registry` refuses to be built when the two differ.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

from megatron_dasd.errors import UserError


class Named(Protocol):
    """Anything with a name."""

    @property
    def name(self) -> str:
        """The name by which the settings choose the object."""
        ...


class Registry[T: Named]:
    """One object for each declared name.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Colour:
        ...     name: str
        >>> colours = Registry("colour", [Colour("red"), Colour("blue")], ["red", "blue"])
        >>> colours["red"]
        Colour(name='red')
    """

    def __init__(self, kind: str, objects: Iterable[T], declared: Iterable[str]) -> None:
        """Index the objects.

        Args:
            kind: what they are, for messages.
            declared: the names that the settings accept.

        Raises:
            ValueError: a name is declared or given twice, or by one side only.
        """
        given = list(objects)
        self._kind = kind
        self._objects = {one.name: one for one in given}
        if sorted(one.name for one in given) != sorted(declared):
            raise ValueError(f"{kind}: the objects and the declared names differ")

    def __getitem__(self, name: str) -> T:
        """Find an object.

        Raises:
            UserError: nothing has this name.
        """
        if name not in self._objects:
            raise UserError(
                f"unknown {self._kind} {name!r}; choose one of {', '.join(self._objects)}"
            )
        return self._objects[name]

    def __iter__(self) -> Iterator[T]:
        """The objects in the order in which they were given."""
        return iter(self._objects.values())
