"""Import, export and verification by hand, as a user types them."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_dasd.manifests import MODEL
from megatron_dasd.pipeline import cli

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def hf(random_model_dir: Path) -> Path:
    """A small Hugging Face folder with a tokenizer."""
    return random_model_dir / MODEL


@pytest.fixture(scope="module")
def ckpt(hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That folder, imported."""
    out = tmp_path_factory.mktemp("by hand") / "ckpt"
    left_over = out.with_name(".ckpt.tmp")  # of an attempt that was killed
    left_over.mkdir()
    (left_over / "iter_0000000").write_text("half")
    assert cli.run_kind("import_hf", ["--hf", str(hf), "--out", str(out)]) == 0
    return out


def fails(
    capsys: pytest.CaptureFixture[str], kind: str, *arguments: str | Path, out: Path | None = None
) -> str:
    """The one line that a mistake is told in; nothing is left at ``out``."""
    capsys.readouterr()
    given = [*map(str, arguments), *(["--out", str(out)] if out else [])]
    assert cli.run_kind(kind, given) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert out is None or [p.name for p in out.parent.iterdir() if out.name in p.name] == []
    return err


def test_there_and_back(
    hf: Path, ckpt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sorted(p.name for p in ckpt.iterdir()) == [
        "hf",
        "iter_0000000",
        "latest_checkpointed_iteration.txt",
    ]
    out = tmp_path / "new" / "model"
    small = ["--max-shard-gb", "0.00002", "--license", "mit"]
    assert cli.run_kind("export_hf", ["--ckpt", str(ckpt), "--out", str(out), *small]) == 0
    shards = sorted(out.glob("model-*.safetensors"))
    assert len(shards) > 2
    # the first holds the embedding alone, which is more than a shard
    assert all(path.stat().st_size < 23_000 for path in shards[1:])
    back = {name: t for path in shards for name, t in load_file(path).items()}
    before = load_file(hf / "model.safetensors")
    assert back.keys() == before.keys()
    assert all(torch.equal(back[name], before[name]) for name in before)
    assert (out / "config.json").read_bytes() == (hf / "config.json").read_bytes()
    assert (out / "tokenizer.json").read_bytes() == (hf / "tokenizer.json").read_bytes()
    assert "license: mit" in (out / "README.md").read_text()
    assert "# model\n" in (out / "README.md").read_text()
    capsys.readouterr()
    verify = ["--hf", str(out), "--ckpt", str(ckpt), "--num-tokens", "60"]
    text = tmp_path / "text.txt"
    text.write_text("a.b=c " * 40)
    assert cli.run_kind("verify_conversion", [*verify, "--text", str(text)]) == 0
    told = capsys.readouterr().out
    assert f"{len(before)} of {len(before)}" in told
    assert "positions compared:              60\n" in told
    assert "agreement of the top token:      100.00%\n" in told


def test_a_difference_is_told_and_is_no_success(
    hf: Path, ckpt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = tmp_path / "changed"
    shutil.copytree(hf, changed)
    tensors = load_file(hf / "model.safetensors")
    norm = "model.layers.0.input_layernorm.weight"
    tensors[norm] = tensors[norm].nextafter(torch.tensor(9.0))
    save_file(tensors, changed / "model.safetensors")
    arguments = ["--hf", changed, "--ckpt", ckpt, "--num-tokens", "20"]
    err = fails(capsys, "verify_conversion", *arguments)
    assert f"1 of {len(tensors)} tensors differ from the checkpoint's, the first of them" in err
    assert norm in err
    tensors[norm] += 1
    save_file(tensors, changed / "model.safetensors")
    err = fails(capsys, "verify_conversion", *arguments)
    assert "logits differ from the checkpoint's by up to" in err
    assert "over the tolerance 5e-04" in err


def test_mistakes(hf: Path, ckpt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert "--out is missing" in fails(capsys, "import_hf", "--hf", hf)
    assert "--hf is missing (or give a pipeline file)" in fails(capsys, "import_hf", out=out)
    missing = tmp_path / "nowhere"
    assert "no Hugging Face model here" in fails(capsys, "import_hf", "--hf", missing, out=out)
    assert "no Megatron checkpoint here" in fails(capsys, "export_hf", "--ckpt", missing, out=out)
    err = fails(capsys, "export_hf", "--ckpt", ckpt, "--max-shard-gb", "0", out=out)
    assert "--max-shard-gb 0: must be above 0" in err
    text = ("--hf", hf, "--ckpt", ckpt, "--text")
    assert "No such file" in fails(capsys, "verify_conversion", *text, missing)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "precious").write_text("x")
    arguments = ["--hf", str(hf), "--out", str(tmp_path / "full")]
    assert cli.run_kind("import_hf", arguments) == 2
    assert "exists already; choose another --out" in capsys.readouterr().err
    assert (tmp_path / "full" / "precious").read_text() == "x"
    assert cli.run_kind("import_hf", ["pipeline.yaml", "--hf", str(hf)]) == 2
    assert "a pipeline file or --hf, not both" in capsys.readouterr().err


def test_a_checkpoint_whose_source_is_not_beside_it(
    hf: Path, ckpt: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(ckpt, bare)
    shutil.rmtree(bare / "hf")
    out = tmp_path / "out"
    assert "no config and tokenizer beside" in fails(capsys, "export_hf", "--ckpt", bare, out=out)
    other = tmp_path / "other"
    shutil.copytree(ckpt / "hf", other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    err = fails(capsys, "export_hf", "--ckpt", bare, "--hf", other, out=out)
    assert "tensor decoder.layers.mlp.linear_fc1.weight has shape" in err
    arguments = ["--ckpt", str(bare), "--hf", str(hf), "--out", str(out)]
    assert cli.run_kind("export_hf", arguments) == 0
    assert (out / "model.safetensors").exists()


def test_a_folder_that_cannot_be_imported_leaves_nothing(
    hf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(hf, source)
    tensors = load_file(hf / "model.safetensors")
    tensors["model.norm.weight"] = torch.ones(7)
    save_file(tensors, source / "model.safetensors")
    err = fails(capsys, "import_hf", "--hf", source, out=out)
    assert "tensor model.norm.weight has shape [7], the config asks for [32]" in err
    os.truncate(source / "model.safetensors", 5000)
    err = fails(capsys, "import_hf", "--hf", source, out=out)
    assert "model.safetensors: not a readable safetensors file" in err
    (source / "model.safetensors").rename(source / "pytorch_model.bin")
    err = fails(capsys, "import_hf", "--hf", source, out=out)
    assert "only pickled weights here (pytorch_model.bin), which are not opened" in err
