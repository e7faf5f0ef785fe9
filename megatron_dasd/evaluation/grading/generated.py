"""Graders ``reasoning_gym:<generator>``: what a task generator itself says of an answer."""

from collections.abc import Mapping

from megatron_dasd.evaluation.grading.base import Check, Grader

_WARM_UP = ("x + 1", "2 * (3 - 4) / 5", "[1, 2]", "1 2\n3 4", "yes")


def make_check(generator: str) -> Check:
    """Import reasoning-gym and let the generator's grader import what it needs.

    Raises:
        ValueError: there is no such generator, or none that can be graded by itself.
    """
    import reasoning_gym

    try:
        score = reasoning_gym.get_score_answer_fn(generator)
    except AssertionError as error:
        raise ValueError(f"{generator!r} cannot be graded by itself ({error})") from None
    known = reasoning_gym.create_dataset(generator, seed=0, size=1)[0]

    def check(answer: str, reference: str, metadata: Mapping[str, object]) -> float:
        return min(max(float(score(answer, {"answer": reference, "metadata": metadata})), 0.0), 1.0)

    for answer in (known["answer"], *_WARM_UP):
        try:
            score(answer, known)
        except Exception:  # its grader trips over answers of another form, as it may later
            continue
    return check


REASONING_GYM = Grader(
    name="reasoning_gym",
    description="reasoning_gym:<generator>, the generator's own grader; partial scores.",
    make=make_check,
    settings=None,
    evaluates_code=True,
    module="reasoning_gym",
)
