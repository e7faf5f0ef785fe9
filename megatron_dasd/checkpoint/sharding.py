"""Parameters of a whole model and the pieces of a ``torch_dist`` checkpoint, one at a time.

Megatron stacks a layer's tensors over all layers and may cut one into several (the two halves of
SwiGLU), so a parameter is one or more pieces of larger tensors.  Which ones, the model says itself
(``sharded_state_dict``); it does so on the meta device too.  Reading and writing then go piece by
piece through DCP, and need the memory of a few tensors whatever the size of the model.
"""

import io
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import torch
from megatron.core.dist_checkpointing.dict_utils import dict_list_map_outplace, nested_values
from megatron.core.dist_checkpointing.mapping import (
    ShardedObject,
    ShardedTensor,
    ShardedTensorFactory,
)
from megatron.core.dist_checkpointing.strategies.torch import TorchDistSaveShardedStrategy
from megatron.core.models.gpt import GPTModel
from torch import Tensor
from torch.distributed._shard._utils import narrow_tensor_by_index
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorProperties,
)
from torch.distributed.checkpoint.planner import (
    BytesIOWriteData,
    LoadPlan,
    ReadItem,
    SavePlan,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.state_dict_saver import save as dcp_save

from megatron_dasd.checkpoint.artifact import model_tensors
from megatron_dasd.errors import UserError

Place = tuple[str, tuple[int, ...]]
"""A piece by its checkpoint tensor's name and its offset in it."""


class Placement:
    """Which pieces each parameter of a model is."""

    def __init__(self, model: GPTModel, metadata: dict[str, object] | None = None) -> None:
        """Ask the model.

        Args:
            model: Megatron's, whole; may be on the meta device.
            metadata: the checkpoint's own record of how its model's state is laid out.
        """
        state = model.sharded_state_dict(metadata=metadata)
        self.parameters = dict(model.named_parameters())
        self._entries = {name: state[name] for name in self.parameters}
        self._names = {place(piece): name for name in self._entries for piece in self.pieces(name)}

    def pieces(self, name: str, tensor: Tensor | None = None) -> list[ShardedTensor]:
        """The pieces of a parameter, with their parts of ``tensor`` when it is given."""
        built = self._built(name, tensor)
        return list(nested_values(built)) if isinstance(built, dict | list) else [built]

    def all_pieces(self) -> Iterator[ShardedTensor]:
        """The pieces of all parameters."""
        for name in self._entries:
            yield from self.pieces(name)

    def join(self, name: str, read: Callable[[ShardedTensor], Tensor]) -> Tensor:
        """A parameter from its pieces, each got by ``read``."""
        entry, built = self._entries[name], self._built(name)
        if not isinstance(entry, ShardedTensorFactory):
            return read(built)
        joined: Tensor = entry.merge_fn(dict_list_map_outplace(read, built))
        return joined

    def owner(self, piece: ShardedTensor) -> str:
        """The parameter that a piece belongs to."""
        name: str = self._names[place(piece)]
        return name

    def _built(self, name: str, tensor: Tensor | None = None) -> Any:
        entry = self._entries[name]
        if tensor is not None:
            entry = replace(entry, data=tensor)
        return entry.build() if isinstance(entry, ShardedTensorFactory) else entry


def place(piece: ShardedTensor) -> Place:
    """Where a piece lies in the checkpoint."""
    return piece.key, tuple(piece.global_offset)


def _chunk(piece: ShardedTensor) -> ChunkStorageMetadata:
    leading = (1,) * piece.prepend_axis_num
    sizes = torch.Size((*leading, *piece.local_shape))
    return ChunkStorageMetadata(offsets=torch.Size(piece.global_offset), sizes=sizes)


class StreamingSave(TorchDistSaveShardedStrategy):  # type: ignore[misc]
    """Megatron's save of one rank, each parameter made when it is written and freed after.

    To be given to Megatron's ``save_checkpoint`` as the ``save_strategy`` of its context.
    """

    def __init__(self, placement: Placement, make: Callable[[str], Tensor]) -> None:
        """Remember how to make a parameter of a name."""
        super().__init__()
        self._placement = placement
        self._make = make

    def save(self, sharded_state_dict: dict[str, object], checkpoint_dir: Path) -> None:
        """Write everything in the state dict; tensors of the model need no data."""
        planner = _SavePlanner(list(nested_values(sharded_state_dict)), self._placement, self._make)
        # no copying ahead: that would make parameters before their turn
        writer = FileSystemWriter(checkpoint_dir, per_thread_copy_ahead=0)
        dcp_save({}, storage_writer=writer, planner=planner, no_dist=True)


class _SavePlanner(DefaultSavePlanner):
    """Plans the pieces of a model that has no data yet, and makes their data when asked."""

    def __init__(
        self, entries: list[object], placement: Placement, make: Callable[[str], Tensor]
    ) -> None:
        super().__init__(flatten_state_dict=False)
        self._placement, self._make = placement, make
        self._newest: tuple[str, dict[Place, Tensor]] = ("", {})
        tensors = [entry for entry in entries if isinstance(entry, ShardedTensor)]
        self._tensors = {place(piece): piece for piece in tensors}
        self._objects = {
            entry.unique_key: _saved([entry.data])
            for entry in entries
            if isinstance(entry, ShardedObject)
        }

    def create_local_plan(self) -> SavePlan:
        objects = [
            WriteItem(
                index=MetadataIndex(key),
                type=WriteItemType.BYTE_IO,
                bytes_io_data=BytesIOWriteData(nbytes=len(data.getbuffer())),
            )
            for key, data in self._objects.items()
        ]
        tensors = [
            WriteItem(
                index=MetadataIndex(piece.key, piece.global_offset),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(
                    chunk=_chunk(piece),
                    properties=TensorProperties(dtype=piece.dtype),
                    size=torch.Size(piece.global_shape),
                ),
            )
            for piece in self._tensors.values()
        ]
        self.plan = SavePlan(items=[*objects, *tensors])
        return self.plan

    def resolve_data(self, write_item: WriteItem) -> Tensor | io.BytesIO:
        index = write_item.index
        if write_item.type == WriteItemType.BYTE_IO:
            return self._objects[index.fqn]
        assert index.offset is not None
        where = (index.fqn, tuple(index.offset))
        name = self._placement.owner(self._tensors[where])
        if self._newest[0] != name:
            self._newest = ("", {})  # the one before goes before the next one comes
            pieces = self._placement.pieces(name, self._make(name))
            self._newest = (name, {place(piece): piece.data for piece in pieces})
        chunk = _chunk(self._tensors[where])
        return self._newest[1].pop(where).contiguous().view(chunk.sizes)


def _saved(value: object) -> io.BytesIO:
    data = io.BytesIO()
    torch.save(value, data)
    return data


class PieceReader(DefaultLoadPlanner):
    """Reads pieces of a checkpoint of any layout, and keeps count of what was read.

    The metadata must come from :func:`~megatron_dasd.checkpoint.pickles.read_metadata`.
    """

    def __init__(self, folder: Path, metadata: Metadata) -> None:
        super().__init__()
        self._folder = folder
        self._stored = model_tensors(metadata)
        self._storage = FileSystemReader(folder)
        self._storage.set_up_storage_reader(metadata, is_coordinator=True)
        self._by_layer: dict[str, dict[tuple[int, ...], list[ChunkStorageMetadata]]] = {}
        self._times_read: Counter[MetadataIndex] = Counter()
        self._target = torch.empty(0)

    def check(self, pieces: Iterable[ShardedTensor]) -> None:
        """Make sure that the checkpoint has the tensors that pieces belong to.

        Raises:
            UserError: one is missing or of another shape.
        """
        for piece in pieces:
            stored = self._stored.get(piece.key)
            if stored is None:
                raise UserError(f"{self._folder}: tensor {piece.key} is missing")
            if tuple(stored.size) != tuple(piece.global_shape):
                raise UserError(
                    f"{self._folder}: tensor {piece.key} has shape {list(stored.size)}, "
                    f"the config asks for {list(piece.global_shape)}"
                )

    def read(self, piece: ShardedTensor) -> Tensor:
        """A piece that passed :meth:`check`, in the type that it is stored in.

        Raises:
            UserError: a part of it is not in the checkpoint.
        """
        stored, chunk = self._stored[piece.key], _chunk(piece)
        near = replace(stored, chunks=self._chunks(piece))
        items = create_read_items_for_chunk_list(piece.key, near, [chunk])
        if sum(prod(item.lengths) for item in items) != prod(chunk.sizes):
            raise UserError(f"{self._folder}: tensor {piece.key}: a part of it is missing")
        self._target = torch.empty(chunk.sizes, dtype=stored.properties.dtype)
        self._storage.read_data(LoadPlan(items), self).wait()
        target, self._target = self._target, torch.empty(0)
        return target.view(piece.local_shape)

    def check_read_once(self) -> None:
        """Make sure that every number of the model in the checkpoint was read, and only once.

        Raises:
            UserError: naming the first tensor of which that is not so.
        """
        for key, stored in sorted(self._stored.items()):
            for chunk in stored.chunks:
                times = self._times_read[MetadataIndex(key, chunk.offsets)] / prod(chunk.sizes)
                if times != 1:
                    raise UserError(
                        f"{self._folder}: tensor {key}, part at {list(chunk.offsets)}: belongs to "
                        f"{'no tensor' if times < 1 else 'several tensors'} of the architecture"
                    )

    def _chunks(self, piece: ShardedTensor) -> list[ChunkStorageMetadata]:
        """Stored chunks of the piece's layer and expert; to search among all would be quadratic."""
        axes = piece.prepend_axis_num
        if piece.key not in self._by_layer:
            grouped: dict[tuple[int, ...], list[ChunkStorageMetadata]] = {}
            for chunk in self._stored[piece.key].chunks:
                grouped.setdefault(tuple(chunk.offsets[:axes]), []).append(chunk)
            self._by_layer[piece.key] = grouped
        return self._by_layer[piece.key].get(tuple(piece.global_offset[:axes]), [])

    # -- what DCP asks of a planner -------------------------------------------------------------

    def resolve_tensor(self, read_item: ReadItem) -> Tensor:
        """The part of the requested piece that a stored chunk fills."""
        self._times_read[read_item.storage_index] += prod(read_item.lengths)
        return narrow_tensor_by_index(self._target, read_item.dest_offsets, read_item.lengths)

    def commit_tensor(self, read_item: ReadItem, tensor: Tensor) -> None:
        """Nothing is left to do: the tensor is a view of the piece."""
