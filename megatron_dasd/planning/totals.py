"""How many tokens the stages of a pipeline read and make, before there are any."""

import math
from dataclasses import dataclass

import numpy as np

from megatron_dasd.config.pipeline import Pipeline
from megatron_dasd.config.planning import Corpus
from megatron_dasd.config.teacher import RollOutStudent, SampleTeacher
from megatron_dasd.data.meta import META, TOKENS, data_folder
from megatron_dasd.errors import UserError
from megatron_dasd.records import Prompt
from megatron_dasd.records_io import read_records

_PASSED_ON = (
    "filter_responses",
    "keep_rollouts",
    "score_student",
    "score_teacher",
    "select_das",
)
"""Kinds whose result counts as large as what they read, where no corpus is given for it."""


@dataclass(frozen=True)
class TokenTotals:
    """Token counts of some documents, as the cost formulas need them."""

    num_tokens: float
    squared: float
    """Sum of the squares of the documents' lengths."""
    num_documents: float = 0.0

    def plus(self, other: "TokenTotals") -> "TokenTotals":
        """The totals of both sets of documents together."""
        return TokenTotals(
            self.num_tokens + other.num_tokens,
            self.squared + other.squared,
            self.num_documents + other.num_documents,
        )

    def times(self, factor: float) -> "TokenTotals":
        """Scale by ``factor``, e.g. epochs."""
        return TokenTotals(
            self.num_tokens * factor, self.squared * factor, self.num_documents * factor
        )


def token_totals(pipeline: Pipeline, reference: str) -> TokenTotals:
    """Count the documents of packed data that exists; otherwise take ``plan.corpora``.

    Raises:
        UserError: neither exists.
    """
    path = pipeline.resolve(reference)
    if (path / META).exists() or (path / "data" / META).exists():
        from megatron.core.datasets.indexed_dataset import IndexedDataset

        sizes = IndexedDataset(str(data_folder(path) / TOKENS)).sequence_lengths.astype(np.float64)
        return TokenTotals(float(sizes.sum()), float(np.square(sizes).sum()), len(sizes))
    found = known_totals(pipeline, reference)
    if found is None:
        raise UserError(
            f"{pipeline.path}: {reference} does not exist yet; give the number and length of its "
            f"documents in plan.corpora.{reference} (num_documents, mean_tokens)"
        )
    return found


def known_totals(pipeline: Pipeline, reference: str) -> TokenTotals | None:
    """By ``plan.corpora``; of a stage that only passes responses on, by those that it reads.

    Raises:
        UserError: a corpus has no number of documents, and none follows from the prompts.
    """
    if corpus := pipeline.plan.corpora.get(reference):
        number = corpus.num_documents or _num_sampled(pipeline, reference)
        return corpus_totals(corpus, number)
    if reference in pipeline.stages and pipeline.stages[reference].kind in _PASSED_ON:
        return read_totals(pipeline, reference)
    return None


def read_totals(pipeline: Pipeline, stage: str) -> TokenTotals | None:
    """What a stage reads of other stages, as far as ``plan.corpora`` says; None: nothing known."""
    found = [known_totals(pipeline, name) for name in pipeline.upstream(stage)]
    known = [totals for totals in found if totals is not None]
    if not known:
        return None
    total = known[0]
    for more in known[1:]:
        total = total.plus(more)
    return total


def corpus_totals(corpus: Corpus, num_documents: int) -> TokenTotals:
    """Totals of log-normal lengths: E[n^2] = E[n]^2 exp(sigma^2)."""
    squared = num_documents * corpus.mean_tokens**2 * math.exp(corpus.sigma**2)
    return TokenTotals(num_documents * corpus.mean_tokens, squared, num_documents)


def _num_sampled(pipeline: Pipeline, stage: str) -> int:
    """Responses that a stage samples, by its prompts."""
    settings = pipeline.stages.get(stage)
    if isinstance(settings, SampleTeacher):
        num_prompts = count_prompts(pipeline, settings.prompts)
        return num_prompts * len(settings.temperatures) * settings.num_candidates
    if isinstance(settings, RollOutStudent) and settings.max_prompts is not None:
        return settings.max_prompts * settings.num_rollouts
    raise UserError(
        f"{pipeline.path}: plan.corpora.{stage}: give num_documents; only the number of what is "
        "sampled follows from the prompts"
    )


def count_prompts(pipeline: Pipeline, reference: str) -> int:
    """Prompts that are planned with, or else that a finished stage or a file has.

    Raises:
        UserError: there are none yet, and the plan does not say how many there will be.
    """
    if pipeline.plan.num_prompts is not None:
        return pipeline.plan.num_prompts
    path = pipeline.resolve(reference)
    if not path.exists():
        raise UserError(
            f"{pipeline.path}: {reference} does not exist yet; give the number of prompts in "
            "plan.num_prompts"
        )
    return sum(1 for _ in read_records(path, Prompt))
