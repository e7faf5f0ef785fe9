"""``dasd`` as a user types it: stages by hand, the first file, the reference of settings."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import yaml

from megatron_dasd.commands.app import main
from megatron_dasd.config.reference import stage_classes
from megatron_dasd.config.selection import FilterResponses
from megatron_dasd.data.packed_dataset import PackedDataset
from megatron_dasd.manifests import MODEL, read_manifest
from megatron_dasd.pipeline.cli import run_kind
from megatron_dasd.pipeline.stage_commands import flags
from megatron_dasd.records import Response

Capture = pytest.CaptureFixture[str]
CHATS = [
    {
        "messages": [
            {"role": "user", "content": f"a{number}?"},
            {"role": "assistant", "content": f"<think>\nab {number} cd\n</think>\n\nef {number}."},
        ]
    }
    for number in range(6)
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a file of prompts."""
    monkeypatch.chdir(tmp_path)
    row = {"prompt_id": "p", "messages": [{"role": "user", "content": "1 + 1?"}]}
    Path("prompts.jsonl").write_text(json.dumps(row) + "\n")
    return tmp_path


def mistake(capsys: Capture, *arguments: str) -> str:
    capsys.readouterr()
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    return err.removeprefix("error: ").removesuffix("\n")


def test_from_a_json_file_to_packed_data_by_hand(
    here: Path, random_model_dir: Path, make_response: Callable[..., Response]
) -> None:
    texts = [f"<think>\nab {number} cd\n</think>\n\nef {number}." for number in range(6)]
    rows = [json.dumps(asdict(make_response(text, seed=i))) for i, text in enumerate(texts)]
    Path("data.jsonl").write_text("\n".join(rows) + "\n")
    model = str(random_model_dir / MODEL)
    given = ["--responses", "data.jsonl", "--student", model, "--max-length", "200"]
    given += ["--repetition.max-repeated-lines", "3"]
    assert main(["stage", "filter_responses", *given, "--out", "filtered"]) == 0
    manifest = read_manifest(Path("filtered"))
    assert manifest is not None
    assert manifest.counts["kept"] == 6
    filters = FilterResponses.model_validate(manifest.settings | {"kind": "filter_responses"})
    assert filters.repetition.max_repeated_lines == 3
    given = ["--responses", "filtered", "--model", model, "--seq-length", "256"]
    # as the script of tools/ runs it
    assert run_kind("preprocess_data", [*given, "--num-workers", "1", "--out", "packed"]) == 0
    assert PackedDataset(Path("packed")).meta.num_documents == 6


def test_chats_are_imported_by_hand(here: Path) -> None:
    Path("chats.jsonl").write_text("".join(json.dumps(chat) + "\n" for chat in CHATS))
    given = ["--format", "messages", "--files", "chats.jsonl", "--temperature", "1.0"]
    assert main(["stage", "import_responses", *given, "--out", "imported"]) == 0
    manifest = read_manifest(Path("imported"))
    assert manifest is not None
    assert manifest.counts == {"imported": 6}


def test_a_stage_by_hand_is_skipped_when_it_is_up_to_date(here: Path, capsys: Capture) -> None:
    command = ["stage", "make_prompts", "--files", "prompts.jsonl", "--out", "made/prompts.jsonl"]
    assert main(command) == 0
    assert main(command) == 0
    assert "unchanged, skipped: train 1" in capsys.readouterr().out
    # the stage's folder has the name of its input, which is a path all the same
    assert main([*command, "--heldout-fraction", "0"]) == 0
    assert "unchanged" not in capsys.readouterr().out


