"""Graders: what it costs that they run in contained workers."""

import random
import time
from collections.abc import Iterator

from benchmarks.figures import Row, at_most
from megatron_dasd.containment.pool import Pool
from megatron_dasd.containment.probe import find_walls
from megatron_dasd.evaluation.grading import contained

NUM_GRADES = 2_000


def rows() -> Iterator[Row]:
    """Figures of the evaluation room."""
    requests = [("math", body) for body in written_answers(random.Random(0))]
    grade = contained.prepare("math")
    with Pool(contained.TASK, find_walls()) as pool:
        pool.run(requests[:16])  # every worker is warm
        started = time.perf_counter()
        contained_scores = pool.run(requests)
        own = time.perf_counter() - started
        where = f"{pool.walls.name}, {pool.size} workers"
    started = time.perf_counter()
    scores = [grade(body) for _, body in requests]
    peer = time.perf_counter() - started
    assert contained_scores == scores
    yield at_most(
        3.0,
        name=f"{NUM_GRADES:,} math grades by a warm pool ({where})",
        unit="s",
        own=[own],
        peer=[peer],
        peer_name="the same grades in this process",
    )


def written_answers(chance: random.Random) -> Iterator[bytes]:
    """Requests of five kinds, four of five answers right."""
    for _ in range(NUM_GRADES):
        a, b, c = chance.randint(2, 99), chance.randint(2, 99), chance.randint(2, 9)
        off = chance.random() < 0.2
        reference, answer = chance.choice(
            [
                (f"{a * b}", f"The answer is ${a * b + off}$."),
                (f"\\frac{{{a}}}{{{b}}}", f"\\boxed{{\\frac{{{a * c + off}}}{{{b * c}}}}}"),
                (f"{a}\\sqrt{{{b}}}", f"So it is $\\sqrt{{{a * a * b + off}}}$"),
                (f"x^2 - {a * a}", f"$(x-{a})(x+{a + off})$"),
                (f"\\{{{a}, {b}\\}}", f"$\\{{{b + off}, {a}\\}}$"),
            ]
        )
        yield contained.encode(answer, reference, {})
