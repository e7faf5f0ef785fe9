"""LiveCodeBench's rows, as ``code_generation_lite`` publishes them (arXiv 2403.07974).

The private tests are JSON, or JSON in a pickle, compressed by zlib, in base64.  The pickle is never
unpickled: it is read as the one string that it may hold.
"""

import base64
import binascii
import json
import re
import zlib
from collections.abc import Mapping
from datetime import date
from functools import partial

from megatron_dasd.benchmarks.code_tests import CodeTests, tests_of
from megatron_dasd.benchmarks.questions import Question, text_of

MOST_TEST_BYTES = 256 << 20
"""Of one question's decoded private tests."""
_DAY = re.compile(r"(\d{4})-(\d{2})-(\d{2})")
_PROTOCOL, _FRAME, _MEMOIZE = 0x80, 0x95, 0x94
_TEXT_SIZES = {ord("X"): 4, 0x8C: 1, 0x8D: 8}
"""Opcodes that push text, by the bytes of the length that follows each."""
_MEMO_SIZES = {_MEMOIZE: 0, ord("q"): 1, ord("r"): 4}


def read_question(row: Mapping[str, object], number: int) -> Question:
    """Read a row; the tests are decoded when they are asked for.

    Raises:
        ValueError: a field is missing or not as it is published.
    """
    starter = row.get("starter_code")
    day = _DAY.match(text_of(row, "contest_date"))
    if day is None:
        raise ValueError("field contest_date: expected a day, as 2024-08-03")
    tests = {name: text_of(row, f"{name}_test_cases") for name in ("public", "private")}
    return Question(
        question_id=text_of(row, "question_id"),
        text=text_of(row, "question_content"),
        reference="",
        starter_code=starter.strip() if isinstance(starter, str) else "",
        published=date(*map(int, day.groups())),
        tests=partial(_tests, tests["public"], tests["private"], row.get("metadata")),
    )


def _tests(public: str, private: str, metadata: object) -> CodeTests:
    shown = _parsed("public_test_cases", public)
    found = _parsed("metadata", metadata) if isinstance(metadata, str) and metadata else {}
    function = found.get("func_name") if isinstance(found, dict) else None
    hidden = _parsed("private_test_cases", private_json(private))
    if not isinstance(shown, list) or not isinstance(hidden, list):
        raise ValueError("field public_test_cases or private_test_cases: expected a list of tests")
    return tests_of([*shown, *hidden], len(shown), function if isinstance(function, str) else "")


def private_json(field: str) -> str:
    """The JSON that the field ``private_test_cases`` stands for.

    Raises:
        ValueError: it is neither JSON nor a packed string, or decodes to more than
            :data:`MOST_TEST_BYTES`.
    """
    if field.startswith("["):
        return field
    try:
        packed = base64.b64decode(field, validate=True)
        data = _inflated(packed)
        return string_of_pickle(data)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(f"field private_test_cases: damaged ({error})") from None


def _inflated(packed: bytes) -> bytes:
    stream = zlib.decompressobj()
    data = stream.decompress(packed, MOST_TEST_BYTES)
    if stream.unconsumed_tail:
        raise ValueError(f"field private_test_cases: more than {MOST_TEST_BYTES:,} bytes: refused")
    if not stream.eof:
        raise ValueError("field private_test_cases: is cut off")
    return data


def string_of_pickle(data: bytes) -> str:
    """The string that a pickle consists of.

    Admitted are, in this order: a protocol, a frame, one text, its memo, the end.  A pickle with
    any other opcode is refused before anything of it is read.

    Raises:
        ValueError: the pickle is of anything but one string, or damaged.
    """
    refused = "field private_test_cases: holds a pickle of something other than a string: refused"
    at = 2 if data[:1] == bytes([_PROTOCOL]) else 0
    if data[at : at + 1] == bytes([_FRAME]):
        at += 9
    width = _TEXT_SIZES.get(data[at]) if at < len(data) else None
    if width is None:
        raise ValueError(refused)
    start = at + 1 + width
    end = start + int.from_bytes(data[at + 1 : start], "little")
    memo = _MEMO_SIZES.get(data[end]) if end < len(data) else None
    rest = data[end + 1 + memo :] if memo is not None else data[end:]
    if rest != b".":
        raise ValueError(refused)
    try:
        return data[start:end].decode()
    except UnicodeDecodeError:
        raise ValueError("field private_test_cases: not UTF-8 text") from None


def _parsed(name: str, text: str) -> object:
    try:
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"field {name}: bad JSON") from None
    return value
