import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from megatron_dasd.checkpoint.hf_folder import (
    HfWeights,
    copy_companions,
    read_config,
    require_space,
    set_dtype,
    weights_dtype,
)
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


@pytest.mark.parametrize("where", ["../secret.safetensors", "ABSOLUTE", "sub/secret.safetensors"])
def test_an_index_that_leaves_the_folder_is_refused(where: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "sub").mkdir(parents=True)
    for place in (tmp_path, folder / "sub"):
        save_file({"a": torch.ones(2)}, place / "secret.safetensors")
    name = where.replace("ABSOLUTE", str(tmp_path / "secret.safetensors"))
    write_index(folder, {"a": name})
    with pytest.raises(UserError, match=rf"{name} leaves the folder"):
        HfWeights(folder)


def test_an_index_of_pickles_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"a pickle")
    write_index(tmp_path, {"a": "pytorch_model.bin"})
    with pytest.raises(UserError, match="pytorch_model.bin leaves the folder or is no safetensors"):
        HfWeights(tmp_path)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    folder, out = tmp_path / "model", tmp_path / "out"
    folder.mkdir()
    out.mkdir()
    save_file({"a": torch.ones(2)}, tmp_path / "secret.safetensors")
    (tmp_path / "key").write_text("secret")
    (folder / "model.safetensors").symlink_to(tmp_path / "secret.safetensors")
    (folder / "LICENSE").symlink_to("../key")
    with pytest.raises(UserError, match="model.safetensors: is a link out of the folder"):
        HfWeights(folder)
    with pytest.raises(UserError, match="LICENSE: is a link out of the folder"):
        copy_companions(folder, out)
    assert list(out.iterdir()) == []


def test_links_of_the_hubs_cache_are_followed(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "snapshots" / "f00", tmp_path / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    save_file({"a": torch.ones(2)}, blobs / "abc")
    (snapshot / "model.safetensors").symlink_to("../../blobs/abc")
    assert HfWeights(snapshot).read("a").tolist() == [1.0, 1.0]


def write_index(folder: Path, weight_map: dict[str, str]) -> None:
    index = {"weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_an_index_that_does_not_agree_with_the_files(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2), "b": torch.ones(2)}, tmp_path / "one.safetensors")
    write_index(tmp_path, {"a": "one.safetensors", "c": "one.safetensors"})
    with pytest.raises(UserError, match="holds tensor b, which model.safetensors.index.json does"):
        HfWeights(tmp_path)
    names = {"a": "one.safetensors", "b": "one.safetensors", "c": "one.safetensors"}
    write_index(tmp_path, names)
    with pytest.raises(UserError, match="one.safetensors: tensor c of .* is missing in it"):
        HfWeights(tmp_path)
    write_index(tmp_path, names | {"c": "two.safetensors"})
    with pytest.raises(UserError, match="two.safetensors: no such file"):
        HfWeights(tmp_path)
    for content in ("{", "[]", '{"weight_map": {"a": 3}}'):
        (tmp_path / "model.safetensors.index.json").write_text(content)
        with pytest.raises(UserError, match=r"index\.json: (not an index|field weight_map)"):
            HfWeights(tmp_path)


def test_one_file_goes_before_an_index(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    write_index(tmp_path, {"a": "two.safetensors", "b": "two.safetensors"})
    assert HfWeights(tmp_path).names() == {"a"}


def test_a_type_that_is_not_supported_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2, dtype=torch.float16)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="tensor a is of type F16; only BF16, F32"):
        HfWeights(tmp_path)


def test_a_config_tells_the_type_under_the_name_it_has(tmp_path: Path) -> None:
    config = {"torch_dtype": "float32", "rope_theta": 1000000, "eos_token_id": [1, 2]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    set_dtype(tmp_path, "bfloat16")
    assert read_config(tmp_path) == config | {"torch_dtype": "bfloat16"}
    before = (tmp_path / "config.json").stat().st_mtime_ns
    set_dtype(tmp_path, "bfloat16")
    assert (tmp_path / "config.json").stat().st_mtime_ns == before
    (tmp_path / "config.json").write_text("{}")
    set_dtype(tmp_path, "float32")
    assert read_config(tmp_path) == {"dtype": "float32"}


def test_too_little_space_is_said(tmp_path: Path) -> None:
    require_space(tmp_path, 1)
    with pytest.raises(UserError, match=r"1000000000\.0 GB are to be written and .* are free"):
        require_space(tmp_path, 10**18)


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


def test_other_types_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"torch_dtype": "float16"}')
    with pytest.raises(UserError, match="field dtype: float16"):
        weights_dtype(tmp_path)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_beside_the_weights_is_refused(name: str, tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match=f"{name}: an adapter lies beside the weights"):
        HfWeights(tmp_path)


def test_stacked_experts_are_read_one_by_one(tmp_path: Path) -> None:
    experts = "model.layers.0.mlp.experts"
    both, down = torch.arange(24.0).reshape(2, 4, 3), torch.arange(12.0).reshape(2, 3, 2)
    stacked = {f"{experts}.gate_up_proj": both, f"{experts}.down_proj": down}
    save_file(stacked | {"other": torch.ones(1)}, tmp_path / "model.safetensors")
    weights = HfWeights(tmp_path)
    kinds = ("gate_proj", "up_proj", "down_proj")
    one_by_one = {f"{experts}.{i}.{kind}.weight" for i in range(2) for kind in kinds}
    assert weights.names() == one_by_one | {"other"}
    assert weights.tensors[f"{experts}.1.up_proj.weight"].shape == (2, 3)
    read = {name: weights.read(name) for name in one_by_one}
    assert torch.equal(read[f"{experts}.1.gate_proj.weight"], both[1, :2])
    assert torch.equal(read[f"{experts}.0.up_proj.weight"], both[0, 2:])
    assert torch.equal(read[f"{experts}.1.down_proj.weight"], down[1])


def test_what_came_along_goes_along_and_code_stays(tmp_path: Path) -> None:
    source, out = tmp_path / "model", tmp_path / "out"
    (source / "additional_chat_templates").mkdir(parents=True)
    out.mkdir()
    own_code = {"auto_map": {"AutoModelForCausalLM": "modeling_own.M"}, "kept": "ü"}
    for name in ("config.json", "tokenizer_config.json"):
        (source / name).write_text(json.dumps(own_code))
    along = ("preprocessor_config.json", "vocab.txt", "spiece.model", "LICENCE", "NOTICE.txt")
    stay = ("modeling_own.py", "model.safetensors", "model.safetensors.index.json", "README.md")
    stay += ("pytorch_model.bin", "pytorch_model.bin.index.json", ".gitattributes")
    for name in (*along, *stay):
        (source / name).write_text("{}")
    (source / "additional_chat_templates" / "tools.jinja").write_text("a template")
    copy_companions(source, out)
    expected = {*along, "config.json", "tokenizer_config.json", "additional_chat_templates"}
    assert {path.name for path in out.iterdir()} == expected
    assert (out / "additional_chat_templates" / "tools.jinja").read_text() == "a template"
    for name in ("config.json", "tokenizer_config.json"):
        assert json.loads((out / name).read_text()) == {"kept": "ü"}


def test_a_template_that_links_out_is_refused(tmp_path: Path) -> None:
    source, out = tmp_path / "model", tmp_path / "out"
    (source / "additional_chat_templates").mkdir(parents=True)
    out.mkdir()
    (tmp_path / "key").write_text("secret")
    (source / "additional_chat_templates" / "a.jinja").symlink_to(tmp_path / "key")
    with pytest.raises(UserError, match="a.jinja: is a link out of the folder"):
        copy_companions(source, out)
