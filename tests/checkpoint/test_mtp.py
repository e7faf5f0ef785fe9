import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from megatron_dasd.checkpoint.hf_folder import HfWeights, TensorInfo, read_config
from megatron_dasd.checkpoint.mtp import mtp_tensors, number_of_heads, set_no_mtp
from megatron_dasd.errors import UserError


def write_config(folder: Path, config: dict[str, object]) -> str:
    (folder / "config.json").write_text(json.dumps(config))
    return (folder / "config.json").read_text()


def test_the_heads_of_a_model(tmp_path: Path) -> None:
    tensors = {"mtp.norm.weight": torch.zeros(3), "model.norm.weight": torch.zeros(3)}
    save_file(tensors, tmp_path / "model.safetensors")
    found = mtp_tensors(HfWeights(tmp_path), tmp_path)
    assert found == {"mtp.norm.weight": TensorInfo((3,), torch.float32)}
    with pytest.raises(UserError, match=r"setting mtp: copy: no tensor named mtp\.\* is there"):
        mtp_tensors(None, tmp_path)


def test_a_config_then_names_none(tmp_path: Path) -> None:
    write_config(tmp_path, {"mtp_num_hidden_layers": 1, "other": 1})
    assert number_of_heads(tmp_path) == 1
    set_no_mtp(tmp_path)
    assert read_config(tmp_path) == {"mtp_num_hidden_layers": 0, "other": 1}
    write_config(tmp_path, {"text_config": {"mtp_num_hidden_layers": 2}})
    assert number_of_heads(tmp_path) == 2
    set_no_mtp(tmp_path)
    assert read_config(tmp_path) == {"text_config": {"mtp_num_hidden_layers": 0}}


def test_a_config_without_any_stays_byte_for_byte(tmp_path: Path) -> None:
    before = write_config(tmp_path, {"hidden_size": 8})
    set_no_mtp(tmp_path)
    assert (tmp_path / "config.json").read_text() == before
