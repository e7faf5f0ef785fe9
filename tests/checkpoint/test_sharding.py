"""Pieces of a checkpoint, written before they are all in memory and read from any cut."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from torch import Tensor

from megatron_dasd.checkpoint.pickles import read_metadata
from megatron_dasd.checkpoint.sharding import PieceReader, Placement, StreamingSave, place
from megatron_dasd.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:torch.distributed is disabled:UserWarning")
VALUES = {
    "top": torch.arange(8.0).reshape(4, 2),
    "layers.0.fc": torch.arange(100.0, 112.0).reshape(6, 2),
    "layers.1.fc": torch.arange(200.0, 212.0).reshape(6, 2),
}


def halves(layer: int) -> Callable[..., list[ShardedTensor]]:
    """Build the two halves of a layer's tensor, of two layers stacked."""

    def build(key: str, tensor: Tensor, replica_id: int, _: Any) -> list[ShardedTensor]:
        return [
            ShardedTensor.from_rank_offsets(
                key, part, (0, layer, 2), (1, half, 2), replica_id=replica_id, prepend_axis_num=1
            )
            for half, part in enumerate(tensor.chunk(2))
        ]

    return build


class Model:
    """Two layers, stacked in the checkpoint, each cut in two; and a tensor that is neither."""

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        for name, value in VALUES.items():
            yield name, torch.empty_like(value, device="meta")

    def sharded_state_dict(self, metadata: Any = None) -> dict[str, Any]:
        meta = dict(self.named_parameters())
        state: dict[str, Any] = {"top": ShardedTensor.from_rank_offsets("top", meta["top"])}
        for layer in range(2):
            name = f"layers.{layer}.fc"
            state[name] = ShardedTensorFactory("layers.fc", meta[name], halves(layer), torch.cat)
        return state


@pytest.fixture
def placement() -> Placement:
    return Placement(Model())


def saved(placement: Placement, folder: Path) -> tuple[Path, list[str]]:
    """The values as a checkpoint, and in which order they were made."""
    made: list[str] = []

    def make(name: str) -> Tensor:
        made.append(name)
        return VALUES[name]

    pieces = list(placement.all_pieces())
    StreamingSave(placement, make).save({"model": pieces}, folder)
    return folder, made


def test_what_the_model_says_of_its_pieces(placement: Placement) -> None:
    assert [place(p) for p in placement.pieces("top")] == [("top", (0, 0))]
    first, second = placement.pieces("layers.1.fc", VALUES["layers.1.fc"])
    assert (place(first), place(second)) == (("layers.fc", (1, 0, 0)), ("layers.fc", (1, 3, 0)))
    assert second.data.tolist() == [[206.0, 207.0], [208.0, 209.0], [210.0, 211.0]]
    assert placement.owner(second) == "layers.1.fc"
    joined = placement.join("layers.1.fc", lambda piece: torch.full((1,), piece.global_offset[1]))
    assert joined.tolist() == [0, 3]


def test_a_parameter_is_made_when_it_is_written_and_once(
    placement: Placement, tmp_path: Path
) -> None:
    folder, made = saved(placement, tmp_path / "c")
    assert made == list(VALUES)
    metadata = read_metadata(folder)
    assert metadata.state_dict_metadata["layers.fc"].size == torch.Size([2, 6, 2])
    chunks = [list(chunk.offsets) for chunk in metadata.state_dict_metadata["layers.fc"].chunks]
    assert chunks == [[0, 0, 0], [0, 3, 0], [1, 0, 0], [1, 3, 0]]


def test_all_is_read_and_once(placement: Placement, tmp_path: Path) -> None:
    folder, _ = saved(placement, tmp_path / "c")
    reader = PieceReader(folder, read_metadata(folder))
    reader.check(placement.all_pieces())
    for name, value in VALUES.items():
        assert torch.equal(placement.join(name, reader.read), value)
    reader.check_read_once()


def test_a_piece_of_another_cut(placement: Placement, tmp_path: Path) -> None:
    folder, _ = saved(placement, tmp_path / "c")
    reader = PieceReader(folder, read_metadata(folder))
    third = ShardedTensor.from_rank_offsets(
        "layers.fc", torch.empty(2, 2), (0, 1, 2), (1, 1, 3), prepend_axis_num=1
    )
    # rows 2 and 3 of the second layer: the end of one stored chunk and the beginning of the next
    assert reader.read(third).tolist() == [[204.0, 205.0], [206.0, 207.0]]


def test_what_is_not_read_once_is_named(placement: Placement, tmp_path: Path) -> None:
    folder, _ = saved(placement, tmp_path / "c")
    reader = PieceReader(folder, read_metadata(folder))
    for name in ("top", "layers.0.fc"):
        placement.join(name, reader.read)
    told = r"tensor layers.fc, part at \[1, 0, 0\]: belongs to no tensor of the architecture"
    with pytest.raises(UserError, match=told):
        reader.check_read_once()
    for name in ("layers.1.fc", "top"):
        placement.join(name, reader.read)
    with pytest.raises(UserError, match=r"tensor top, part at \[0, 0\]: belongs to several"):
        reader.check_read_once()


def test_a_checkpoint_of_another_model(placement: Placement, tmp_path: Path) -> None:
    folder, _ = saved(placement, tmp_path / "c")
    reader = PieceReader(folder, read_metadata(folder))
    with pytest.raises(UserError, match="tensor bottom is missing"):
        reader.check([ShardedTensor.from_rank_offsets("bottom", torch.empty(2))])
    told = r"tensor top has shape \[4, 2\], the config asks for \[5, 2\]"
    with pytest.raises(UserError, match=told):
        reader.check([ShardedTensor.from_rank_offsets("top", torch.empty(5, 2))])
