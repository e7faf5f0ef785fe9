"""Ten sentences, two tokenizers, three models: every number worked out on paper.

The geometric means are of numbers chosen so that the roots come out even: the cube root of
1/2 x 1/8 x 1/4 is 1/4, the fourth root of 0.9 x 0.4 x 0.9 x 0.4 is 0.6, and so on.
"""

from collections.abc import Callable
from math import log
from pathlib import Path

import numpy as np
import pytest

from megatron_dasd.config.selection import SelectDas
from megatron_dasd.divergence.provenance import CLASSES, ModelTokens, classify, compare
from megatron_dasd.divergence.runner import run
from megatron_dasd.manifests import Manifest
from megatron_dasd.records import (
    Response,
    ScoredResponse,
    SelectedResponse,
    Span,
    TokenLogprobs,
)
from megatron_dasd.records_io import read_records

Tokens = list[tuple[str | bytes, float]]

THINKING = "Add 2. Größe? No.\n日本。x = 3.5. So e.g. 4 fits. Ha! Ok."
ANSWER = "It is 4. Done 😀"
SENTENCES = [
    "Add 2. ",
    "Größe? ",
    "No.\n",
    "日本。",
    "x = 3.5. ",
    "So e.g. 4 fits. ",
    "Ha! ",
    "Ok.",
    "It is 4. ",
    "Done 😀",
]
GR_O, SZ_E = "ö".encode()[:1], "ö".encode()[1:] + "ße".encode()
NI = "日".encode()
SMILE = "😀".encode()
TEACHER: Tokens = [
    ("", 0.3),  # a special token that opens the turn
    ("Add", 1 / 2), (" 2", 1 / 8), (".", 1 / 4),
    # begins with whitespace of the first sentence; a letter's two bytes are in two tokens
    (b" Gr" + GR_O, 0.9), (SZ_E, 0.4), ("?", 0.9), (" ", 0.4),
    ("No", 0.49), (".\n", 1.0),
    (NI[:2], 0.3), (NI[2:], 0.3), ("本", 0.3), ("。", 0.3),
    ("x = 3.5.", 0.8), (" ", 0.2),
    ("So e.g.", 0.64), (" 4 fits.", 1.0),
    (" Ha! O", 0.16),  # reaches into the next sentence
    ("k.", 0.95),
    (" =>", 0.7), (" ", 0.6),  # between thinking part and answer
    ("It is", 0.7), (" 4.", 0.7),
    (" Done", 0.2), (" 😀", 0.8),
    ("", 0.99),  # end of turn
]  # fmt: skip
STUDENT: Tokens = [
    ("<think>", 0.9), ("\n", 0.8),
    ("Add 2.", 0.3),
    (" Größe", 0.36), ("?", 0.25),
    (" No", 0.95), (".", 0.95), ("\n", 0.95),
    ("日本", 0.04), ("。", 0.01),
    ("x =", 0.35), (" 3", 0.35), (".5. ", 0.35),
    ("So", 0.5), (" e", 0.5), (".g", 0.5), (". 4", 0.5), (" fits", 0.5), (".", 0.5),
    (" Ha", 0.4), ("!", 0.9),
    (" Ok.", 0.9),
    ("\n", 0.7), ("</think>", 0.9), ("\n\n", 0.6),
    ("It is 4", 0.49), (".", 0.36),
    (" Done", 0.45), (b" " + SMILE[:2], 0.45), (SMILE[2:], 0.45),
    ("", 0.99),
]  # fmt: skip
#             sentence   1     2     3     4     5     6     7     8     9    10
P_TEACHER = [0.25, 0.60, 0.70, 0.30, 0.40, 0.80, 0.16, 0.95, 0.70, 0.40]
P_STUDENT = [0.30, 0.30, 0.95, 0.02, 0.35, 0.50, 0.60, 0.90, 0.42, 0.45]
P_DISTILLED = [0.32, 0.50, 0.90, 0.30, 0.90, 0.10, 0.58, 0.30, 0.60, 0.42]
#     gap T - S     -0.05  0.30 -0.25  0.28  0.05  0.30 -0.44  0.05  0.28 -0.05
BEFORE = [
    "shared", "teacher", "student", "teacher", "shared",
    "teacher", "student", "shared", "teacher", "shared",
]  # fmt: skip
AFTER = [
    "shared", "teacher", "student", "teacher", "boosted",
    "teacher", "student", "boosted", "teacher", "shared",
]  # fmt: skip
NUM_TEACHER_TOKENS = [3, 4, 2, 4, 2, 2, 1, 1, 2, 2]
NUM_STUDENT_TOKENS = [1, 2, 3, 2, 3, 6, 2, 1, 2, 3]


