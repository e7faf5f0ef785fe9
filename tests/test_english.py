"""Phrasings that a reader has to decode stay out of the documentation, docstrings and messages."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INSTEAD = {
    r"so many (?:of (?:them|whom|which)|are|different|bytes|rows)": "number of, at least, at most",
    r"until which": "how long to wait",
    r"whose each is": "who wrote it",
    r"heard of": "reported",
    r"of the steps up to so many": "called as f(...)",
    r"mend(?:s|ed|ing)? (?:it|that|the record)": "fix",
    r"(?:is|was|are|were|been) told(?! apart by)": "reported, asked, given",
    r"tells? of": "says, describes, reports",
    r"the first that speaks": "the first that matches",
    r"holds? back": "delays",
    r"for want of": "for lack of",
    r"on its way": "running, pending",
    r"anew": "again, over",
    r"rests? on": "depends on",
    r"reckon\w*": "estimate, count",
    r"thereby|thereof|whereof|farewell": "by this, of it",
    r"(?:what|which) (?:stands|lies) (?:there|here)": "what it contains",
}
"""Banned phrasings (regular expressions, any case), each with what to write."""
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
MODULES = sorted((ROOT / "megatron_dasd").rglob("*.py"))


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Line number and text of each line of a page, or of each string of a module."""
    content = path.read_text()
    if path.suffix == ".md":
        yield from enumerate(content.splitlines(), start=1)
        return
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from enumerate(node.value.splitlines(), start=node.lineno)


@pytest.mark.parametrize("paths", [PAGES, MODULES], ids=["pages", "modules"])
def test_no_phrasing_needs_decoding(paths: list[Path]) -> None:
    any_phrasing = re.compile("|".join(rf"\b(?:{phrase})\b" for phrase in INSTEAD), re.IGNORECASE)
    found = []
    for path in paths:
        for line, text in texts(path):
            if match := any_phrasing.search(text):
                better = next(
                    instead
                    for phrase, instead in INSTEAD.items()
                    if re.fullmatch(phrase, match[0], re.IGNORECASE)
                )
                found.append(f"{path.relative_to(ROOT)}:{line}: {match[0]!r}: write {better}")
    assert found == []


@pytest.mark.parametrize("sentence", ["So many of them, a job each.", "mend the record"])
def test_the_coded_phrasings_are_found(sentence: str) -> None:
    assert any(re.search(rf"\b(?:{phrase})\b", sentence, re.IGNORECASE) for phrase in INSTEAD)
