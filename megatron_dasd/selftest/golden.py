"""The results that are known beforehand, made on a CPU, and how far another machine's may be off.

``python -m megatron_dasd.selftest.golden FOLDER`` keeps the results of a self-test in that folder
as the known ones.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from megatron_dasd.artifacts import write_atomic
from megatron_dasd.json_values import read_as
from megatron_dasd.last_net import guard
from megatron_dasd.manifests import LOGS, METRICS, part_files
from megatron_dasd.printing import say
from megatron_dasd.records import ScoredResponse
from megatron_dasd.records_io import read_records
from megatron_dasd.selftest.plan import PRECISIONS

PLACE = Path(__file__).with_name("golden.json")
TOLERANCES: Mapping[str, float] = {
    "fp32": 2e-5,
    "bf16": 5e-3,
    "fp8-blockwise": 1e-2,
    "fp8-tensorwise": 1e-2,
    "fp8-delayed": 1e-2,
    "float32": 5e-3,
    "bfloat16": 5e-3,
}
"""Largest relative distance that passes, by precision of a training and by type of a scoring.

The weights that are scored were trained in bfloat16, whatever the type of the scoring is.
"""


@dataclass(frozen=True)
class Golden:
    """Known results."""

    losses: dict[str, list[float]]
    """Of each step, one rank, by precision; nats."""
    logprobs: dict[str, float]
    """Mean log-probability of a token under the weights trained in bfloat16, by type; nats."""


def read_golden() -> Golden:
    """The known results."""
    return read_as(PLACE, Golden, "reinstall the package")


def losses_of(stage: Path) -> list[float]:
    """The losses of a training stage, step by step."""
    text = (stage / LOGS / METRICS).read_text()
    return [float(json.loads(line)["loss"]) for line in text.splitlines()]


def mean_logprob(stage: Path) -> float:
    """Mean log-probability of the tokens that a scoring stage scored; nats."""
    numbers: list[float] = []
    for part in part_files(stage):
        for record in read_records(part, ScoredResponse):
            numbers += record.student_tokens.logprobs
    return sum(numbers) / len(numbers)


def distance(found: Sequence[float], known: Sequence[float]) -> float:
    """Largest relative distance, step by step; infinite where there are more or fewer steps."""
    if len(found) != len(known):
        return float("inf")
    # a comparison with NaN is false, and max() would pass it over
    return max(
        apart if (apart := abs(a / b - 1)) == apart else float("inf")
        for a, b in zip(found, known, strict=True)
    )


def _keep(folder: Path) -> None:
    golden = Golden(
        losses={precision: losses_of(folder / precision) for precision in PRECISIONS},
        logprobs={t: mean_logprob(folder / f"score_{t}") for t in ("float32", "bfloat16")},
    )
    write_atomic(PLACE, (json.dumps(asdict(golden), indent=1) + "\n").encode())
    say(f"{PLACE}: kept")


if __name__ == "__main__":
    sys.exit(guard(lambda: _keep(Path(sys.argv[1]))))
