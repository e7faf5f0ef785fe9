"""The quality rules, each at its bound."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from megatron_dasd.config.base import ThinkingFormat
from megatron_dasd.config.selection import FilterResponses, Repetition
from megatron_dasd.filters.case import Tools, contents, make_case, normalise_response
from megatron_dasd.filters.report import settings_of
from megatron_dasd.filters.rules import RULES, first_reason, repetition
from megatron_dasd.filters.rules.tool_call import find_tool_call
from megatron_dasd.filters.token_counter import StudentTokenCounter
from megatron_dasd.records import Message, Prompt, Response, Span, TokenLogprobs
from megatron_dasd.text.thinking import NORMALISED

MakeResponse = Callable[..., Response]
ANSWER = ThinkingFormat(open="", close=" Answer: ")


def settings(**changes: object) -> FilterResponses:
    given = {
        "kind": "filter_responses",
        "responses": ["a"],
        "student": "s",
        "max_length": 1_000_000,
    }
    return FilterResponses(**(given | changes))  # type: ignore[arg-type]


def test_the_documentation_lists_the_rules_in_their_order() -> None:
    document = (Path(__file__).parents[2] / "docs" / "filters.md").read_text()
    rows = [line for line in document.splitlines() if line.startswith("| `")]
    for rule, row in zip(RULES, rows, strict=True):
        used = ", ".join(f"`{path}`" for path in rule.settings)
        assert row == f"| `{rule.name}` | {rule.description} | {used} |".replace("|  |", "| |")


def test_every_rule_has_a_name_of_its_own_and_settings_that_exist() -> None:
    assert len({rule.name for rule in RULES}) == len(RULES)
    shown = {rule.name: settings_of(rule, settings(max_length=9)) for rule in RULES}
    assert shown["length"] == {"max_length": 9}
    assert shown["loop"] == {"loop_repeats": 4, "loop_characters": 200}
    assert shown["contamination"] == {
        "benchmarks": [],
        "evaluated": {},
        "fields": [],
        "ngram_words": 13,
        "min_words": 8,
        "common_prompts": 100,
    }


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('<tool_call>\n{"name": "add"}', "<tool_call>"),
        ("<|python_tag|>print(1)", "<|python_tag|>"),
        ("<|channel|>commentary to=functions.add<|message|>", "to=functions."),
        ("<|start|>assistant<|channel|>commentary to=python code<|message|>", "to=python"),
        ("<|channel|>commentary <|constrain|>json<|message|>{}<|call|>", "<|constrain|>"),
        ('{"tool_calls": []}', '"tool_calls":'),
        ('{"function_call" : {}}', '"function_call" :'),
        ("<function=add>", "<function=a"),
        ("[TOOL_CALLS] x", "[TOOL_CALLS]"),
        ("<tool_response>3</tool_response>", "<tool_response>"),
    ],
)
def test_tool_calls_are_recognised(text: str, found: str) -> None:
    assert find_tool_call(f"so {text}") == found


def test_talk_of_tools_is_no_tool_call() -> None:
    assert find_tool_call("the function call f(x) maps to functions of x; a tool, 2 < 3") is None


@pytest.mark.parametrize(
    ("text", "fields", "reason"),
    [
        ("<think>a</think>b", {}, None),
        ("<think>a</think>b", {"finish_reason": "length"}, ("truncation", "cut off")),
        ("<think>a</think><tool_call>", {}, ("tool_call", "<tool_call>")),
        ("<think>a", {}, ("structure", "no thinking part and answer")),
        ("<think>a</think>", {}, ("structure", "no thinking part and answer")),
        ("<think>a</think>b</think>c", {}, ("control_marker", "</think>")),
        ("<think>a<|end|></think>b", {}, ("control_marker", "<|end|>")),
        # truncation is asked first
        ("<think>a", {"finish_reason": "length"}, ("truncation", "cut off")),
    ],
)
def test_one_reason_from_the_form(
    make_response: MakeResponse,
    text: str,
    fields: dict[str, str],
    reason: tuple[str, str] | None,
) -> None:
    assert first_reason(make_case(make_response(text, **fields), settings())) == reason


@pytest.mark.parametrize(
    ("thinking", "then", "reason"),
    [
        ("Sum: 2.", "<|channel|>final<|message|>It is 2.", None),
        ("Shall I call to=python? No.", "<|channel|>final<|message|>It is 2.", None),
        (
            "Ask.",
            "<|channel|>commentary to=functions.add <|constrain|>json<|message|>{}<|call|>",
            ("tool_call", "a message to a tool"),
        ),
    ],
)
def test_in_the_harmony_format_the_recipient_tells_a_tool_call(
    make_response: MakeResponse, thinking: str, then: str, reason: tuple[str, str] | None
) -> None:
    text = f"<|channel|>analysis<|message|>{thinking}<|end|><|start|>assistant{then}"
    harmony = settings(thinking=ThinkingFormat(format="harmony"))
    assert first_reason(make_case(make_response(text), harmony)) == reason


def test_a_continuation_is_judged_with_its_prefix(make_response: MakeResponse) -> None:
    response = make_response(
        " two. Answer: 4", student_prefix="<think>\nTwo plus", student_prefix_ids=[7, 8]
    )
    normalised = normalise_response(response, ANSWER)
    assert normalised is not None
    assert normalised.output == "<think>\nTwo plus two.\n</think>\n\n4"
    assert normalised.output_spans == [Span(start=8, end=21), Span(start=32, end=33)]
    assert normalised.text_spans == []
    assert contents(normalised) == ["Two plus two.", "4"]
    assert first_reason(make_case(response, settings(thinking=ANSWER))) is None
    unfinished = make_response(
        " two.", student_prefix="<think>\nTwo plus", student_prefix_ids=[7, 8]
    )
    assert normalise_response(unfinished, ANSWER) is None


def test_longer_than_the_context(
    make_response: MakeResponse, tokenizer: PreTrainedTokenizerBase
) -> None:
    """The prompt is 20 tokens, the response a token a byte, and one that ends the turn."""
    response = make_response("<think>a b\u3000c d</think>e")
    output = "<think>\na b\u3000c d\n</think>\n\ne"
    counter = StudentTokenCounter(tokenizer, None)
    num_tokens = 20 + len(output.encode()) + 1
    spans = [Span(start=8, end=17), Span(start=28, end=29)]
    assert counter.count(response, output, spans) == num_tokens

    def found(max_length: int) -> tuple[str, str] | None:
        return first_reason(make_case(response, settings(max_length=max_length), Tools(counter)))

    assert found(num_tokens) is None
    tight = num_tokens - 1
    assert found(tight) == ("length", f"{num_tokens} tokens, at most {tight} allowed")
    # 4 words between ASCII whitespace: no need to ask the tokenizer
    assert found(3) == ("length", "4 words, at most 3 fit")
    counter.words_per_token = 2  # a token may reach into two words
    assert found(3) == ("length", f"{num_tokens} tokens, at most 3 allowed")


BOUNDS = Repetition(
    max_repeated_lines=2,
    max_repeated_sentences=2,
    max_copied_words=10,
    ngram_words=3,
    max_stretch=5,
)
PARAGRAPH = "one two three four five six seven eight nine ten"
PIECE = "so we add all of them. "


@pytest.mark.parametrize(
    ("rule", "parts", "found"),
    [
        # a line of three words, in both parts together, whatever the spaces in it
        (repetition.repeated_line, ["aa bb cc\nx\naa bb cc", "y"], None),
        (
            repetition.repeated_line,
            ["aa bb cc\nx\naa bb cc", "aa  bb cc"],
            "the line 'aa bb cc' occurs 3 times, at most 2 allowed",
        ),
        (repetition.repeated_line, ["aa bb\n" * 9], None),  # two words do not count
        (repetition.repeated_line, ["0 0 0 1\n| - | a |\n" * 9], None),  # nor numbers and marks
        (repetition.repeated_paragraph, ["\n\n".join([PARAGRAPH] * 2), PARAGRAPH], None),
        (
            repetition.repeated_paragraph,
            [f"{PARAGRAPH}\n \nx\n\n{PARAGRAPH}", "\n\n".join([PARAGRAPH] * 2)],
            f"the paragraph '{PARAGRAPH}' occurs 4 times: 20 words beyond its second copy, "
            "at most 10 allowed",
        ),
        (repetition.repeated_sentence, ["So aa bb. So cc dd. So aa bb."], None),
        (
            repetition.repeated_sentence,
            ["So aa bb. So cc dd. So aa bb. Or e.", "So aa bb."],
            "the sentence 'So aa bb.' occurs 3 times, at most 2 allowed",
        ),
        (repetition.repeated_ngram, [PIECE * 3], None),
        (
            repetition.repeated_ngram,
            [PIECE * 4],
            "'. so we add all of them . so we add all of them' begins a stretch of 14 words that "
            "were said before: 10 of prose, at most 5 allowed",
        ),
        # a run does not cross the parts
        (repetition.repeated_ngram, ["we add", "all we add", "all we add all we add"], None),
        (
            repetition.repeated_ngram,
            ["\u6211\u4eec\u770b" * 6],
            "'\u6211 \u4eec \u770b \u6211 \u4eec \u770b \u6211 \u4eec \u770b \u6211 \u4eec "
            "\u770b' begins a stretch of 12 words that were said before: 6 of prose, "
            "at most 5 allowed",
        ),
    ],
)
def test_bounds_are_the_largest_allowed_counts(
    rule: Callable[..., str | None], parts: list[str], found: str | None
) -> None:
    assert rule(parts, BOUNDS) == found


def test_a_long_text_may_come_back_to_a_thing_more_often() -> None:
    lines = [f"this is line {number}" for number in range(1000)]
    often = ["again and again"] * 52
    assert repetition.repeated_line(["\n".join(lines + often)], Repetition()) is None
    found = repetition.repeated_line(["\n".join(lines + often * 2)], Repetition())
    assert found == "the line 'again and again' occurs 104 times, at most 55 allowed"


def test_a_loop_at_the_end_of_a_part_and_before_it() -> None:
    bounds = Repetition(loop_repeats=3, loop_characters=6)
    assert repetition.ends_in_loop(["so no.no."], bounds) is None
    assert repetition.ends_in_loop(["x", "so no.no.no."], bounds) == (
        "ends with 'no.' over and over"
    )
    assert repetition.ends_in_loop(["so no, no, no, no, no. Fine", "y"], bounds) == (
        "contains 'no ,' over and over"
    )
    assert repetition.ends_in_loop(["so nonononono then", "y"], bounds) == (
        "contains 'no' over and over"
    )


def test_digits_and_marks_count_a_fifth_of_a_loop() -> None:
    bounds = Repetition(loop_repeats=4, loop_characters=20)
    for unit in ("0 ", "-", "0, "):
        size = len(unit.strip())
        assert repetition.ends_in_loop([unit * (99 // size)], bounds) is None
        assert repetition.ends_in_loop([unit * (110 // size)], bounds) is not None


PIECES = ["a", "\u00e9", "e\u0301", "\ufb01", "\uff21", "\U0001f600", " ", "\n", "."]
"""Composed, decomposed, ligature, full width: what Unicode normalisation would change."""
CONTENT = st.lists(st.sampled_from(PIECES), max_size=30).map("".join).filter(str.strip)


@given(CONTENT, CONTENT)
def test_nothing_is_normalised_away_in_what_is_kept(thinking: str, answer: str) -> None:
    text = NORMALISED.open + thinking + NORMALISED.close + answer
    size = len(text.encode())
    response = Response(
        prompt=Prompt(prompt_id="p", messages=[Message(role="user", content="q")]),
        temperature=1.0,
        candidate=0,
        seed=0,
        model="t",
        text=text,
        tokens=TokenLogprobs(token_ids=[0], num_bytes=[size], logprobs=[-1.0]),
        finish_reason="stop",
    )
    case = make_case(response, settings())
    assert case.normalised is not None
    assert case.parts == [thinking.strip(), answer.strip()]
    written = case.normalised.output.encode()
    assert [written[s.start : s.end].decode() for s in case.normalised.output_spans] == case.parts


@pytest.mark.timeout(120)  # a second for all; a scan that is quadratic in the text takes hours
@pytest.mark.parametrize(
    "unit",
    [
        "a",
        "a ",
        "\\[(",
        ".",
        "\n \n",
        "`",
        "$a ",
        "<|",
        '"tool_calls" ',
        "Case {} again. ",
        "\u00e9",
    ],
)
def test_a_megabyte_made_to_be_slow_is_judged(unit: str, make_response: MakeResponse) -> None:
    thinking = "".join(unit.format(number) for number in range(1_000_000 // len(unit)))
    case = make_case(make_response(f"<think>x{thinking}y</think>z"), settings())
    for rule in RULES:
        found = rule.check(case)
        assert found is None or rule.name not in ("structure", "contamination"), rule.name