def as_bytes(piece: str | bytes) -> bytes:
    return piece if isinstance(piece, bytes) else piece.encode()


def text_of(tokens: Tokens) -> str:
    return b"".join(as_bytes(piece) for piece, _ in tokens).decode()


def spans_in(text: str) -> list[Span]:
    spans = []
    for part in (THINKING, ANSWER):
        start = text.encode().index(part.encode())
        spans.append(Span(start=start, end=start + len(part.encode())))
    return spans


def logprobs(tokens: Tokens) -> TokenLogprobs:
    return TokenLogprobs(
        token_ids=list(range(len(tokens))),
        num_bytes=[len(as_bytes(piece)) for piece, _ in tokens],
        logprobs=[log(p) for _, p in tokens],
    )


def distilled() -> Tokens:
    """The student's tokens; all of a sentence are as likely as the sentence is to be."""
    sentence_of_token = np.repeat(np.arange(10), NUM_STUDENT_TOKENS).tolist()
    values = [P_DISTILLED[sentence] for sentence in sentence_of_token]
    delimiters = {0, 1, 22, 23, 24, len(STUDENT) - 1}
    return [
        (piece, 0.5 if index in delimiters else values.pop(0))
        for index, (piece, _) in enumerate(STUDENT)
    ]


def reading(tokens: Tokens) -> ModelTokens:
    text, lists = text_of(tokens), logprobs(tokens)
    return ModelTokens(text, spans_in(text), np.array(lists.num_bytes), np.array(lists.logprobs))


def test_probabilities_and_classes_to_nine_places() -> None:
    models = [reading(TEACHER), reading(STUDENT), reading(distilled())]
    before = compare([THINKING, ANSWER], models[:2])
    assert before.texts == SENTENCES
    assert before.num_tokens.tolist() == [NUM_TEACHER_TOKENS, NUM_STUDENT_TOKENS]
    assert before.probabilities == pytest.approx(np.array([P_TEACHER, P_STUDENT]), abs=1e-9)
    assert [CLASSES[code] for code in classify(before.probabilities, beta=0.1)] == BEFORE

    after = compare([THINKING, ANSWER], models)
    expected = np.array([P_TEACHER, P_STUDENT, P_DISTILLED])
    assert after.probabilities == pytest.approx(expected, abs=1e-9)
    assert [CLASSES[code] for code in classify(after.probabilities, beta=0.1)] == AFTER


@pytest.mark.parametrize("after_training", [False, True])
def test_the_stage_gives_the_same(
    after_training: bool,
    run_stage: Callable[..., Manifest],
    make_response: Callable[..., Response],
    write_records: Callable[..., Path],
    tmp_path: Path,
) -> None:
    text, output = text_of(TEACHER), text_of(STUDENT)

    def scored(student: Tokens) -> Response:
        return make_response(
            text,
            ScoredResponse,
            tokens=logprobs(TEACHER),
            text_spans=spans_in(text),
            output=output,
            output_spans=spans_in(output),
            student_tokens=logprobs(student),
            student_model="student",
        )

    inputs = {"scored": write_records("scored", [[scored(STUDENT)]])}
    given = {"kind": "select_das", "responses": "scored", "seed": 1}
    if after_training:
        inputs["after"] = write_records("after", [[scored(distilled())]])
        given["distilled"] = "after"
    manifest = run_stage(run, SelectDas(**given), inputs)
    sentences = next(read_records(tmp_path / "stage", SelectedResponse)).sentences
    assert [s.text for s in sentences] == SENTENCES
    assert [s.teacher_probability for s in sentences] == pytest.approx(P_TEACHER, abs=1e-9)
    assert [s.student_probability for s in sentences] == pytest.approx(P_STUDENT, abs=1e-9)
    if after_training:
        found = [s.distilled_probability for s in sentences]
        assert found == pytest.approx(P_DISTILLED, abs=1e-9)
        assert [s.provenance for s in sentences] == AFTER
        counts = {"teacher": 4, "student": 2, "shared": 2, "boosted": 2}
    else:
        assert [s.distilled_probability for s in sentences] == [None] * 10
        assert [s.provenance for s in sentences] == BEFORE
        counts = {"teacher": 4, "student": 2, "shared": 4}
    assert manifest.figures["sentence_classes"] == counts
