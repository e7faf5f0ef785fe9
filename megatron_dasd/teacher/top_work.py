"""What is left to do of a stage that asks teachers for their likeliest tokens."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_dasd.config.teacher import ScoreTopk
from megatron_dasd.data.packed_dataset import PackedDataset

NOT_ASKED = -1
"""In place of a teacher's number: no teacher is asked about the document."""


@dataclass(frozen=True)
class TopWork:
    """The shards that are missing, and what they are made from."""

    settings: ScoreTopk
    teachers: dict[str, Path]
    """Folders of the teachers, by domain; ``""``: one for all."""
    data: PackedDataset
    asked: npt.NDArray[np.int16]
    """[documents] number of the teacher, in the order of ``teachers``; -1: none is asked."""
    missing: list[tuple[Path, slice]]
    """Files of the shards, and their documents."""
    num_tokens: int
    """Of all documents."""
    num_done: int
    """Of those in shards that exist."""
