"""Reasoning texts whose sentences were marked by hand, and a count of a splitter's mistakes.

``PYTHONPATH=. python tests/text/marked_sentences.py`` compares ``text.sentences`` with those of the
well-kept splitters that are installed (``pip install pysbd sentencex syntok blingfire numpy``); the
result stands in docs/divergence.md.
"""
# ruff: noqa: E501, RUF001 -- lines of texts; full-width marks and other scripts are meant

import importlib
import sys
import time
from collections.abc import Callable, Sequence

MARK = "¦"
"""Stands where a sentence ends and another begins."""
MARKED = [
    "We need to find all n such that n^2 + 3n = 40. ¦So n = 5 or n = -8. ¦Check: 25 + 15 = 40. ¦Good!",
    "Pi is about 3.14159. ¦So the area is 3.14 * 2.5^2 = 19.6, i.e. about 20. ¦Fine.",
    "Hmm... that can't be right. ¦Wait, maybe it is? ¦Let me see.",
    "Steps:\n¦1. Add the numbers.\n¦2. Divide by 2.\n¦   a) carefully\n¦3. Done.",
    "So \\(f(x) = x^2. g\\) is odd. ¦Then \\[\n a = b.\n c = d.\n\\] holds. ¦Next.",
    "Let $a. b$ be given. ¦It costs $5. ¦Then $6 is paid.",
    "$$\nx = 1. \\quad y = 2.\n$$ ¦We are done.",
    "Code:\n¦```python\n¦def f(x):\n¦    return x / 2.  # half. Always\n¦print(f(3.0))\n¦```\n¦That prints 1.5.",
    "Call `os.path. join(a)` first. ¦Then `x = 1. ` follows.",
    "By Smith et al. this holds, cf. Thm. 3 and Fig. 2. ¦See also eq. 5. ¦Dr. Hu vs. Mr. Li agree.",
    "It ends at 5 p.m. on Monday. ¦At 6 p.m. we go. ¦The U.S. team won.",
    'He said "no." ¦Then (he left.) ¦**Bold.** ¦And _so._ ¦End',
    "答案是3。¦所以对！¦真的吗？¦是。",
    "「そうです。」¦次に進みます。¦はい",
    "First paragraph\n\n¦Second paragraph.\n\n\n¦Third",
    "The answer is 5.¦\nDone".replace("¦\n", "\n¦"),
    "n = 7: 7^2 = 49. ¦49 mod 12 = 1. ¦n = 11: 121 mod 12 = 1. ¦OK.",
    "We use e.g. 1.5, 2.5, etc. and get 4.0. ¦Then we use approx. 3 more.",
    "Is it true that p | q? ¦Yes! ¦But not for p = 2... ¦Why?",
    "v1.2.3 is out. ¦Visit example.com today. ¦Use f.read() here.",
    "| a | b. |\n¦|---|---|\n¦| 1. | 2. |\n",
    "Thus sum_{i=1}^{n} i = n(n+1)/2. ¦In particular, for n = 10: 55. ¦No. 3 is wrong, no. ¦Right.",
    "Case 1. x > 0. ¦Then |x| = x. ¦Case 2. x < 0. ¦Then |x| = -x.",
    "Für n = 2 gilt z.B. das. ¦Größe? ¦Ja.",
    "So the probability is 0.25 (i.e., 1/4). ¦Hence 75% remain. ¦Answer: 3/4.",
    "他说：“是的。”¦然后走了。¦真的？！¦式子是x = 3.5；所以y=2。¦他说……好吧。¦完",
    "式は x = 3.5。¦よって y = 2！¦本当？¦「いいえ。」¦これは…だと思う。¦え？！¦はい．¦x＝３．１４です．¦終わり",
    "هل هذا صحيح؟ ¦نعم. ¦الجواب هو 3.5. ¦لماذا؟¦لأن x = 2، وهذا يكفي! ¦انتهى",
    "यह सही है। ¦उत्तर 3.5 है।¦क्या आप सहमत हैं? ¦हाँ! ¦श्लोक समाप्त॥ ¦अब x = 2 रखें। ¦ठीक",
    "کیا یہ درست ہے؟ ¦جی ہاں۔ ¦جواب 3.5 ہے۔¦کیوں؟ ¦کیونکہ x = 2 ہے۔ ¦ختم",
    "เราต้องหาค่า x ก่อน\n¦คำตอบคือ 3.5 บาท\n¦ถูกต้องไหม? ¦ใช่\n¦จบ",
]
LONG_CHARACTERS = 40_000
"""The speed is measured on the texts over and over: as long as a response of 10K tokens."""
Splitter = Callable[[str], Sequence[str]]


def borders(pieces: Sequence[str], text: str) -> tuple[set[int], bool]:
    """Where pieces end, in characters other than whitespace; and whether they joined are the text.

    Whitespace does not count, since splitters differ in where they put it.
    """
    ends, seen = set(), 0
    for piece in pieces:
        seen += sum(not c.isspace() for c in piece)
        ends.add(seen)
    return ends, "".join(pieces) == text


def mistakes(split: Splitter) -> tuple[int, int, bool]:
    """(borders missed, borders too many, whether nothing was lost) over the marked texts."""
    missed = too_many = 0
    lossless = True
    for marked in MARKED:
        text = marked.replace(MARK, "")
        expected, _ = borders(marked.split(MARK), text)
        found, whole = borders([piece for piece in split(text) if piece], text)
        missed += len(expected - found)
        too_many += len(found - expected)
        lossless &= whole
    return missed, too_many, lossless


def num_borders() -> int:
    """How many sentences are marked."""
    return sum(len(marked.split(MARK)) for marked in MARKED)


def _splitters() -> dict[str, Callable[[], Splitter]]:
    def pysbd() -> Splitter:
        return importlib.import_module("pysbd").Segmenter(language="en", clean=False).segment

    def sentencex() -> Splitter:
        segment = importlib.import_module("sentencex").segment
        return lambda text: list(segment("en", text))

    def syntok() -> Splitter:
        segmenter = importlib.import_module("syntok.segmenter")
        return lambda text: [
            "".join(token.spacing + token.value for token in sentence)
            for paragraph in segmenter.analyze(text)
            for sentence in paragraph
        ]

    def blingfire() -> Splitter:
        split = importlib.import_module("blingfire").text_to_sentences
        return lambda text: split(text).split("\n")

    def own() -> Splitter:
        return importlib.import_module("megatron_dasd.text.sentences").split_sentences

    return {
        "text.sentences": own,
        "pysbd": pysbd,
        "sentencex": sentencex,
        "syntok": syntok,
        "blingfire": blingfire,
    }


def main() -> None:
    """Print the table, a row a splitter."""
    text = "\n".join(marked.replace(MARK, "") for marked in MARKED) + "\n"
    print(f"| splitter | missed of {num_borders()} | too many | joined are the text | MB/s |")
    print("|---|---|---|---|---|")
    for name, make in _splitters().items():
        try:
            split = make()
        except ImportError:
            print(f"{name}: is not installed", file=sys.stderr)
            continue
        missed, too_many, lossless = mistakes(split)
        long = text * (LONG_CHARACTERS // len(text))
        started = time.process_time()
        split(long)
        rate = len(long) / (time.process_time() - started) / 1e6
        print(f"| {name} | {missed} | {too_many} | {'yes' if lossless else 'no'} | {rate:.3f} |")


if __name__ == "__main__":
    main()
