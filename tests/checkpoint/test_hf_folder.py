import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from megatron_dasd.checkpoint.hf_folder import HfWeights, weights_dtype, write_hf_folder
from megatron_dasd.errors import UserError


def test_reads_shards_by_their_index(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "one.safetensors")
    save_file({"b": torch.zeros(3)}, tmp_path / "two.safetensors")
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    weights = HfWeights(tmp_path)
    assert weights.names() == {"a", "b"}
    assert weights.read("b").tolist() == [0.0, 0.0, 0.0]
    with pytest.raises(UserError, match="tensor c is missing"):
        weights.read("c")


def test_an_index_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "../secret.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"\.\./secret\.safetensors leaves the folder"):
        HfWeights(tmp_path)


def test_no_safetensors(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(UserError, match=r"only pickled weights here \(pytorch_model.bin\)"):
        HfWeights(tmp_path)


def test_a_cut_file_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.ones(100)}, tmp_path / "model.safetensors")
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[:50])
    with pytest.raises(UserError, match=r"model\.safetensors: not a readable safetensors file"):
        HfWeights(tmp_path)


def test_companions_go_along(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    (source / "config.json").write_text('{"dtype": "bfloat16"}')
    (source / "chat_template.jinja").write_text("template")
    (source / "pytorch_model.bin").write_bytes(b"a pickle")
    write_hf_folder(out, {"a": torch.arange(6.0).reshape(2, 3).T}, source)
    assert HfWeights(out).read("a").tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]
    assert sorted(p.name for p in out.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "model.safetensors",
    ]
    assert weights_dtype(out) == "bfloat16"


def test_other_types_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"torch_dtype": "float16"}')
    with pytest.raises(UserError, match="field dtype: float16"):
        weights_dtype(tmp_path)
