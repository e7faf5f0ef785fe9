"""Every grader, by name."""

from megatron_dasd.evaluation.grading.base import Grader
from megatron_dasd.evaluation.grading.choice import CHOICE
from megatron_dasd.evaluation.grading.exact import EXACT
from megatron_dasd.evaluation.grading.generated import REASONING_GYM
from megatron_dasd.evaluation.grading.mathematics import MATH
from megatron_dasd.evaluation.grading.programs import CODE

GRADERS = {grader.name: grader for grader in (EXACT, MATH, CHOICE, CODE, REASONING_GYM)}


def find(field: str) -> tuple[Grader, str]:
    """The grader that a prompt's ``grader`` names, and what follows the colon.

    Raises:
        ValueError: nobody registered that name.
    """
    name, _, argument = field.partition(":")
    grader = GRADERS.get(name)
    if grader is None:
        raise ValueError(f"{field!r} is no known grader (known: {', '.join(GRADERS)})")
    return grader, argument
