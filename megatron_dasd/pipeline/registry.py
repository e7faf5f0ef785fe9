"""Which function does the work of which stage kind.

Functions are imported when their stage runs: a plan is read and checked without torch.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

STAGE_MODULES = {
    "import_gguf": "megatron_dasd.sources.gguf",
    "random_model": "megatron_dasd.sources.random_model",
    "prune_layers": "megatron_dasd.sources.prune",
    "make_prompts": "megatron_dasd.sources.prompts",
    "import_responses": "megatron_dasd.sources.responses",
    "worked_sums": "megatron_dasd.sources.worked_sums",
    "sample_teacher": "megatron_dasd.teacher.sampling",
    "score_teacher": "megatron_dasd.teacher.scoring",
    "continue_teacher": "megatron_dasd.revision.continuation",
    "roll_out_student": "megatron_dasd.revision.rollouts",
    "keep_rollouts": "megatron_dasd.revision.whole",
    "filter_responses": "megatron_dasd.filters.runner",
    "select_das": "megatron_dasd.divergence.runner",
    "preprocess_text": "megatron_dasd.data.preprocess_text",
    "preprocess_data": "megatron_dasd.data.preprocess_data",
    "score_topk": "megatron_dasd.teacher.top_tokens",
    "train": "megatron_dasd.training.stage",
    "score_student": "megatron_dasd.student.scoring",
    "import_hf": "megatron_dasd.checkpoint.import_stage",
    "export_hf": "megatron_dasd.checkpoint.export_stage",
    "verify_conversion": "megatron_dasd.checkpoint.verify_stage",
    "evaluate": "megatron_dasd.evaluation.runner",
    "report": "megatron_dasd.evaluation.report",
}
"""Module by kind; each has ``run(settings, inputs, folder) -> figures``."""


def stage_function(kind: str) -> Callable[..., dict[str, Any]]:
    """The ``run`` function of a stage kind."""
    return import_module(STAGE_MODULES[kind]).run  # type: ignore[no-any-return]
