"""Distribution-aligned sequence distillation on Megatron-Core (method: arXiv 2601.09088).

``import megatron_dasd as dasd`` gives the functions of docs/api.md.  What a function needs is
imported when it is first used, so that the import itself loads neither torch nor numpy.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.2.0"

if TYPE_CHECKING:
    from megatron_dasd.api.models import Model as Model
    from megatron_dasd.api.runs import open_run as open_run
    from megatron_dasd.api.runs import run as run
    from megatron_dasd.api.runs import run_stage as run_stage
    from megatron_dasd.api.sentences import Reading as Reading
    from megatron_dasd.api.sentences import compare_sentences as compare_sentences
    from megatron_dasd.api.sentences import select as select
    from megatron_dasd.api.texts import drop_reason as drop_reason
    from megatron_dasd.api.texts import pack as pack
    from megatron_dasd.config.base import ThinkingFormat as ThinkingFormat
    from megatron_dasd.config.selection import Repetition as Repetition
    from megatron_dasd.data.packed_dataset import PackedDataset as PackedDataset
    from megatron_dasd.errors import UserError as UserError
    from megatron_dasd.losses.divergences import divergence
    from megatron_dasd.losses.linear_logprobs import VocabShard as VocabShard
    from megatron_dasd.losses.linear_logprobs import linear_logprobs as linear_logprobs
    from megatron_dasd.losses.linear_loss import linear_loss as linear_loss
    from megatron_dasd.records import Sentence as Sentence
    from megatron_dasd.text.sentences import split_sentences as split_sentences

    token_divergence = divergence

_PLACES = {
    "Model": "api.models",
    "PackedDataset": "data.packed_dataset",
    "Reading": "api.sentences",
    "Repetition": "config.selection",
    "Sentence": "records",
    "ThinkingFormat": "config.base",
    "UserError": "errors",
    "VocabShard": "losses.linear_logprobs",
    "compare_sentences": "api.sentences",
    "drop_reason": "api.texts",
    "linear_logprobs": "losses.linear_logprobs",
    "linear_loss": "losses.linear_loss",
    "open_run": "api.runs",
    "pack": "api.texts",
    "run": "api.runs",
    "run_stage": "api.runs",
    "select": "api.sentences",
    "split_sentences": "text.sentences",
    "token_divergence": "losses.divergences:divergence",
}
"""Module of each name of the API, and the name there where it is another one."""


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, own_name = _PLACES[name].partition(":")
    value: object = getattr(import_module(f"{__name__}.{module}"), own_name or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
