"""Every setting that a block of YAML in the documentation shows is one that the program takes."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from megatron_dasd.config.base import Launch
from megatron_dasd.config.cluster import Cluster
from megatron_dasd.config.planning import Plan
from megatron_dasd.config.stages import stage_kinds
from megatron_dasd.config.yaml_files import parse_yaml

ROOT = Path(__file__).parents[2]
LANGUAGES = {
    "": "shell commands (test_commands.py), file trees and drawings, output",
    "python": "run by test_examples.py",
    "pycon": "run by tests/api",
    "yaml": "checked here",
    "json": "read by test_own_data.py, or output",
}
"""What becomes of a block, by its language."""
CLASSES: Mapping[str, type[BaseModel]] = {"launch": Launch, "plan": Plan, "cluster": Cluster}
"""The class of a block by its name; a stage's block names its kind."""
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks() -> Iterator[tuple[str, str, str]]:
    """Page, language and text of each block."""
    for page in PAGES:
        for language, text in re.findall(
            r"^ *```(\w*)\n(.*?)^ *```", page.read_text(), re.M | re.S
        ):
            yield page.stem, language, text


YAML = [(f"{page}-{n}", text) for n, (page, lang, text) in enumerate(blocks()) if lang == "yaml"]


def test_each_language_is_dealt_with() -> None:
    assert {language for _, language, _ in blocks()} <= LANGUAGES.keys()


def parsed_extract(text: str) -> object:
    """The value of a block, without the dots that stand for more."""
    return parse_yaml(re.sub(r", \.\.\.(?=})|^ *\.\.\.\n", "", text, flags=re.MULTILINE))


def settings_in(block: object) -> Iterator[tuple[type[BaseModel], dict[str, object]]]:
    """The settings that a block shows, each with its class."""
    if not isinstance(block, dict):
        return
    for name, value in block.items():
        if not isinstance(value, dict):
            continue
        if "kind" in value:
            yield stage_kinds()[value["kind"]], value
        elif name in CLASSES:
            yield CLASSES[name], value
        else:
            yield from settings_in(value)


@pytest.mark.parametrize(("name", "text"), YAML, ids=lambda value: value[:30])
def test_yaml_is_accepted(name: str, text: str) -> None:
    parsed = parsed_extract(text)
    for kind, shown in settings_in(parsed):
        try:
            kind.model_validate(shown)
        except ValidationError as error:  # an extract leaves out what the rest depends on
            left_out = {"missing", "value_error"}
            faults = [fault for fault in error.errors() if fault["type"] not in left_out]
            assert faults == [], name


def test_most_blocks_show_settings_of_a_class() -> None:
    known = [name for name, text in YAML if list(settings_in(parsed_extract(text)))]
    assert len(known) > len(YAML) / 2
