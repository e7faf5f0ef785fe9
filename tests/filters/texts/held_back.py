"""Kinds of text by which no bound was chosen: on these the bounds are reported."""
# ruff: noqa: E501, E731 -- lines of texts; small generators

import calendar
import difflib
import io
import pydoc
import random
from collections import deque
from collections.abc import Callable
from pathlib import Path

from tests.filters.texts import degenerate
from tests.filters.texts.degenerate import inside, prose, sentence
from tests.filters.texts.shipped import LIBRARY, cut, debian, from_files, packages

Maker = Callable[[random.Random], str]


def diffs(chance: random.Random) -> str:
    """A unified diff of a module of Python's library and the same with some lines changed."""
    path = chance.choice(sorted(LIBRARY.glob("*.py")))
    old = path.read_text(errors="ignore").splitlines()
    new = [line.replace("self", "this") for line in old if chance.random() > 0.02]
    return "\n".join(list(difflib.unified_diff(old, new, path.name, path.name, lineterm=""))[:200])


def help_pages(chance: random.Random) -> str:
    name = chance.choice(
        ("json", "random", "gzip", "textwrap", "heapq", "bisect", "shlex", "queue", "csv", "glob")
    )
    printed = io.StringIO()
    pydoc.Helper(output=printed).help(name)
    return cut(printed.getvalue(), chance)


def calendars(chance: random.Random) -> str:
    return calendar.TextCalendar().formatyear(chance.randint(1900, 2100))


def hanoi(chance: random.Random) -> str:
    moves: list[str] = []
    shape = chance.choice(
        (
            "Move disk {} from {} to {}.",
            "{}: {} -> {}",
            "We move the disk {} from peg {} to peg {}.",
        )
    )

    def solve(size: int, start: str, end: str, spare: str) -> None:
        if size:
            solve(size - 1, start, spare, end)
            moves.append(shape.format(size, start, end))
            solve(size - 1, spare, end, start)

    solve(chance.randint(3, 5), "A", "C", "B")
    return "The moves are:\n" + "\n".join(moves)


def sorting(chance: random.Random) -> str:
    values = [chance.randint(1, 99) for _ in range(chance.randint(6, 14))]
    lines = [f"Start: {values}"]
    for end in range(len(values) - 1, 0, -1):
        for k in range(end):
            if values[k] > values[k + 1]:
                values[k], values[k + 1] = values[k + 1], values[k]
        lines.append(f"After pass {len(values) - end}: {values}")
    return "\n".join(lines)


def searches(chance: random.Random) -> str:
    """A breadth-first search, told node by node."""
    size = chance.randint(8, 25)
    edges = {k: chance.sample(range(size), 3) for k in range(size)}
    queue, seen, lines = deque([0]), {0}, []
    while queue:
        node = queue.popleft()
        new = [n for n in edges[node] if n not in seen]
        seen.update(new)
        queue.extend(new)
        lines.append(
            f"Visit node {node}. Its neighbours are {edges[node]}, of which {new} are new. The queue is {list(queue)}."
        )
    return "\n".join(lines)


def digits_added(chance: random.Random) -> str:
    a, b = chance.randint(10**11, 10**14), chance.randint(10**11, 10**14)
    lines, carry = [], 0
    for place, (x, y) in enumerate(zip(reversed(str(a)), reversed(str(b)), strict=False)):
        total = int(x) + int(y) + carry
        lines.append(
            f"Digit {place + 1}: {x} + {y} + {carry} = {total}, write {total % 10}, carry {total // 10}."
        )
        carry = total // 10
    return f"Add {a} and {b}.\n" + "\n".join(lines) + f"\nThe sum is {a + b}."


def dialogues(chance: random.Random) -> str:
    return "\n\n".join(
        f"{'AB'[k % 2]}: {prose(chance, chance.randint(1, 3))}"
        for k in range(chance.randint(10, 40))
    )


def checks(chance: random.Random) -> str:
    """Candidates tried one after the other, each found wrong by another number."""
    limit = chance.randint(8, 25)
    return "\n".join(
        f"Try n = {n}: n^2 + n + 41 = {n * n + n + 41}, which leaves {(n * n + n + 41) % 7} modulo 7, so it does not work."
        for n in range(1, limit)
    )


def drafts(chance: random.Random) -> str:
    """A solution that the thinking part has drafted and the answer repeats word for word."""
    solution = prose(chance, chance.randint(10, 60))
    return f"{prose(chance, 20)}\n\n{solution}\n\n{prose(chance, 5)}\n\n{solution}"


def vocabulary(chance: random.Random) -> str:
    return "\n".join(
        f"{sentence(chance, 1)[:-1].lower()} (n.): {sentence(chance, chance.randint(4, 12))}"
        for _ in range(chance.randint(20, 80))
    )


