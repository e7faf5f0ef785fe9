"""Programs that models wrote, run on tests in contained workers: each failure is named."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from megatron_dasd.benchmarks.code_tests import CodeTests
from megatron_dasd.errors import UserError
from megatron_dasd.evaluation.code_answers import KeptTests
from megatron_dasd.evaluation.graders import Grade, close_workers, grade_all
from megatron_dasd.evaluation.grading.programs import code_of
from megatron_dasd.records import Prompt
from tests.sampled import left_out

MakePrompt = Callable[..., Prompt]
ADDS = CodeTests(kind="stdin", inputs=["1 2\n", "10 20\n"], outputs=["3\n", "30\n"], num_public=1)
DOUBLES = CodeTests(kind="functional", function="double", inputs=["[1, 2]\n3"], outputs=["[2, 4]"])


@pytest.fixture(scope="module", autouse=True)
def closed() -> Iterator[None]:
    yield
    close_workers()


def answer(code: str) -> str:
    return f"<think>\nx\n</think>\n\nHere:\n```python\n{code}\n```\nDone."


@pytest.fixture
def grade(make_prompt: MakePrompt) -> Callable[..., list[Grade]]:
    """Grade texts as answers to a question with these tests."""
    metadata = json.dumps({"seconds": 1.0})
    prompt = make_prompt(grader="code", reference_answer="", grader_metadata=metadata)

    def graded(texts: list[str], tests: CodeTests = ADDS) -> list[Grade]:
        return grade_all([(prompt, text) for text in texts], lambda _: tests)

    return graded


RIGHT_PROGRAMS = [
    "a, b = map(int, input().split())\nprint(a + b)",
    "import sys\nprint(sum(map(int, sys.stdin.read().split())))",
    "import sys\ninput = sys.stdin.readline\nprint(sum(int(x) for x in input().split()))",
    "import sys\nprint(sum(map(int, sys.stdin.buffer.read().split())))",
    "print(sum(map(int, open(0).read().split())))",
    "def main():\n    print(sum(map(int, input().split())))\n"
    "if __name__ == '__main__':\n    main()",
    "import sys\nprint(sum(map(int, input().split())))\nsys.exit()",
    "import sys, threading\nsys.setrecursionlimit(10**6)\nthreading.stack_size(1 << 27)\n"
    "t = threading.Thread(target=lambda: print(sum(map(int, input().split()))))\n"
    "t.start()\nt.join()",
    "def f(n):\n    return 0 if n == 0 else f(n - 1)\n"
    "f(20000)\nprint(sum(map(int, input().split())))",
    "import numpy as np\nprint(int(np.array(input().split(), dtype=int).sum()))",
]


def test_programs_that_pass(grade: Callable[..., list[Grade]]) -> None:
    for code, found in zip(RIGHT_PROGRAMS, grade([answer(c) for c in RIGHT_PROGRAMS]), strict=True):
        assert found == Grade(1.0), code


WRONG = {
    "a, b = map(int, input().split())\nprint(a - b)": "wrong output",
    "print(3)": "wrong output",  # passes the test that is shown
    "print(1 / 0)": "error",
    "def (": "error",
    "import no_such_module": "error",
    "import sys\nsys.exit(1)": "error",
    "x = [0] * 10**10": "error",
    "while True: pass": "time limit",
    "import os\nos._exit(0)": "died",
    "import os\nos.write(3, b'+1.0')\nos._exit(0)": "error",
    "import os\nwhile True: os.fork()": "error",
    "import socket\nsocket.create_connection(('127.0.0.1', 80))": "error",
    "import os\nos.kill(os.getppid(), 9)\nprint(3)": "error",
    "import os\nprint(os.environ['PATH'])": "error",
    "print('x' * 10**8)": "too long",
}


def test_each_failure_is_named(grade: Callable[..., list[Grade]]) -> None:
    for code, found in zip(WRONG, grade([answer(code) for code in WRONG]), strict=True):
        assert found == Grade(0.0, WRONG[code]), code
    assert grade(["<think>\nx\n</think>\n\nprint(3)", "no form at all"]) == [
        Grade(0.0, "no code"),
        Grade(0.0),
    ]


def test_a_program_that_catches_its_time_limit(grade: Callable[..., list[Grade]]) -> None:
    code = "n = 0\nwhile True:\n    try:\n        n += 1\n    except BaseException: pass"
    [found] = grade([answer(code)])
    assert found.score == 0.0
    assert found.failure in ("died", "time limit")  # where it was when the limit came


def test_files_stay_out_of_reach(grade: Callable[..., list[Grade]], tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    hostile = f"open({str(tmp_path / 'written')!r}, 'w').write('x')"
    assert grade([answer(hostile)]) == [Grade(0.0, "error")]
    assert list(tmp_path.iterdir()) == []


FUNCTIONS = {
    "class Solution:\n    def double(self, n: List[int], k: int) -> List[int]:\n"
    "        print('noise')\n        return [2 * x for x in n]": None,
    "def double(n, k):\n    return tuple(2 * x for x in n)": None,
    "import numpy as np\ndef double(n, k):\n    return 2 * np.array(n)": None,
    "def double(n, k):\n    return n": "wrong output",
    "def double(n):\n    return n": "error",
    "def treble(n, k):\n    return n": "error",
    "def double(n, k):\n    return {1, 2}": "error",
}


def test_functions(grade: Callable[..., list[Grade]]) -> None:
    for code, found in zip(
        FUNCTIONS, grade([answer(code) for code in FUNCTIONS], DOUBLES), strict=True
    ):
        assert found.failure == FUNCTIONS[code], code


def test_a_program_never_sees_what_is_expected(grade: Callable[..., list[Grade]]) -> None:
    code = "import gc\nprint(any('30' in str(o) for o in gc.get_objects() if type(o) is str))"
    tests = CodeTests(kind="stdin", inputs=["a"], outputs=["False"])
    assert grade([answer(code)], tests) == [Grade(1.0)]


@pytest.mark.parametrize("text", [left_out("```py\n1\n```"), "```python\n0\n```\n```\n1\n```"])
def test_the_last_block_is_the_program(text: str) -> None:
    assert code_of(text) == "1\n"
    assert code_of("no block") is None


def test_tests_are_kept_by_prompt(make_prompt: MakePrompt, tmp_path: Path) -> None:
    store = KeptTests(tmp_path)
    store.add("a", ADDS)
    store.add("b", DOUBLES)
    assert store(make_prompt("b")) == DOUBLES
    assert store(make_prompt("a")) == ADDS
    row = {"input": "1", "output": "1", "testtype": "stdin"}
    own = make_prompt("c", grader_metadata=json.dumps({"tests": [row]}))
    assert store(own).inputs == ["1"]


def test_a_prompt_without_tests(make_prompt: MakePrompt) -> None:
    prompt = make_prompt("p9", grader="code", reference_answer="")
    with pytest.raises(UserError, match="prompt p9: tests: expected"):
        grade_all([(prompt, answer("print(1)"))])
