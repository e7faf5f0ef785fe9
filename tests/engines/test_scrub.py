"""What a server says: no secret in any spelling, nothing that a terminal obeys."""

import base64
import json
from urllib.parse import quote

import pytest

from megatron_dasd.engines.scrub import Scrubber, escaped

KEY = "sk-SECRET-0123456789abcdef"
PASSWORD = "p@ss/word-of-proxy"
PROXY = f"http://user:{quote(PASSWORD, safe='')}@proxy:3128"
SAID = {
    "verbatim": KEY,
    "lower case": KEY.lower(),
    "the first half": KEY[:14],
    "the second half": KEY[12:],
    "JSON escapes": "".join(f"\\u{ord(c):04x}" for c in KEY),
    "JSON in JSON": json.dumps("".join(f"\\u{ord(c):04x}" for c in KEY)),
    "URL escapes": "".join(f"%{ord(c):02X}" for c in KEY),
    "HTML escapes": "".join(f"&#{ord(c)};" for c in KEY),
    "HTML escapes in hex": "".join(f"&#x{ord(c):x};" for c in KEY),
    "some escaped": KEY.replace("S", "\\u0053").replace("-", "%2d"),
    "broken by a line": KEY[:9] + "\r\n" + KEY[9:],
    "broken by control characters": "\x1b".join(KEY),
    "broken by characters of no width": "\u200b".join(KEY),
    "twice": KEY + KEY,
    "after many blanks": " " * 5000 + KEY,
    "the proxy's URL": PROXY,
    "the proxy's password": PASSWORD,
    "the proxy's header": base64.b64encode(f"user:{PASSWORD}".encode()).decode(),
    "another's password": "http://me:hunter2hunter2@elsewhere/",
}


@pytest.mark.parametrize("name", SAID)
@pytest.mark.parametrize("around", [("", ""), ("bad key ", "!"), ("x" * 290, ""), ("x" * 8180, "")])
def test_secrets_are_struck_out_in_every_spelling(name: str, around: tuple[str, str]) -> None:
    scrub = Scrubber(KEY, [PROXY])
    for text in (around[0] + SAID[name] + around[1],):
        for given in (text, text.encode()):
            clean = scrub(given, 10_000)
            seen = "".join(clean.split()).lower()
            for secret in (KEY, PASSWORD, "hunter2hunter2"):
                parts = [secret[at : at + 8].lower() for at in range(len(secret) - 7)]
                assert not any(part in seen for part in parts)
            assert "***" in clean or len(around[0]) > 8000
            assert clean.startswith(around[0][:8000])


@pytest.mark.parametrize(
    ("said", "clean"),
    [
        (b"\x1b[2J\x1b]0;owned\x07 no", "\\x1b[2J\\x1b]0;owned\\x07 no"),
        (b"one\r\n two\t three", "one two three"),
        (b"\xff\xfe\x00", "\ufffd\ufffd\\x00"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\ud800", "\\ud800"),
        ("\x9b31m", "\\x9b31m"),
        ("schlüssel 鍵", "schlüssel 鍵"),
        (b"x" * 5_000_000, "x" * 300),
    ],
)
def test_a_text_is_one_printable_line(said: str | bytes, clean: str) -> None:
    assert Scrubber()(said) == clean
    assert escaped(clean) == clean


@pytest.mark.parametrize("key", ["", "x", "key"])
def test_a_placeholder_is_no_secret(key: str) -> None:
    assert Scrubber(key)("x is the key of examples") == "x is the key of examples"


def test_a_stored_text_may_hold_a_word_and_not_a_key() -> None:
    assert not Scrubber("EMPTY").holds_secret("the set is EMPTY")
    assert Scrubber(KEY).holds_secret(f"the key is {KEY}")
