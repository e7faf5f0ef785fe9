"""Trained tensors laid into copied files: every other byte is the source's."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from megatron_dasd.checkpoint.hf_folder import INDEX, HfWeights
from megatron_dasd.checkpoint.hf_overlay import HfOverlay

EXPERTS = "model.layers.0.mlp.experts"


def write_source(folder: Path) -> HfWeights:
    """Two files, one of them with stacked experts and a comment in its header."""
    folder.mkdir()
    torch.manual_seed(0)
    files = {
        "model-00001-of-00002.safetensors": {
            "a": torch.randn(3, 5),
            "visual": torch.randn(7, dtype=torch.bfloat16),
        },
        "model-00002-of-00002.safetensors": {
            f"{EXPERTS}.gate_up_proj": torch.randn(3, 4, 5).bfloat16(),
            f"{EXPERTS}.down_proj": torch.randn(3, 5, 2).bfloat16(),
            "b": torch.randn(4),
        },
    }
    for name, tensors in files.items():
        save_file(tensors, folder / name, metadata={"made": "by hand"})
    weight_map = {tensor: name for name, tensors in files.items() for tensor in tensors}
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))
    return HfWeights(folder)


def test_written_back_unchanged_the_files_are_the_sources(tmp_path: Path) -> None:
    source, out = write_source(tmp_path / "source"), tmp_path / "out"
    out.mkdir()
    with HfOverlay(source, out) as overlay:
        for name in sorted(source.names() - {"visual"}):
            overlay.write(name, source.read(name))
    assert sorted(path.name for path in out.iterdir()) == sorted(
        path.name for path in source.folder.iterdir()
    )
    for path in out.iterdir():
        assert path.read_bytes() == (source.folder / path.name).read_bytes()


def test_a_tensor_is_written_to_its_place_alone(tmp_path: Path) -> None:
    source, out = write_source(tmp_path / "source"), tmp_path / "out"
    out.mkdir()
    up = f"{EXPERTS}.1.up_proj.weight"
    down = f"{EXPERTS}.2.down_proj.weight"
    new = {
        "a": torch.full((3, 5), 2.0),
        up: torch.full((2, 5), 3.0).bfloat16(),
        down: torch.full((5, 2), 4.0).bfloat16(),
    }
    with HfOverlay(source, out) as overlay:
        for name, tensor in new.items():
            overlay.write(name, tensor)
    written = HfWeights(out)
    for name in source.names():
        assert torch.equal(written.read(name), new.get(name, source.read(name))), name
    with safe_open(out / "model-00002-of-00002.safetensors", framework="pt") as file:
        assert file.metadata() == {"made": "by hand"}
        assert torch.equal(
            file.get_tensor(f"{EXPERTS}.gate_up_proj")[1, 2:], torch.full((2, 5), 3.0).bfloat16()
        )


def test_a_tensor_of_another_shape_or_type_is_a_mistake_of_ours(tmp_path: Path) -> None:
    source, out = write_source(tmp_path / "source"), tmp_path / "out"
    out.mkdir()
    with HfOverlay(source, out) as overlay:
        for wrong in (torch.zeros(5, 3), torch.zeros(3, 5).bfloat16()):
            with pytest.raises(RuntimeError, match="tensor a is not of the source's shape"):
                overlay.write("a", wrong)
