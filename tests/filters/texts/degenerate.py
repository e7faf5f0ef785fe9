"""Degenerate texts made by procedure: what a model writes that is stuck.

Each begins with, or lies inside, text that says something; a loop's words are drawn anew every time.
"""
# ruff: noqa: E501, E731, RUF001, SIM905 -- lines of texts; small generators

import random
from collections.abc import Callable

Maker = Callable[[random.Random], str]
_WORDS = (
    "the sum of all terms is then equal to our first value because we already know that each side "
    "of this equation must be positive so let us check whether a smaller number could also work here "
    "and compare it with what was found before wait maybe I should recompute every coefficient again "
    "using another method since both results look different from those in question therefore factor "
    "angle triangle radius point line length area root prime divisor remainder even odd between"
).split()
_HAN = "我们需要先计算这个方程的解然后再检查结果是否正确因为左边等于右边所以可以得到新的数值但是还要考虑其他情况"
_COUNT = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()


def sentence(chance: random.Random, words: int) -> str:
    """A sentence of so many words."""
    return " ".join(chance.choice(_WORDS) for _ in range(words)).capitalize() + "."


def prose(chance: random.Random, sentences: int) -> str:
    """Sentences of 6 to 16 words."""
    return " ".join(sentence(chance, chance.randint(6, 16)) for _ in range(sentences))