def test_mistakes_name_the_flag(here: Path, capsys: Capture) -> None:
    make = ("stage", "make_prompts")
    assert mistake(capsys, *make, "--files", "x") == "--out is missing (or give a pipeline file)"
    assert mistake(capsys, *make, "--files", "x", "--out", "o") == "x: no such file or folder"
    given = (*make, "--files", "prompts.jsonl", "--out", "o")
    assert mistake(capsys, *given, "--heldout-fraction", "2") == (
        "--heldout-fraction: Input should be less than 1 (got '2')"
    )
    assert mistake(capsys, *make, "--out", "o", "--tasks", "{").startswith("--tasks {: ")
    assert "must be given" in mistake(capsys, *make, "--out", "o", "--tasks", "{size: 3}")
    assert mistake(capsys, "stage", "evaluate", "--out", "o", "--models", "x") == (
        "--models x: expected NAME=VALUE"
    )
    capsys.readouterr()
    assert main(["stage", "make_prompts", "p.yaml", "--files", "prompts.jsonl"]) == 2
    assert "a pipeline file or --files, not both" in capsys.readouterr().err
    assert main(["stage", "nothing"]) == 2
    assert "No such command 'nothing'" in capsys.readouterr().err


@pytest.mark.parametrize("kind", stage_classes())
def test_the_flags_of_a_kind_differ(kind: str) -> None:
    texts = [flag.text for flag in flags(stage_classes()[kind])]
    taken = ["--run-dir", "--set", "--stage", "--out", "--help"]
    assert len({*texts, *taken}) == len(texts) + len(taken)


def test_the_first_file(here: Path, random_model_dir: Path, capsys: Capture) -> None:
    model = str(random_model_dir / MODEL)
    given = ["--teacher", model, "--student", model, "--prompts", "prompts.jsonl"]
    assert main(["init", "mine", *given, "--where", "cpu"]) == 0
    text = Path("mine/pipeline.yaml").read_text()
    assert len(text.splitlines()) <= 20
    written = yaml.safe_load(text)
    assert written["teacher"] == {"model": model}
    assert written["prompts"]["files"] == [str(here / "prompts.jsonl")]
    assert written["training"]["precision"] == "fp32"
    assert main(["run", "mine/pipeline.yaml", "--show-graph"]) == 0
    assert mistake(capsys, "init", "mine", *given).startswith("mine/pipeline.yaml: exists already")
    assert mistake(capsys, "init", "other", "--student", model, "--prompts", "none.jsonl") == (
        "give --teacher or --teacher-url, or --micro for the example on random weights"
    )
    served = ["--teacher-url", "http://localhost:8000/v1", "--student", model]
    assert mistake(capsys, "init", "other", *served, "--prompts", "none.jsonl") == (
        "none.jsonl: no such file (--prompts)"
    )
    assert main(["init", "other", *served, "--prompts", "prompts.jsonl", "--where", "slurm"]) == 0
    written = yaml.safe_load(Path("other/pipeline.yaml").read_text())
    server = {"urls": ["http://localhost:8000/v1"], "api": "chat"}
    assert written["teacher"] == {"engine": {"server": server}}
    assert written["cluster"] == {"gpus_per_node": 8, "time": "04:00:00"}
    assert [path.name for path in Path("other").iterdir()] == ["pipeline.yaml"]


def test_the_example_on_random_weights(here: Path) -> None:
    assert main(["init", "--micro"]) == 0
    assert main(["run", "pipeline.yaml", "--show-graph"]) == 0


def test_the_reference_of_settings(capsys: Capture) -> None:
    assert main(["settings", "select_das"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "select_das"
    place = lines.index("  beta")
    assert lines[place + 1] == "      number > 0, < 1; default: 0.1"
    assert "Budget" in lines
    assert max(map(len, lines)) <= 80
    for name in ("pipeline", "recipe", "cluster", "plan"):
        assert main(["settings", name]) == 0
    assert main(["settings"]) == 0
    assert set(stage_classes()) <= {
        line.split(" ")[0] for line in capsys.readouterr().out.splitlines()
    }
    assert mistake(capsys, "settings", "nothing").startswith("no stage kind nothing (known: ")


def test_completion(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_DASD_COMPLETE", "complete_bash")
    for words, found in (("dasd st", ["status", "stage"]), ("dasd stage sel", ["select_das"])):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
        assert main([]) == 0
        assert sorted(capsys.readouterr().out.split()) == sorted(found)
