"""Made-up chains of thought, in the manner of a reasoning model's."""

import random

_STEPS = [
    "We need to find the number of integers n such that n^2 + {a}n is at most {b}. ",
    "Let me check this with n = {a}: we get {a}^2 = {b}, which is about {a}.{b} times as much. ",
    "Wait, that is not right, i.e. the sign of the {a}th term is wrong. ",
    "So the answer is \\(x = \\frac{{{a}}}{{{b}}}\\), and hence x is smaller than {b}.\n\n",
    "Hmm... let me think about the case k = {a} again.\n",
    "\\[\n\\sum_{{i={a}}}^{{n}} i^{{{b}}} = \\frac{{n(n+{a})}}{{{b}}}\n\\]\n",
    "{a}. First, note that f is increasing on the interval from {a} to {b}.\n",
    "```python\ndef f{a}(x):\n    return x * {b}  # double. Done\n```\n",
    "Therefore, by induction on the number {a} of edges, the claim holds for all graphs. ",
    "Is it true for every prime that divides {b}? Yes, since {a} is not a square modulo {b}! ",
    "Consider the triangle with sides {a}, {b} and a right angle at the point C, e.g. by Thales. ",
    "The remainder of {b} divided by {a} does not change when both are multiplied by {a}. ",
]


def chain_of_thought(chance: random.Random, num_characters: int) -> str:
    """About that many characters (all ASCII), ending with a full sentence."""
    steps, size = [], 0
    while size < num_characters:
        step = chance.choice(_STEPS).format(a=chance.randint(2, 999), b=chance.randint(2, 999))
        steps.append(step)
        size += len(step)
    return "".join(steps).strip()
