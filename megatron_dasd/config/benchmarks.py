"""Settings of published benchmarks: which there are, and what their questions depend on."""

from datetime import date
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

BenchmarkName = Literal[
    "aime24",
    "aime25",
    "aime26",
    "gpqa_diamond",
    "livecodebench_v5",
    "livecodebench_v6",
    "gsm8k",
    "math_500",
    "plain",
]
"""The rows of ``benchmarks.table``."""


class Window(BaseModel):
    """Days between which a question was published, both included."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    first: date
    """E.g. ``2024-08-01``."""
    last: date
    """E.g. ``2025-01-31``."""

    @model_validator(mode="after")
    def _in_order(self) -> "Window":
        if self.last < self.first:
            raise ValueError("last: lies before first")
        return self


class LiveCodeBench(BaseModel):
    """Which questions of LiveCodeBench are asked, and how long a program may take.

    The defaults are common windows; a figure can be compared only with one of the same window.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    v5: Window = Window(first=date(2024, 8, 1), last=date(2025, 1, 31))
    """Of ``livecodebench_v5``, by the day of the contest."""
    v6: Window = Window(first=date(2025, 2, 1), last=date(2025, 4, 30))
    """Of ``livecodebench_v6``, by the day of the contest."""
    seconds_per_test: Annotated[float, Field(gt=0, le=60)] = 6.0
    """Seconds of processor time for one test; LiveCodeBench's own limit is 6."""


class PlainQuestions(BaseModel):
    """How a file of questions and answers is read, and graded."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    question: str = "question"
    """Column of the question."""
    answer: str = "answer"
    """Column of the right answer."""
    grader: Literal["exact", "math", "choice"] = "math"
    """What compares an answer with the right one."""
