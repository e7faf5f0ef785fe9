"""A checkpoint of any layout as the parameters of one whole model, read one at a time."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from megatron_dasd.checkpoint.pickles import read_metadata
from megatron_dasd.models.architecture import Architecture
from megatron_dasd.models.program import load_shape


class StoredModel:
    """Parameters of a checkpoint by name.

    Raises:
        UserError: the checkpoint is not of this architecture, or may not be opened.
    """

    def __init__(self, architecture: Architecture, folder: Path, dtype: str) -> None:
        """Start Megatron and hold the model's shape against the checkpoint's.

        Args:
            folder: of one iteration.
        """
        model = load_shape(architecture, dtype)
        # after start-up: these modules take their device from the adapter
        from megatron.core import dist_checkpointing, mpu

        from megatron_dasd.checkpoint.sharding import PieceReader, Placement

        metadata = read_metadata(folder)  # before Megatron opens it
        layout = dist_checkpointing.load_content_metadata(str(folder)) or {}
        layout["dp_cp_group"] = mpu.get_data_parallel_group(with_context_parallel=True)
        self._placement = Placement(model, layout)
        self._reader = PieceReader(folder, metadata)
        self._reader.check(self._placement.all_pieces())

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """All parameters, on the meta device."""
        return self._placement.parameters

    def read(self, name: str) -> Tensor:
        """One parameter, in the type that it is stored in."""
        return self._placement.join(name, self._reader.read)

    def check_read_once(self) -> None:
        """Make sure that everything of the model in the checkpoint was read, and only once.

        Raises:
            UserError: naming the first tensor of which that is not so.
        """
        self._reader.check_read_once()