def in_words(number: int) -> str:
    """A number below 1,000 in English."""
    if number >= 100:
        rest = f" {in_words(number % 100)}" if number % 100 else ""
        return f"{_COUNT[number // 100 - 1]} hundred{rest}"
    if number < 20:
        return _COUNT[number - 1]
    return _TENS[number // 10 - 2] + (f"-{_COUNT[number % 10 - 1]}" if number % 10 else "")


def inside(chance: random.Random, stuck: str) -> str:
    """What is stuck after some good sentences, and in half of the texts before some."""
    after = prose(chance, chance.randint(2, 10)) if chance.random() < 0.5 else ""
    return f"{prose(chance, chance.randint(2, 20))} {stuck} {after}".strip()


def edited(chance: random.Random, text: str, share: float) -> str:
    return " ".join(
        chance.choice(_WORDS) if chance.random() < share else w for w in text.split(" ")
    )


def one_character(chance: random.Random) -> str:
    return (
        f"{prose(chance, 5)} {chance.choice('aA0!.=-哈啊😀#_ｗ') * chance.randint(1_500, 20_000)}"
    )


def _looped(low: int, high: int, repeats: tuple[int, int]) -> Maker:
    def make(chance: random.Random) -> str:
        words = [chance.choice(_WORDS) for _ in range(chance.randint(low, high))]
        piece = " ".join(words) + chance.choice(("", ".", ",", " =", "\n", "\n\n", "?"))
        loop = f"{piece} " * chance.randint(*repeats)
        return inside(chance, loop)

    return make


def near_loop(chance: random.Random) -> str:
    piece = prose(chance, chance.randint(1, 5))
    share = chance.choice((0.02, 0.05, 0.1))
    return inside(
        chance, " ".join(edited(chance, piece, share) for _ in range(chance.randint(25, 80)))
    )


def two_sentences(chance: random.Random) -> str:
    pair = [sentence(chance, chance.randint(6, 14)) for _ in range(2)]
    rounds = chance.randint(20, 80)
    return inside(chance, " ".join(edited(chance, s, 0.04) for _ in range(rounds) for s in pair))


def few_sentences(chance: random.Random) -> str:
    """A few sentences in any order."""
    few = [sentence(chance, chance.randint(5, 12)) for _ in range(chance.randint(3, 8))]
    separator = chance.choice((" ", "\n", "\n\n"))
    return inside(
        chance, separator.join(chance.choice(few) for _ in range(chance.randint(60, 200)))
    )


def _counter_line(chance: random.Random, number: Callable[[int], str]) -> str:
    before, after = (
        sentence(chance, chance.randint(2, 6))[:-1],
        sentence(chance, chance.randint(3, 9)),
    )
    separator = chance.choice((" ", "\n", "\n\n"))
    lines = [f"{before} {number(k)} {after}" for k in range(1, chance.randint(45, 200))]
    return inside(chance, separator.join(lines))


def counter(chance: random.Random) -> str:
    first, step = chance.choice((0, 1, 17, 1000)), chance.choice((1, 1, 2, 10))
    return _counter_line(chance, lambda k: str(first + k * step))


def two_counters(chance: random.Random) -> str:
    noun = chance.choice(_WORDS)
    return _counter_line(chance, lambda k: f"{k} and {noun} {2 * k + 1}")


def counter_in_words(chance: random.Random) -> str:
    return _counter_line(chance, in_words)


def lettered_counter(chance: random.Random) -> str:
    return _counter_line(chance, lambda k: f"x_{k}")


def _copies(chance: random.Random, head: Callable[[int], str]) -> str:
    paragraph = prose(chance, chance.randint(3, 12))
    copies = [head(k) + paragraph for k in range(chance.randint(4, 15))]
    between = prose(chance, 2) if chance.random() < 0.3 else ""
    joined = f"\n\n{between}\n\n".join(copies) if between else "\n\n".join(copies)
    return f"{prose(chance, 6)}\n\n{joined}\n\n{prose(chance, 3)}"


def copied_paragraph(chance: random.Random) -> str:
    return _copies(chance, lambda k: "")


def renumbered_paragraph(chance: random.Random) -> str:
    head = chance.choice(("{}. ", "Step {}: ", "**Attempt {}**\n", "({}) "))
    return _copies(chance, lambda k: head.format(k + 1))


def tail_loop(chance: random.Random) -> str:
    """A loop after a text that is long and good."""
    piece = prose(chance, chance.randint(1, 6))
    return (
        f"{prose(chance, chance.randint(150, 600))} {f'{piece} ' * chance.randint(20, 60)}".strip()
    )


def _han(chance: random.Random, low: int, high: int) -> str:
    return "".join(chance.choice(_HAN) for _ in range(chance.randint(low, high)))


def han_loop(chance: random.Random) -> str:
    piece = _han(chance, 2, 40) + chance.choice(("", "，", "。", "！"))
    return (
        _han(chance, 50, 300)
        + "。"
        + piece * chance.randint(-(-400 // len(piece)), 1500 // len(piece) + 60)
    )


def han_counter(chance: random.Random) -> str:
    a, b = _han(chance, 2, 8), _han(chance, 4, 16)
    return (
        _han(chance, 50, 300)
        + "。"
        + "".join(f"{a}{k}{b}。" for k in range(1, chance.randint(45, 200)))
    )


def han_near_loop(chance: random.Random) -> str:
    piece = _han(chance, 12, 60)
    edited = lambda: "".join(chance.choice(_HAN) if chance.random() < 0.03 else c for c in piece)
    return (
        _han(chance, 50, 300)
        + "。"
        + "".join(f"{edited()}。" for _ in range(chance.randint(30, 90)))
    )


def code_loop(chance: random.Random) -> str:
    """One function over and over under another number."""
    noun, verb = chance.sample(_WORDS, 2)
    body = f"def {verb}_{{}}(values):\n    {noun} = sorted(values)\n    if not {noun}:\n        return None\n    return {noun}[0] + len(values)\n\n"
    return "```python\n" + "".join(body.format(k) for k in range(chance.randint(30, 120))) + "```"


def numbers_stuck(chance: random.Random) -> str:
    piece = ", ".join(str(chance.randint(0, 99)) for _ in range(chance.randint(1, 5)))
    return f"{prose(chance, 4)} The values are {', '.join([piece] * chance.randint(600, 2000))}"


def table_stuck(chance: random.Random) -> str:
    words = [chance.choice(_WORDS) for _ in range(chance.randint(3, 6))]
    row = "| " + " | ".join(words) + " |\n"
    return f"{prose(chance, 4)}\n\n{row * chance.randint(60, 300)}\n{prose(chance, 2)}"


def equation_stuck(chance: random.Random) -> str:
    a, b, c = (chance.randint(2, 30) for _ in range(3))
    line = f"x^{{{a}}} + {b}x - \\frac{{{c}}}{{{a}}} = {a}x^{{{b}}} \\\\\n"
    return inside(chance, "\\begin{align}\n" + line * chance.randint(40, 150))


def answer_again(chance: random.Random) -> str:
    answer = chance.choice(
        (
            "The final answer is {}.",
            "**Answer: {}**",
            "\\boxed{{{}}}",
            "So the answer is \\boxed{{{}}}. Done.",
        )
    )
    lines = [answer.format(chance.randint(2, 500))] * chance.randint(60, 300)
    return inside(chance, chance.choice(("\n", "\n\n", " ")).join(lines))


def doubts(chance: random.Random) -> str:
    """The doubts of a chain of thought, in groups of a few, over and over."""
    few = ("Wait, that is not right.", "Let me check again.", "Hmm.", "But the problem says otherwise.",
           "So the answer is 12.", "Let me recompute.", "No, it is still 12.", "Actually, yes.")  # fmt: skip
    return inside(chance, " ".join(chance.choice(few) for _ in range(chance.randint(120, 400))))


def growing(chance: random.Random) -> str:
    """Each copy a word longer than the one before."""
    words = [chance.choice(_WORDS) for _ in range(chance.randint(40, 90))]
    return inside(chance, "\n".join(" ".join(words[:k]) for k in range(5, len(words))))


def whole_again(chance: random.Random) -> str:
    """A long solution, from its first word to its last, several times."""
    return "\n\n".join([prose(chance, chance.randint(40, 120))] * chance.randint(4, 8))


DEGENERATE: dict[str, Maker] = {
    "one character": one_character,
    "loops of 1 to 3 words": _looped(1, 3, (300, 1500)),
    "loops of 4 to 12 words": _looped(4, 12, (60, 300)),
    "loops of 13 to 40 words": _looped(13, 40, (20, 60)),
    "loops of 41 to 150 words": _looped(41, 150, (8, 30)),
    "loops of 151 to 500 words": _looped(151, 500, (4, 12)),
    "near-loops": near_loop,
    "two sentences, edited": two_sentences,
    "few sentences in any order": few_sentences,
    "counters": counter,
    "two counters": two_counters,
    "counters in words": counter_in_words,
    "counters in names": lettered_counter,
    "copied paragraphs": copied_paragraph,
    "renumbered paragraphs": renumbered_paragraph,
    "a loop after a long text": tail_loop,
    "Chinese loops": han_loop,
    "Chinese counters": han_counter,
    "Chinese near-loops": han_near_loop,
    "one function renumbered": code_loop,
    "numbers stuck": numbers_stuck,
    "rows of a table stuck": table_stuck,
    "equations stuck": equation_stuck,
    "the answer again": answer_again,
    "doubts": doubts,
    "growing copies": growing,
    "a solution again": whole_again,
}
