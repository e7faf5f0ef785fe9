"""The typed records in which the stages meet.

Each stage reads records of one type and writes records of the next, which only adds fields::

    Prompt ─► Response ─► FilteredResponse ─► ScoredResponse ─► SelectedResponse
                 ▲
    Prompt ─► Rollout (cut, then continued by the teacher)

Offsets are UTF-8 **byte** offsets: a byte is what every tokenizer agrees on.  Log-probabilities are
natural logarithms of the untempered distribution (temperature 1, whole vocabulary), whatever
temperature sampled the text (METHOD: divergence-aware sampling).
"""

import json
from dataclasses import dataclass, field
from typing import Literal

Split = Literal["train", "heldout"]
FinishReason = Literal["stop", "length"]
ResponseKey = tuple[str, float, int]
"""Prompt id, temperature, candidate: no two responses of a stage share it."""
Provenance = Literal["teacher", "student", "shared", "boosted"]
"""Which model finds a sentence likely; ``boosted`` (the distilled student) is known only after
training."""


def _require_text(name: str, value: str) -> None:
    if not value:
        raise ValueError(f"{name}: is empty")


def _require_json(name: str, text: str, kind: type) -> None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{name}: is no JSON") from None
    if not isinstance(value, kind):
        raise ValueError(f"{name}: is no JSON {'object' if kind is dict else 'list'}")


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """A call of a tool in an assistant's turn."""

    name: str
    arguments: str
    """A JSON object as text."""
    call_id: str = ""
    """What the tool's turn names it by; empty where the data has no ids."""

    def __post_init__(self) -> None:
        _require_text("name", self.name)
        _require_json("arguments", self.arguments, dict)


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str = ""
    """Empty only where an assistant's turn calls tools, or a tool returns nothing."""
    thinking: str = ""
    """The thinking part of an assistant's turn, without delimiters, where it is known apart."""
    tool_calls: list[ToolCall] = field(default_factory=list)
    """An assistant's calls, in order; several are parallel."""
    tool_call_id: str = ""
    """Of a tool's turn: the call that it answers."""
    name: str = ""
    """Of a tool's turn: the tool."""
    trains: bool = True
    """Whether an assistant's turn may be trained on, where all turns are."""

    def __post_init__(self) -> None:
        if self.role not in ("assistant", "tool"):
            _require_text("content", self.content)
        if self.role != "assistant" and (self.tool_calls or self.thinking):
            what = "tool_calls" if self.tool_calls else "thinking"
            raise ValueError(f"{what}: belongs to an assistant's turn, not to {self.role}'s")
        if self.role == "assistant" and not (self.content or self.tool_calls):
            raise ValueError("content: is empty, and the turn calls no tool")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A task.  Producer: make_prompts.  Consumer: sampling, rollouts, evaluation."""

    prompt_id: str
    messages: list[Message]
    """The turns up to the one that is asked for: the last is a user's or a tool's.  Few-shot and
    system turns are settings."""
    tools: str | None = None
    """The tools that the model may call: a JSON list of schemas as text."""
    domain: str = "unknown"
    split: Split = "train"
    """A held-out prompt never trains."""
    reference_answer: str | None = None
    grader: str | None = None
    """Name of a grader of ``evaluation.grading.registry``, e.g. ``exact``; None: not graded."""
    grader_metadata: str | None = None
    """JSON that the grader needs beside the reference answer."""

    def __post_init__(self) -> None:
        _require_text("prompt_id", self.prompt_id)
        if not self.messages:
            raise ValueError("messages: is empty")
        if self.messages[-1].role not in ("user", "tool"):
            raise ValueError(f"messages: the last turn is {self.messages[-1].role}'s, not user's")
        if self.tools is not None:
            _require_json("tools", self.tools, list)
        _check_call_ids(self.messages)


def _check_call_ids(messages: list[Message]) -> None:
    """Check that every tool's turn answers a call of the assistant's turn before it."""
    waiting: list[str] | None = None  # ids not answered yet; None: no call comes before
    for message in messages:
        if message.role == "assistant":
            waiting = [call.call_id for call in message.tool_calls] or None
        elif message.role == "tool":
            if waiting is None:
                raise ValueError("messages: a tool's turn comes after no call")
            if message.tool_call_id and any(waiting) and message.tool_call_id not in waiting:
                raise ValueError(
                    f"messages.tool_call_id: {message.tool_call_id} answers no call before it"
                )
            if message.tool_call_id in waiting:
                waiting.remove(message.tool_call_id)


@dataclass(frozen=True, kw_only=True)
class TokenLogprobs:
    """The tokens of one text under one model, three aligned lists."""

    token_ids: list[int]
    """-1 where the server returned no ids."""
    num_bytes: list[int]
    """UTF-8 bytes of the text that each token adds; 0 for special tokens."""
    logprobs: list[float]
    """ln p(token | what precedes it), untempered."""

    def __post_init__(self) -> None:
        for name in ("num_bytes", "logprobs"):
            if len(getattr(self, name)) != len(self.token_ids):
                raise ValueError(
                    f"{name}: {len(getattr(self, name))} values for {len(self.token_ids)} tokens"
                )
        if min(self.num_bytes, default=0) < 0:
            raise ValueError("num_bytes: holds a negative value")


NO_TOKENS = TokenLogprobs(token_ids=[], num_bytes=[], logprobs=[])
"""The tokens of a text that came without them."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """Bytes ``start`` (included) to ``end`` (excluded) of a text."""

    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Tokens of one request, as the server counted them."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, kw_only=True)
class Response:
    """What the teacher wrote.  Producer: sampling, continuation.  Consumer: filters."""

    prompt: Prompt
    temperature: float
    candidate: int
    seed: int
    model: str
    text: str
    """The teacher's own text, in its own delimiters; end-of-turn tokens left out."""
    tokens: TokenLogprobs = field(default_factory=lambda: NO_TOKENS)
    """Empty lists: the text came without them."""
    finish_reason: FinishReason
    student_prefix: str = ""
    """The student's own text that the teacher continued, normalised; empty when off-policy."""
    student_prefix_ids: list[int] = field(default_factory=list)
    """The student's own token ids of that text, verbatim."""
    teacher_prompt: str = ""
    """The prompt as the teacher read it; empty where a server applied its own template."""
    engine: str = ""
    """The program that ran the model, with its version, e.g. ``vllm 0.32.0``."""
    usage: Usage | None = None
    """None: no server counted."""
    tool_calls: list[ToolCall] = field(default_factory=list)
    """The tools that the turn calls after its text, where the data holds them apart."""

    @property
    def key(self) -> ResponseKey:
        """Identifies the response within its stage; scores are joined by it."""
        return self.prompt.prompt_id, self.temperature, self.candidate

    def __post_init__(self) -> None:
        if not self.tool_calls:
            _require_text("text", self.text)
        covered, size = sum(self.tokens.num_bytes), len(self.text.encode())
        if self.tokens.token_ids and covered != size:
            raise ValueError(f"tokens.num_bytes: sum to {covered}, the text has {size} bytes")
        if bool(self.student_prefix) != bool(self.student_prefix_ids):
            raise ValueError("student_prefix_ids: must be given with student_prefix, and only then")


