"""Rule ``length``."""

from megatron_dasd.filters.case import Case, FilterRule


def _check(case: Case) -> str | None:
    """Compare prompt and response with the student's context, in the student's tokens.

    A text with more words than the context has room for, however they are tokenised, is dropped
    without a call of the tokenizer.  The rules after this one are spared all texts that are too
    long.
    """
    tokens = case.tools.tokens
    if tokens is None or case.normalised is None:
        return None
    limit = case.settings.max_length
    most_words = limit * tokens.words_per_token
    num_words = sum(len(part.encode().split()) for part in case.parts)
    if num_words > most_words:
        return f"{num_words} words, at most {most_words} fit"
    num_tokens = tokens.count(case.response, case.normalised.output, case.normalised.output_spans)
    return f"{num_tokens} tokens, at most {limit} allowed" if num_tokens > limit else None


LENGTH = FilterRule(
    "length",
    "longer than the training context in the student's tokens",
    _check,
    settings=("max_length",),
)