HELD_BACK_MADE: dict[str, Maker] = {
    "diffs": diffs,
    "help pages": help_pages,
    "calendars": calendars,
    "towers of Hanoi": hanoi,
    "sorting traced": sorting,
    "searches traced": searches,
    "sums digit by digit": digits_added,
    "dialogues": dialogues,
    "candidates tried": checks,
    "drafts repeated once": drafts,
    "vocabulary": vocabulary,
}
HELD_BACK_INSTALLED = {
    "stylesheets and scripts": from_files(packages, "**/*.css", "**/*.js", "**/*.mplstyle"),
    "Perl code": from_files(lambda _: [Path("/usr/share/perl")], "**/*.pm"),
    "templates and Markdown": from_files(packages, "**/*.md", "**/*.html", "**/*.jinja"),
    "C++ sources": from_files(packages, "**/*.cuh", "**/*.hpp", "**/*.cpp"),
}
HELD_BACK_DOWNLOADED = {
    "Chinese web pages": from_files(debian, "usr/share/debian-reference/*.zh-cn.html"),
    "English manuals": from_files(lambda _: [Path("/usr/share/man")], "man1/*.gz", "man8/*.gz"),
    "locale definitions": from_files(lambda _: [Path("/usr/share/i18n/locales")], "*"),
}


def _script(first: int, last: int, spaced: bool) -> Maker:
    """Loops in the letters between two code points."""

    def make(chance: random.Random) -> str:
        letters = [chr(c) for c in range(first, last) if chr(c).isalpha()]
        word = lambda: "".join(chance.choice(letters) for _ in range(chance.randint(2, 7)))
        text = lambda count: (" " if spaced else "").join(word() for _ in range(count))
        piece = text(chance.randint(2, 12)) + chance.choice((" ", "، ", "। ", ". ", "\n"))
        return (
            f"{text(60)}. {piece * chance.randint(60, 200)} {text(chance.choice((0, 30)))}".strip()
        )

    return make


def roman_counter(chance: random.Random) -> str:
    def roman(n: int) -> str:
        out = ""
        for value, sign in (
            (100, "C"),
            (90, "XC"),
            (50, "L"),
            (40, "XL"),
            (10, "X"),
            (9, "IX"),
            (5, "V"),
            (4, "IV"),
            (1, "I"),
        ):
            out, n = out + sign * (n // value), n % value
        return out

    after = sentence(chance, chance.randint(6, 12))
    return inside(
        chance, "\n".join(f"Section {roman(k)}. {after}" for k in range(1, chance.randint(45, 150)))
    )


def names_swapped(chance: random.Random) -> str:
    names = ("Ada", "Ben", "Chen", "Dora", "Emil")
    shape = (
        sentence(chance, chance.randint(5, 9))[:-1]
        + " {} "
        + sentence(chance, chance.randint(5, 9))
    )
    return inside(
        chance, " ".join(shape.format(chance.choice(names)) for _ in range(chance.randint(40, 150)))
    )


def dates(chance: random.Random) -> str:
    after = sentence(chance, chance.randint(5, 12))
    return inside(
        chance,
        "\n".join(
            f"On day {k} of month {k // 28 + 1} {after}" for k in range(1, chance.randint(50, 200))
        ),
    )


def bullets(chance: random.Random) -> str:
    items = [f"{mark} {sentence(chance, chance.randint(4, 10))}" for mark in ("-", "  -", "*")]
    return inside(chance, "\n" + "\n".join(items * chance.randint(15, 60)) + "\n")


def objects(chance: random.Random) -> str:
    one = f'{{"id": {chance.randint(1, 99)}, "name": "{sentence(chance, 2)}", "value": null}},\n'
    return f"{prose(chance, 3)}\n[{one * chance.randint(40, 200)}"


def character_inside(chance: random.Random) -> str:
    return f"{prose(chance, 5)} {chance.choice('aeZ哈-=') * chance.randint(1_500, 9_000)} {prose(chance, 5)}"


def shouting(chance: random.Random) -> str:
    """One sentence whose marks and capitals change."""
    words = sentence(chance, chance.randint(7, 14))[:-1]
    shapes = (words, words.upper(), words.lower(), words.title())
    return inside(
        chance,
        " ".join(
            chance.choice(shapes) + chance.choice(".!?,;") for _ in range(chance.randint(60, 200))
        ),
    )


def shrinking(chance: random.Random) -> str:
    words = sentence(chance, chance.randint(50, 90)).split()
    return inside(chance, "\n".join(" ".join(words[k:]) for k in range(len(words) - 5)))


def question_again(chance: random.Random) -> str:
    """The question again, each time with a few new words after it."""
    question = prose(chance, chance.randint(2, 4))
    return inside(
        chance,
        " ".join(
            f"{question} {sentence(chance, chance.randint(3, 6))}"
            for _ in range(chance.randint(15, 50))
        ),
    )


HELD_BACK_DEGENERATE: dict[str, Maker] = {
    "Arabic loops": _script(0x627, 0x64B, True),
    "Hindi loops": _script(0x905, 0x93A, True),
    "Thai loops": _script(0xE01, 0xE2F, False),
    "Japanese loops": _script(0x3041, 0x3097, False),
    "Korean loops": _script(0xAC00, 0xACFF, True),
    "Cyrillic loops": _script(0x430, 0x450, True),
    "Roman counters": roman_counter,
    "names swapped": names_swapped,
    "dates": dates,
    "bullets": bullets,
    "objects of a dump": objects,
    "a character inside": character_inside,
    "shouting": shouting,
    "shrinking copies": shrinking,
    "the question again": question_again,
    "an edited copy, long": lambda chance: inside(
        chance,
        "\n\n".join(
            degenerate.edited(chance, p, 0.03) for p in [prose(chance, 20)] * chance.randint(4, 9)
        ),
    ),
}
