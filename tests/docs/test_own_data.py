"""The formats and examples of the page on own data are those of the program."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from megatron_dasd.config.formats import PRESETS
from megatron_dasd.config.sources import ImportResponses
from megatron_dasd.manifests import Manifest
from megatron_dasd.records import Response
from megatron_dasd.records_io import read_records
from megatron_dasd.sources import responses

PAGE = (Path(__file__).parents[2] / "docs" / "own_data.md").read_text()
EXAMPLES = re.findall(
    r"^`format: ([\w-]+)`[^`]*(?:`[^`]+`[^`]*)*?```json\n(.+?)```", PAGE, re.M | re.S
)
GIVEN = {"kind": "import_responses", "temperature": 1.0}


def test_the_table_has_every_format() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| (.+?) \|", PAGE, re.MULTILINE)
    assert [name for name, _ in rows[1:]] == list(PRESETS)
    for name, columns in rows[1:]:
        preset = PRESETS[name]
        named = {column.strip("`") for column in re.findall(r"`\w+`", columns)}
        own = {
            *preset.required,
            *preset.input,
            *filter(None, [preset.system, preset.finish_reason]),
        }
        assert own <= named, name


@pytest.mark.parametrize(("name", "rows"), EXAMPLES, ids=[name for name, _ in EXAMPLES])
def test_examples_are_read_without_naming_their_format(
    name: str, rows: str, run_stage: Callable[..., Manifest], tmp_path: Path
) -> None:
    (tmp_path / "data.jsonl").write_text(rows)
    for given in ({"format": name}, {}):
        settings = ImportResponses.model_validate(GIVEN | given | {"files": ["data"]})
        stage = f"stage-{len(given)}"
        run_stage(responses.run, settings, {"data": tmp_path / "data.jsonl"}, name=stage)
        found = list(read_records(tmp_path / stage, Response))
        assert len({r.prompt.prompt_id for r in found}) == 3
        assert found[0].text.endswith(("4", "Bears hibernate."))


def test_there_is_an_example_of_each_kind() -> None:
    kinds = ["messages", "sharegpt", "alpaca", "prompt-response", "s1k-deepseek", "rendered-text"]
    assert [name for name, _ in EXAMPLES] == kinds


def test_settings_on_the_page_are_accepted() -> None:
    stages = re.findall(r"^```yaml\n(imported:.+?)```", PAGE, re.MULTILINE | re.DOTALL)
    assert len(stages) == 2
    for stage in stages:
        ImportResponses.model_validate(yaml.safe_load(stage)["imported"])
