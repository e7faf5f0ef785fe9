import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from megatron_dasd.checkpoint.hf_folder import HfWeights, TensorInfo, weights_dtype
from megatron_dasd.checkpoint.hf_writer import HfWriter, write_hf_folder


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


def test_what_was_laid_out_must_be_written(tmp_path: Path) -> None:
    info = TensorInfo((2,), torch.float32)
    with (
        pytest.raises(RuntimeError, match="tensor b was never written"),
        HfWriter(tmp_path, {"a": info, "b": info}) as writer,
    ):
        writer.write("a", torch.ones(2))
    with (
        pytest.raises(RuntimeError, match="tensor a is not the one laid out"),
        HfWriter(tmp_path, {"a": info}) as writer,
    ):
        writer.write("a", torch.ones(3))


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
