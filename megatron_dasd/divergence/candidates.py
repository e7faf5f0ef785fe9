"""What selection keeps in memory of each candidate: a row of numbers of fixed size."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from megatron_dasd.arrays import Bools, Floats, Ints
from megatron_dasd.config.selection import SelectDas, Strategy
from megatron_dasd.divergence.provenance import CLASSES, TEACHER, Comparison
from megatron_dasd.divergence.selection import best_of_each_group, best_within_budget
from megatron_dasd.divergence.strategies import scores
from megatron_dasd.records import ScoredResponse
from megatron_dasd.seeds import derive_seed

ROW = np.dtype(
    [
        ("file", np.int32),
        ("record", np.int64),  # its number in the file
        ("group", np.uint64, 2),  # a hash of prompt and temperature
        ("temperature", np.float64),
        ("domain", np.int32),
        ("classes", np.int64, len(CLASSES)),  # sentences by class
        ("num_tokens", np.int64),  # of the content, the teacher's
        ("student_tokens", np.int64),  # of the output, end of turn included
        ("probabilities", np.float32, 3),  # of the whole content under each model; NaN: none
        ("tie_break", np.int64),
    ]
)
"""One candidate: 116 bytes."""
Rows = npt.NDArray[np.void]
"""[candidates] an array of :data:`ROW`."""
Row = tuple[int, int, npt.NDArray[np.uint64], float, int, Ints, int, int, Sequence[float], int]
"""The fields of :data:`ROW`."""


@dataclass
class Domains:
    """Numbers domains in the order in which they occur."""

    numbers: dict[str, int] = field(default_factory=dict)

    def number(self, name: str) -> int:
        """The number of a domain; a domain not seen before gets the next number."""
        return self.numbers.setdefault(name, len(self.numbers))

    @property
    def names(self) -> list[str]:
        """[domains] by number."""
        return list(self.numbers)


def candidate_row(
    place: tuple[int, int],
    response: ScoredResponse,
    num_student_tokens: int,
    comparison: Comparison,
    classes: Ints,
    seed: int | None,
    domains: Domains,
) -> Row:
    """Summarise a candidate as a row of :data:`ROW`.

    Args:
        place: number of the file, and number of the record in it.
        classes: [sentences] codes of the classes.
    """
    prompt, temperature = response.prompt, response.temperature
    group = hashlib.blake2b(f"{prompt.prompt_id}\0{temperature!r}".encode(), digest_size=16)
    probabilities = [*comparison.response_probabilities.tolist(), np.nan]
    return (
        *place,
        np.frombuffer(group.digest(), dtype=np.uint64),
        temperature,
        domains.number(prompt.domain),
        np.bincount(classes, minlength=len(CLASSES)),
        int(comparison.num_tokens[0].sum()),
        num_student_tokens,
        probabilities[:3],
        derive_seed(seed, "select_das", prompt.prompt_id, temperature, response.candidate),
    )


def to_rows(rows: Sequence[Row]) -> Rows:
    """[candidates] as an array of :data:`ROW`."""
    return np.array(rows, dtype=ROW)


def group_numbers(rows: Rows) -> Ints:
    """[candidates] a number for each combination of prompt and temperature, in no order."""
    _, numbers = np.unique(rows["group"], axis=0, return_inverse=True)
    return numbers.reshape(-1).astype(np.int64)


def strategy_scores(rows: Rows, strategy: Strategy) -> Floats:
    """[candidates] scores under a strategy."""
    classes = rows["classes"]
    return scores(strategy, classes[:, TEACHER], classes.sum(axis=1), rows["num_tokens"])


def choose(rows: Rows, settings: SelectDas) -> Bools:
    """[candidates] whether each is kept, by the strategy and limits of the settings."""
    values = strategy_scores(rows, settings.strategy)
    if settings.budget is None:
        return best_of_each_group(values, rows["tie_break"], group_numbers(rows), settings.keep)
    if settings.budget.tokens is not None:
        costs, budget = rows["student_tokens"], settings.budget.tokens
    else:
        costs, budget = np.ones(rows.size, dtype=np.int64), settings.budget.responses or 0
    return best_within_budget(values, rows["tie_break"], costs, budget)