@dataclass(frozen=True, kw_only=True)
class FilteredResponse(Response):
    """A response that passed every filter.  Consumer: scoring, preprocessing."""

    output: str
    """The training target: ``<think>`` ... ``</think>`` + answer, or a plain answer; starts with
    the prefix."""
    output_spans: list[Span]
    """The thinking part and the answer in ``output``: the content, delimiters left out.  One span
    where there is an answer alone, none where a rollout is kept as it was written."""
    text_spans: list[Span] = field(default_factory=list)
    """The same content in ``text``; empty when there is a student prefix, or not known."""


@dataclass(frozen=True, kw_only=True)
class ScoredResponse(FilteredResponse):
    """With the student's log-probs of ``output``.  Producer: scoring.  Consumer: selection."""

    student_tokens: TokenLogprobs
    """Tokens of ``output`` and the end-of-turn token under the student."""
    student_model: str


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """One sentence of the content with its geometric-mean token probabilities."""

    text: str
    teacher_probability: float
    student_probability: float
    provenance: Provenance
    distilled_probability: float | None = None
    """Under the student after training, where that was scored too."""


@dataclass(frozen=True, kw_only=True)
class SelectedResponse(ScoredResponse):
    """A kept candidate with its sentences.  Producer: select_das.  Consumer: preprocess_data."""

    sentences: list[Sentence]


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """What the student wrote.  Producer: roll_out_student.  Consumer: continue_teacher,
    keep_rollouts."""

    prompt: Prompt
    candidate: int = 0
    """Its number among the prompt's rollouts."""
    temperature: float = 1.0
    token_ids: list[int]
    """Verbatim as generated, end-of-turn token left out."""
    num_bytes: list[int]
    text: str
    """Decoded; a character cut at the end is left out."""
    max_tokens: int
    """The cap: 1.5 x the teacher response's length in student tokens, rounded down."""
    finish_reason: FinishReason
    seed: int


def student_response(rollout: Rollout) -> Response:
    """A rollout as a response by the student, without tokens; it keeps the rollout's key."""
    return Response(
        prompt=rollout.prompt,
        temperature=rollout.temperature,
        candidate=rollout.candidate,
        seed=rollout.seed,
        model="student",
        text=rollout.text,
        tokens=NO_TOKENS,
        finish_reason=rollout.finish_reason,
    )


@dataclass(frozen=True, kw_only=True)
class Graded:
    """One answer to a held-out prompt.  Producer: evaluate.  Consumer: report."""

    prompt: Prompt
    model: str
    sample: int
    text: str
    score: float
    """1 for right, 0 for wrong, between for partly right (the grader's own scale)."""
    num_tokens: int
    finish_reason: FinishReason
    failure: str | None = None
    """Why its grader gave no verdict, or why a program does not pass its tests."""
