import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_dasd.checkpoint.hf_folder import (
    HfWeights,
    HfWriter,
    TensorInfo,
    copy_companions,
    read_config,
    require_space,
    set_dtype,
    weights_dtype,
    write_hf_folder,
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


def test_a_type_that_is_not_supported_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2, dtype=torch.float16)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="tensor a is of type F16; only BF16, F32"):
        HfWeights(tmp_path)


def test_shards_are_filled_in_order_and_read_by_others(tmp_path: Path) -> None:
    tensors = {
        "a": torch.arange(4.0),  # 16 bytes
        "b": torch.arange(6.0).reshape(2, 3).to(torch.bfloat16).T,  # 12 bytes, not contiguous
        "c": torch.arange(20.0),  # 80 bytes, more than a shard
        "d": torch.tensor(7.0),
    }
    infos = {name: TensorInfo(tuple(t.shape), t.dtype) for name, t in tensors.items()}
    with HfWriter(tmp_path, infos, max_shard_bytes=30) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    first, second, third = (f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3))
    assert index == {
        "metadata": {"total_size": 112},
        "weight_map": {"a": first, "b": first, "c": second, "d": third},
    }
    # by the format's own library, which checks that the header covers the file
    read = load_file(tmp_path / first) | load_file(tmp_path / second) | load_file(tmp_path / third)
    assert {name: t.tolist() for name, t in read.items()} == {
        name: t.tolist() for name, t in tensors.items()
    }
    assert HfWeights(tmp_path).tensors == infos


def test_what_was_told_must_be_written(tmp_path: Path) -> None:
    info = TensorInfo((2,), torch.float32)
    with (
        pytest.raises(RuntimeError, match="tensor b was never written"),
        HfWriter(tmp_path, {"a": info, "b": info}) as writer,
    ):
        writer.write("a", torch.ones(2))
    with (
        pytest.raises(RuntimeError, match="tensor a is not what was told"),
        HfWriter(tmp_path, {"a": info}) as writer,
    ):
        writer.write("a", torch.ones(3))


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
