import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard as HubCard

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.checkpoint.card import write_card
from megatron_dasd.checkpoint.hf_writer import write_hf_folder
from megatron_dasd.config.training import ModelCard, Train
from megatron_dasd.manifests import LOGS, METRICS

CONFIG = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "dtype": "bfloat16"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The folder that the student came from."""
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return folder


def card(tmp_path: Path, source: Path, checkpoint: Path, **fields: Any) -> HubCard:
    """The card of an exported folder of 1,500,000 parameters, as the hub reads it."""
    out = tmp_path / "out"
    out.mkdir()
    write_hf_folder(out, {"a": torch.zeros(1500, 1000, dtype=torch.bfloat16)}, source)
    write_card(out, ModelCard(**fields), source, checkpoint)
    return HubCard.load(out / "README.md")


def train_stage(runs: Path, data: str) -> Path:
    """A finished training stage with two steps of metrics."""
    settings = Train(kind="train", model="m", checkpoint="first", data="data", epochs=2, lr=3e-5)
    given = settings.model_dump()
    with StageFolder(runs / "stage1", "stage1", "train", given, {"data": data}) as stage:
        (stage.path / LOGS).mkdir()
        lines = [{"loss": 2.5}, {"loss": 1.25}, {"heldout_loss": 1.5}]
        (stage.path / LOGS / METRICS).write_text("".join(json.dumps(x) + "\n" for x in lines))
        checkpoint = stage.scratch("checkpoint")
        (checkpoint / "weights").write_text("")
        stage.commit(checkpoint)
        stage.finish(figures={"iterations": 2})
    return stage.path


def data_stage(runs: Path) -> str:
    with StageFolder(runs / "data", "data", "preprocess_data", {}, {}) as stage:
        return stage.finish(counts={"kept": 1234, "dropped: long": 5}).digest


def test_what_became_of_the_heads_that_guess_ahead(tmp_path: Path, source: Path) -> None:
    assert "MTP" not in card(tmp_path, source, tmp_path).content
    (source / "config.json").write_text(json.dumps(CONFIG | {"mtp_num_hidden_layers": 1}))
    out = tmp_path / "out"
    write_card(out, ModelCard(), source, tmp_path)
    assert (
        "(MTP) of the model that this one was made from are left out"
        in (out / "README.md").read_text()
    )
    write_hf_folder(out, {"mtp.fc.weight": torch.zeros(2, 2)}, source)
    write_card(out, ModelCard(), source, tmp_path)
    assert (
        "(MTP) are those of the model that this one was made from, untrained"
        in (out / "README.md").read_text()
    )


def test_what_the_user_says_is_what_the_hub_reads(tmp_path: Path, source: Path) -> None:
    read = card(
        tmp_path,
        source,
        tmp_path,
        name="my model",
        license="apache-2.0",
        base_model="Qwen/Qwen3-4B",
        datasets=["me/data"],
        language=["en"],
    )
    assert read.data.to_dict() == {
        "base_model": "Qwen/Qwen3-4B",
        "datasets": ["me/data"],
        "language": ["en"],
        "library_name": "transformers",
        "license": "apache-2.0",
        "pipeline_tag": "text-generation",
        "tags": ["megatron-core", "distillation", "qwen3"],
    }
    assert "# my model\n" in read.text
    assert "1.5 million parameters in bfloat16, Qwen3ForCausalLM, made from Qwen/" in read.text
    assert "Exported from a Megatron checkpoint" in read.text
    assert "## Recipe" not in read.text
    assert "No licence is stated here" not in read.text


def test_the_licence_of_the_source_goes_along(tmp_path: Path, source: Path) -> None:
    told = "license: other\nlicense_name: qwen\nlicense_link: LICENSE\nlanguage: [de]\nextra: 1"
    (source / "README.md").write_text(f"---\n{told}\n---\nA card.\n")
    data = card(tmp_path, source, tmp_path).data.to_dict()
    assert data["license"] == "other"
    assert data["license_name"] == "qwen"
    assert data["license_link"] == "LICENSE"
    assert data["language"] == ["de"]
    assert "extra" not in data


def test_no_licence_is_said(tmp_path: Path, source: Path) -> None:
    (source / "README.md").write_text("---\nlicense: [\n---\n")  # no YAML
    read = card(tmp_path, source, tmp_path)
    assert "license" not in read.data.to_dict()
    assert "No licence is stated here" in read.text


def test_the_base_model_of_a_folder_in_the_hubs_cache(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--Qwen--Qwen3-4B" / "snapshots" / "f00"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps(CONFIG))
    assert card(tmp_path, snapshot, tmp_path).data.base_model == "Qwen/Qwen3-4B"


def test_facts_come_from_the_manifests(tmp_path: Path, source: Path) -> None:
    data = data_stage(tmp_path)
    read = card(tmp_path, source, train_stage(tmp_path, data), name="m")
    assert "Trained by distribution-aligned sequence distillation" in read.text
    rows = [line for line in read.text.splitlines() if line.startswith("| ")]
    assert (
        "| stage1 | first | data | 2.0 | 2 | 64 | 3e-05 to 1e-05, cosine | bf16 | 1.2500 | 1.5000 |"
    ) in rows
    assert (f"| data | preprocess_data | - | dropped: long 5, kept 1,234 | `{data[:16]}` |") in rows
    assert "| stage1 | train | data | - | - |" in rows


def test_a_folder_with_other_data_tells_nothing(tmp_path: Path, source: Path) -> None:
    read = card(tmp_path, source, train_stage(tmp_path, "0" * 64), name="m")
    data_stage(tmp_path)
    assert "preprocess_data" not in read.text
