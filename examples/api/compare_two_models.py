#!/usr/bin/env python3
"""From two models and ten prompts to classes of sentences, a coloured response and a selection.

compare_two_models.py TEACHER STUDENT [--prompts FILE] [--max-new-tokens N]

TEACHER and STUDENT are Hugging Face folders; FILE has a prompt on each line.
"""

import argparse
from collections import Counter
from pathlib import Path

import megatron_dasd as dasd

PROMPTS = """\
What is 17 + 25?
Why is the sky blue?
Name three prime numbers above 50.
Is 91 a prime number?
How many minutes are there in a week?
What is the area of a circle of radius 3?
Translate "good morning" into French.
Sort these numbers: 9, 2, 7, 4.
What follows 1, 1, 2, 3, 5, 8?
A train travels 120 km in 90 minutes. How fast is it?
"""
COLOURS = {"teacher": "\033[32m", "student": "\033[31m", "shared": "", "boosted": "\033[35m"}
PLAIN = "\033[0m"


def main() -> None:
    """Sample two responses a prompt, compare, select, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("teacher", type=Path)
    parser.add_argument("student", type=Path)
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    options = parser.parse_args()
    text = options.prompts.read_text() if options.prompts else PROMPTS
    prompts = [line for line in text.splitlines() if line.strip()]
    teacher, student = dasd.Model(options.teacher), dasd.Model(options.student)

    asked, responses = [], []
    for prompt in prompts:
        written = teacher.sample(prompt, max_new_tokens=options.max_new_tokens)
        for response, own in written:
            if response:
                sentences = dasd.compare_sentences(response, own, student.read(prompt, response))
                asked.append(prompt)
                responses.append(sentences)

    classes = Counter(one.provenance for sentences in responses for one in sentences)
    print("sentences:", ", ".join(f"{name} {count}" for name, count in classes.most_common()))
    kept = dasd.select(responses, prompts=asked)
    print(f"kept: {sum(kept)} of {len(kept)} responses\n")
    best = max(range(len(kept)), key=lambda i: sum(s.provenance == "teacher" for s in responses[i]))
    print(f"{asked[best]}\n")
    print("".join(f"{COLOURS[one.provenance]}{one.text}{PLAIN}" for one in responses[best]))


if __name__ == "__main__":
    main()
