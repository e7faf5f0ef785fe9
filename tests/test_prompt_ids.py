"""One id, one question, over the files of a source."""

import json
from pathlib import Path

import pytest

from megatron_dasd.errors import UserError
from megatron_dasd.prompt_ids import read_prompts
from megatron_dasd.records_io import SetAside


def write(path: Path, *prompts: tuple[str, str]) -> Path:
    rows = [
        {"prompt_id": name, "messages": [{"role": "user", "content": question}]}
        for name, question in prompts
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_one_id_belongs_to_one_question(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", ("0", "q"), ("0", " q\n"), ("1", "q"))
    aside = SetAside("set_aside")
    found = [prompt.prompt_id for prompt in read_prompts(tmp_path, aside.malformed)]
    assert found == ["0", "0", "1"]
    second = write(tmp_path / "b.jsonl", ("2", "q"), ("0", "another"))
    with pytest.raises(UserError) as caught:
        list(read_prompts(tmp_path, aside.malformed))
    assert str(caught.value) == (
        f"{second}: record 2: field prompt_id: '0' belongs to two questions, the other in "
        f"{first}: record 1; number the prompts over all files, or leave the ids out"
    )
    assert aside.counts == {}
