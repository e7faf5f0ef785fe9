"""One id, one question: what makes two prompts the same, over files and sources."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from megatron_dasd.errors import UserError
from megatron_dasd.records import Message, Prompt
from megatron_dasd.records_io import OnMalformed, numbered_rows, parse_rows, record_files


def question_of(messages: Sequence[Message]) -> bytes:
    """A hash of what is asked, 16 bytes; whitespace makes no difference."""
    turns = [[turn.role, " ".join(turn.content.split())] for turn in messages]
    return hashlib.blake2b(json.dumps(turns).encode(), digest_size=16).digest()


class PromptIds:
    """The questions seen so far, by id; memory holds a hash for each."""

    def __init__(self) -> None:
        self._questions: dict[str, tuple[bytes, str]] = {}

    def check(self, prompt: Prompt, place: str) -> None:
        """Check that a prompt's id has not been another question's.

        Args:
            place: file and record, for messages.

        Raises:
            UserError: it has; names both places.
        """
        question = question_of(prompt.messages)
        seen, where = self._questions.setdefault(prompt.prompt_id, (question, place))
        if seen != question:
            raise UserError(belongs_to_two(place, prompt.prompt_id, where))


def belongs_to_two(place: str, prompt_id: str, other: str) -> str:
    """The error about an id at a place that belongs to another question too."""
    return (
        f"{place}: field prompt_id: {prompt_id!r} belongs to two questions, the other in {other}; "
        "number the prompts over all files, or leave the ids out"
    )


def read_prompts(path: Path, on_malformed: OnMalformed) -> Iterator[Prompt]:
    """Yield the prompts of a file or folder in order.

    Raises:
        UserError: a file cannot be read, a record is malformed (as ``on_malformed`` says), or one
            id belongs to two questions.
    """
    ids = PromptIds()
    for file in record_files(path):
        for number, prompt in parse_rows(file, numbered_rows(file), Prompt, on_malformed):
            ids.check(prompt, f"{file}: record {number}")
            yield prompt
