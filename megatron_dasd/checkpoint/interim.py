"""Interim checkpoints: quick to write, and tied to the layout of the ranks that wrote them.

The distributed optimizer's state is written as it lies on the ranks (``dp_reshardable`` in
Megatron's words): nothing is gathered, and no host holds a copy of the whole.  Such a checkpoint
loads under the layout that wrote it.  For any other it is rewritten by a gathering pass in the
old layout (``training.gather_program``), whose result takes its place.
"""

import shutil
from pathlib import Path

from pydantic import ValidationError

from megatron_dasd.artifacts import write_atomic
from megatron_dasd.checkpoint import tracker
from megatron_dasd.config.base import Launch
from megatron_dasd.errors import UserError

LAYOUT = "layout.json"
"""In the folder of an interim checkpoint: the layout that wrote it."""
GATHERED = "gathered"
"""Beside the checkpoints: where a gathering pass writes."""
_SMALLEST_BUCKET, _PER_RANK = 40_000_000, 1_000_000
"""Megatron's own size of a bucket of gradients, in weights."""


def mark(folder: Path, launch: Launch) -> None:
    """Note the layout of a checkpoint that is being written.

    Args:
        folder: of the iteration.
    """
    write_atomic(folder / LAYOUT, launch.model_dump_json().encode())


def layout_of(folder: Path) -> Launch | None:
    """The layout that an iteration's checkpoint is tied to; None: it loads under any.

    Raises:
        UserError: the note of it is damaged.
    """
    try:
        return Launch.model_validate_json((folder / LAYOUT).read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError:
        raise UserError(
            f"{folder / LAYOUT}: damaged; remove {folder}, the same command goes on from the "
            "checkpoint before"
        ) from None


def bucket_size(launch: Launch) -> int:
    """Weights of a bucket of gradients, which the optimizer's state is divided by."""
    return max(_SMALLEST_BUCKET, _PER_RANK * _sharing_ranks(launch))


def needs_gathering(written: Launch, launch: Launch) -> bool:
    """Whether an interim checkpoint of one layout cannot be loaded under another.

    The number of data-parallel and context-parallel ranks may change while it leaves the size of
    the buckets as it was.
    """
    return _tied_to(written) != _tied_to(launch)


def gathering_launch(written: Launch, num_ranks: int) -> Launch | None:
    """The layout of a gathering pass: the one that wrote the checkpoint, on as many ranks.

    Args:
        written: the layout that wrote it.
        num_ranks: ranks that there are now.

    Returns:
        The layout on at most that many ranks; None: it does not fit on so few.
    """
    model = written.tensor_parallel * written.pipeline_parallel
    smallest = model * written.expert_parallel
    ranks = min(written.num_ranks, num_ranks) // smallest * smallest
    changes = {"num_ranks": ranks, "context_parallel": 1}
    return written.model_copy(update=changes) if ranks else None


def adopt_gathered(saves: Path) -> None:
    """Let what a gathering pass has written to its end take the place of what it was made from.

    Killed at any moment, the next call completes it: the old checkpoint goes only when the new one
    is whole.
    """
    gathered = saves / GATHERED
    for folder in tracker.whole(gathered):
        place = saves / folder.name
        shutil.rmtree(place, ignore_errors=True)
        folder.rename(place)
    shutil.rmtree(gathered, ignore_errors=True)


def _sharing_ranks(launch: Launch) -> int:
    """Ranks that share the optimizer's state of the same weights."""
    return launch.num_ranks // (launch.tensor_parallel * launch.pipeline_parallel)


def _tied_to(launch: Launch) -> tuple[int, ...]:
    return (
        launch.distributed_optimizer,
        launch.tensor_parallel,
        launch.pipeline_parallel,
        launch.virtual_pipeline,
        launch.first_stage_layers or 0,
        launch.last_stage_layers or 0,
        launch.expert_parallel,
        bucket_size(launch),
    )
