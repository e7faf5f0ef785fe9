"""The task of a contained worker: one answer, graded."""

import json
from collections.abc import Callable, Mapping

import msgspec

from megatron_dasd.evaluation.grading import registry

TASK = "megatron_dasd.evaluation.grading.contained:prepare"


def encode(answer: str, reference: str, metadata: Mapping[str, object]) -> bytes:
    """A request's body; ASCII, since an answer may hold what UTF-8 cannot say."""
    return json.dumps([answer, reference, metadata]).encode()


def decode(result: bytes) -> float:
    """The score that came back.

    Raises:
        ValueError: it is no number between 0 and 1.
    """
    score = msgspec.json.decode(result, type=float)
    if not 0.0 <= score <= 1.0:
        raise ValueError("the score is out of range")
    return score


def prepare(key: str) -> Callable[[bytes], bytes]:
    """Make the check that a prompt's ``grader`` names."""
    grader, argument = registry.find(key)
    check = grader.make(argument)

    def grade(body: bytes) -> bytes:
        answer, reference, metadata = json.loads(body)
        try:
            score = check(answer, reference, metadata)
        except ImportError:  # the walls kept a module from being read: no verdict on the answer
            raise
        except Exception:  # some graders trip over answers of another form
            score = 0.0
        return msgspec.json.encode(score)

    return grade
