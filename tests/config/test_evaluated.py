"""What a pipeline evaluates is named to each of its filters."""

from pathlib import Path

import pytest

from megatron_dasd.config.pipeline import load_pipeline
from megatron_dasd.config.selection import FilterResponses
from megatron_dasd.errors import UserError

PIPELINE = """
name: t
run_dir: {folder}/run
stages:
  keep: {{kind: filter_responses, responses: [r.jsonl], student: ., max_length: 10}}
  asked: {{kind: evaluate, models: {{a: .}}, benchmarks: {{aime24: aime.jsonl}}}}
"""


def write(folder: Path, more: str = "") -> Path:
    for name in ("r.jsonl", "aime.jsonl", "other.jsonl"):
        (folder / name).touch()
    path = folder / "pipeline.yaml"
    path.write_text(PIPELINE.format(folder=folder) + more)
    return path


def test_a_filter_is_told_what_is_evaluated(tmp_path: Path) -> None:
    pipeline = load_pipeline(write(tmp_path))
    keep = pipeline.stages["keep"]
    assert isinstance(keep, FilterResponses)
    assert keep.evaluated == {"aime24": "aime.jsonl"}
    assert pipeline.input_paths("keep")["aime.jsonl"] == tmp_path / "aime.jsonl"


def test_two_copies_of_one_benchmark(tmp_path: Path) -> None:
    more = "  again: {kind: evaluate, models: {a: .}, benchmarks: {aime24: other.jsonl}}\n"
    with pytest.raises(UserError, match=r"again.benchmarks.aime24: other.jsonl is another copy"):
        load_pipeline(write(tmp_path, more))


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ("{kind: evaluate, models: {a: .}}", "give prompts or benchmarks"),
        ("{kind: evaluate, models: {a: .}, prompts: r.jsonl}", "max_new_tokens: must be given"),
        ("{kind: evaluate, models: {a: .}, benchmarks: {amie24: r.jsonl}}", "amie24"),
    ],
)
def test_bad_settings(given: str, what: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=what):
        load_pipeline(write(tmp_path, f"  bad: {given}\n"))
