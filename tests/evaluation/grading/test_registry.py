"""Graders describe themselves; a name that nobody registered is refused."""

import subprocess
import sys

import pytest

from megatron_dasd.evaluation.grading.registry import GRADERS, find


def test_every_grader_describes_itself() -> None:
    assert list(GRADERS) == ["exact", "math", "choice", "code", "reasoning_gym"]
    for name, grader in GRADERS.items():
        assert grader.name == name
        assert grader.description.endswith(".")
    assert [name for name, grader in GRADERS.items() if grader.evaluates_code] == [
        "math",
        "code",
        "reasoning_gym",
    ]
    assert [name for name, grader in GRADERS.items() if grader.in_process] == ["exact"]


def test_an_argument_follows_a_colon() -> None:
    assert find("reasoning_gym:a:b") == (GRADERS["reasoning_gym"], "a:b")
    assert find("exact") == (GRADERS["exact"], "")


@pytest.mark.parametrize("name", ["vibes", "", "Exact", "math_", " math"])
def test_an_unknown_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' is no known grader \\(known: exact, math, "):
        find(name)


def test_importing_the_graders_is_light() -> None:
    program = (
        "import sys, megatron_dasd.evaluation.grading.contained\n"
        "print(*{'torch', 'transformers', 'sympy', 'numpy', 'reasoning_gym'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "")
