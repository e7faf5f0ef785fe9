import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.state_dict_saver import save

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.checkpoint.artifact import TRACKER, open_checkpoint, remember_source
from megatron_dasd.errors import UserError

EMBEDDING = "embedding.word_embeddings.weight"
pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")


def checkpoint(folder: Path, iteration: int = 3, **tensors: Any) -> Path:
    """A checkpoint folder as Megatron leaves it, with these tensors beside an embedding."""
    weights = folder / f"iter_{iteration:07d}"
    state = {EMBEDDING: torch.zeros(4, 2, dtype=torch.bfloat16)} | tensors
    save(state, checkpoint_id=weights, no_dist=True)
    (weights / "metadata.json").write_text('{"sharded_backend": "torch_dist"}')
    (folder / TRACKER).write_text(str(iteration))
    return folder


def test_a_folder_that_megatron_saved_into(tmp_path: Path) -> None:
    moments = {f"optimizer.state.exp_avg.{EMBEDDING}": torch.zeros(4, 2)}
    opened = open_checkpoint(checkpoint(tmp_path / "c", **moments))
    assert opened.folder == tmp_path / "c"
    assert opened.weights == tmp_path / "c" / "iter_0000003"
    assert opened.dtype == "bfloat16"
    assert opened.num_bytes == 16
    assert opened.hf is None


def test_another_iteration_than_the_one_that_counts(tmp_path: Path) -> None:
    checkpoint(tmp_path / "c", iteration=3)
    checkpoint(tmp_path / "c", iteration=7)
    assert open_checkpoint(tmp_path / "c").weights.name == "iter_0000007"
    assert open_checkpoint(tmp_path / "c", 3).weights.name == "iter_0000003"
    with pytest.raises(UserError, match="iter_0000005: no whole torch_dist checkpoint here"):
        open_checkpoint(tmp_path / "c", 5)


def test_a_stages_folder(tmp_path: Path) -> None:
    with StageFolder(tmp_path / "s", "s", "import_hf", {}, {}) as stage:
        checkpoint(stage.scratch("checkpoint"))
        stage.commit(stage.path / ".checkpoint.tmp")
        with pytest.raises(UserError, match="no finished stage here"):
            open_checkpoint(stage.path)
        stage.finish()
    assert open_checkpoint(stage.path).folder == stage.path / "checkpoint"
    with StageFolder(tmp_path / "t", "t", "select_das", {}, {}) as stage:
        stage.finish()
    with pytest.raises(UserError, match="a select_das stage, which leaves no checkpoint"):
        open_checkpoint(stage.path)


def test_what_is_no_torch_dist_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no Megatron checkpoint here"):
        open_checkpoint(tmp_path)
    folder = checkpoint(tmp_path / "c")
    backend = folder / "iter_0000003" / "metadata.json"
    backend.write_text('{"sharded_backend": "zarr"}')
    with pytest.raises(UserError, match="format zarr is not supported"):
        open_checkpoint(folder)
    # Megatron would open this one with all of pickle
    backend.unlink()
    (folder / "iter_0000003" / "mp_rank_00").mkdir()
    with pytest.raises(UserError, match="no whole torch_dist checkpoint here"):
        open_checkpoint(folder)
    for text in ("", "../elsewhere"):
        (folder / TRACKER).write_text(text)
        with pytest.raises(UserError, match=rf"{TRACKER}: .* is no iteration"):
            open_checkpoint(folder)


def test_weights_of_another_type_or_model(tmp_path: Path) -> None:
    half = {EMBEDDING: torch.zeros(4, 2, dtype=torch.float16)}
    with pytest.raises(UserError, match="weights of type float16"):
        open_checkpoint(checkpoint(tmp_path / "a", **half))
    with pytest.raises(UserError, match=f"holds no {EMBEDDING}"):
        open_checkpoint(checkpoint(tmp_path / "b", **{EMBEDDING: [1, 2]}))


def test_what_came_with_the_weights_is_kept(tmp_path: Path) -> None:
    model, folder = tmp_path / "m", checkpoint(tmp_path / "c")
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"vocab_size": 5}))
    (model / "README.md").write_text("card")
    (model / "modeling.py").write_text("a program")
    remember_source(model, folder)
    remember_source(model, folder)
    assert open_checkpoint(folder).hf == folder / "hf"
    assert sorted(p.name for p in (folder / "hf").iterdir()) == ["README.md", "config.json"]
