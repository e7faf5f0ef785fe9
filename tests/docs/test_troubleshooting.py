"""Every message that the troubleshooting page explains is one that the program can print."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
MESSAGES = re.findall(r"^\| `(.+?)` \|", PAGE.read_text(), re.MULTILINE)
VARIES = "…"


@cache
def program_texts() -> list[str]:
    """Every string of the program, with ``…`` for what varies in it."""
    texts = []
    for path in sorted((ROOT / "megatron_dasd").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                parts = [
                    str(part.value) if isinstance(part, ast.Constant) else VARIES
                    for part in node.values
                ]
                texts.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return texts


def test_the_page_explains_messages() -> None:
    assert len(MESSAGES) >= 20


@pytest.mark.parametrize("message", MESSAGES)
def test_the_program_has_the_message(message: str) -> None:
    # a message may be put together from several strings, so each fixed run of words is looked for
    for words in message.split(VARIES):
        assert any(words.strip() in text for text in program_texts()), words
