"""What stage kinds make and read, by type: records, and results that are no records.

A stage reads what is of the type that it declares or of one derived from it, as a scored response
is a response.
"""

from megatron_dasd.records import (
    FilteredResponse,
    Graded,
    Prompt,
    Response,
    Rollout,
    ScoredResponse,
    SelectedResponse,
)


class Model:
    """A Hugging Face folder."""


class Checkpoint:
    """A Megatron checkpoint."""


class TrainedCheckpoint(Checkpoint):
    """That of a training, with its losses."""


class PackedData:
    """Indexed data."""


class TopTokens:
    """The teacher's likeliest tokens of packed data."""


class Comparison:
    """Of a checkpoint and its export."""


class Page:
    """A report."""


RECORDS = (Prompt, Response, Rollout, Graded)
"""Records of any type."""
TEXTS = (Response, Rollout, Graded)
"""Records with a field ``text``."""
_WORDS: dict[type, str] = {
    Prompt: "prompts",
    Response: "responses",
    FilteredResponse: "filtered responses",
    ScoredResponse: "scored responses",
    SelectedResponse: "selected responses",
    Rollout: "rollouts",
    Graded: "graded answers",
    Model: "a model",
    Checkpoint: "a checkpoint",
    TrainedCheckpoint: "the checkpoint of a training",
    PackedData: "packed data",
    TopTokens: "the teacher's likeliest tokens",
    Comparison: "a comparison of checkpoint and export",
    Page: "a report",
}


def in_words(product: type) -> str:
    """A product as messages name it, e.g. ``filtered responses``."""
    return _WORDS.get(product, product.__name__)
