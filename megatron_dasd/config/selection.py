"""Settings from responses to the chosen ones: filters, scores, divergence-aware selection."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from megatron_dasd.config.base import (
    Input,
    Launch,
    OnMalformed,
    Positive,
    Server,
    Settings,
    ThinkingFormat,
)


class Repetition(BaseModel):
    """Bounds of the repetition filter."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_repeated_lines: Positive = 4
    """Times that one line (of at least 3 words) may occur."""
    max_repeated_sentences: Positive = 4
    """Times that one sentence (of at least 3 words) may occur."""
    ngram_words: Positive = 8
    max_ngram_count: Positive = 8
    """Times that one run of ``ngram_words`` words may occur."""


class FilterResponses(Settings):
    """Quality filters with named reasons, over responses and over continuations."""

    kind: Literal["filter_responses"]
    responses: list[Input] = Field(min_length=1)
    student: Input
    """Hugging Face folder; its tokenizer measures the length."""
    thinking: ThinkingFormat = ThinkingFormat()
    """The teacher's delimiters; what is kept is normalised to ``<think>`` ... ``</think>``."""
    max_length: Positive
    """Longest prompt + response, in student tokens."""
    system_prompt: str | None = None
    """As in training: it counts towards the length."""
    repetition: Repetition = Repetition()
    on_malformed: OnMalformed = "stop"


class ScoreStudent(Settings):
    """Student log-probs of every response token, by Megatron's forward pass or from servers."""

    kind: Literal["score_student"]
    responses: Input
    model: Input
    """Hugging Face folder: architecture and tokenizer."""
    checkpoint: Input | None = None
    """Megatron checkpoint of the weights."""
    server: Server | None = None
    """In place of ``checkpoint``: servers that run the exported student."""
    split: Literal["train", "heldout", "all"] = "all"
    system_prompt: str | None = None
    few_shot: Input | None = None
    """JSON lines of Message records put before the prompt: they show a student that has not learnt
    the form of the responses what it is, so that the scores tell of the content."""
    batch_tokens: Positive = 4096
    """Padded tokens of one forward pass."""
    dtype: Literal["bfloat16", "float32"] = "float32"
    launch: Launch = Launch()
    on_malformed: OnMalformed = "stop"

    @model_validator(mode="after")
    def _one_source(self) -> "ScoreStudent":
        if (self.checkpoint is None) == (self.server is None):
            raise ValueError("give checkpoint or server")
        return self


class SelectDas(Settings):
    """Divergence-aware sampling: per prompt and temperature, the candidates that teach most."""

    kind: Literal["select_das"]
    responses: Input
    beta: Annotated[float, Field(gt=0, lt=1)] = 0.1
    strategy: Literal["count", "ratio", "longest", "random", "fewest"] = "count"
    keep: Positive = 1
    """Candidates kept a prompt and temperature."""
    on_malformed: OnMalformed = "stop"
