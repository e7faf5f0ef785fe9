"""How many good texts the rules of repetition drop, and how many degenerate ones, by kind.

``PYTHONPATH=. python -m tests.filters.texts.measure --downloads DIR`` prints the tables of
docs/filters.md.  DIR receives the packages (some 20 MB; apt-get is needed); without it only made
texts and those of installed packages are measured.
"""

import argparse
import random
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

from megatron_dasd.config.selection import Repetition
from megatron_dasd.filters.repetition import (
    ends_in_loop,
    repeated_line,
    repeated_ngram,
    repeated_paragraph,
    repeated_sentence,
)
from tests.filters.texts import degenerate, held_back, made, shipped

RULES = (ends_in_loop, repeated_line, repeated_paragraph, repeated_sentence, repeated_ngram)
BOUNDS = Repetition()
Kinds = dict[str, list[str]]


def found_in(text: str) -> str | None:
    """What the first rule that drops a text says of it; None when all let it pass."""
    return next((found for rule in RULES if (found := rule([text], BOUNDS))), None)


def made_texts(makers: Mapping[str, made.Maker], count: int) -> Kinds:
    """So many texts of each kind, always the same."""
    return {
        kind: [make(random.Random(f"{kind} {number}")) for number in range(count)]
        for kind, make in makers.items()
    }


def shipped_texts(
    sources: Mapping[str, shipped.Source], count: int, downloads: Path = Path()
) -> Kinds:
    """At most so many passages of each kind."""
    return {
        kind: list(islice(passages(random.Random(kind), downloads), count))
        for kind, passages in sources.items()
    }


def chosen_on(count: int, downloads: Path | None) -> tuple[Kinds, Kinds]:
    """(good, degenerate) texts by which the bounds were chosen."""
    good = shipped_texts(shipped.INSTALLED, count) | made_texts(made.MADE, count)
    if downloads:
        good |= shipped_texts(shipped.DOWNLOADED, count, downloads)
    return good, made_texts(degenerate.DEGENERATE, count)


def held_back_from(count: int, downloads: Path | None) -> tuple[Kinds, Kinds]:
    """(good, degenerate) texts by which no bound was chosen."""
    good = shipped_texts(held_back.HELD_BACK_INSTALLED, count)
    good |= made_texts(held_back.HELD_BACK_MADE, count)
    if downloads:
        good |= shipped_texts(held_back.HELD_BACK_DOWNLOADED, count, downloads)
    return good, made_texts(held_back.HELD_BACK_DEGENERATE, count)


def rows(kinds: Kinds, expected: float) -> Iterator[str]:
    """A row of all kinds together, then one of each kind whose share is not the expected one."""
    dropped = {kind: sum(found_in(t) is not None for t in texts) for kind, texts in kinds.items()}
    total, size = sum(dropped.values()), sum(map(len, kinds.values()))
    yield f"| {len(kinds)} kinds | {size} | {total} | {total / size:.1%} |"
    for kind, number in dropped.items():
        if number != expected * len(kinds[kind]):
            yield f"| {kind} | {len(kinds[kind])} | {number} | {number / len(kinds[kind]):.0%} |"


def main() -> None:
    """Print a table for each half."""
    parser = argparse.ArgumentParser(description="Measure the rules of repetition.")
    parser.add_argument("--downloads", type=Path, help="folder for packages; none: no downloads")
    parser.add_argument("--count", type=int, default=30, help="texts of a kind")
    options = parser.parse_args()
    if options.downloads:
        shipped.download(options.downloads)
    for name, half in (("chosen on", chosen_on), ("held back", held_back_from)):
        for expected, kinds in enumerate(half(options.count, options.downloads)):
            print(f"{('good', 'degenerate')[expected]}, {name}:")
            print("| kinds | texts | dropped | share |\n|---|---|---|---|")
            print(*rows(kinds, expected), sep="\n", flush=True)


if __name__ == "__main__":
    main()
