"""Cleans what a server says before it is cut, stored or printed: no secrets, one printable line.

A server may repeat what it was sent: the API key, the password of the proxy, in any spelling, whole
or in part.  It may also send what a terminal obeys.
"""

import base64
import re
from collections.abc import Iterable
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

EXCERPT_CHARACTERS = 300
"""Longest text of a server in a message."""
_READ_CHARACTERS = 8192
"""Longest part of a server's text that is looked at."""
_WINDOW = 8
"""Shortest part of a secret that is struck out."""
_LEAST_SECRET = 4
"""Shorter keys are placeholders, and occur in any text."""
_LEAST_CERTAIN = 16
"""Keys of this length do not occur by chance; shorter ones may be words ("EMPTY", "token")."""
_STRUCK = "***"

_UNIT = re.compile(
    r"\\+u([0-9a-f]{4})|(?:\\+x|%)([0-9a-f]{2})|&#x([0-9a-f]{1,5});|&#([0-9]{1,6});|.",
    re.IGNORECASE | re.DOTALL,
)
"""One character, as itself or as JSON, URLs or HTML spell it."""
_USER_INFO = re.compile(r"://[^/\s@]+@")


class Scrubber:
    """Cleans the texts of servers that know some secrets."""

    def __init__(self, key: str = "", proxies: Iterable[str] = ()) -> None:
        """Secrets shorter than four characters are not struck out.

        Args:
            key: the API key; empty for none.
            proxies: URLs of proxies, whose passwords are secrets too.
        """
        found = {key} | {secret for url in proxies for secret in _proxy_secrets(url)}
        self._certain = [secret for secret in found if len(secret) >= _LEAST_CERTAIN]
        self._windows: dict[int, set[str]] = {}
        """Parts of the secrets to strike out, by their length."""
        for secret in found:
            if len(secret) >= _LEAST_SECRET:
                plain = "".join(character for _, _, character in _units(secret))
                size = min(_WINDOW, len(plain))
                parts = (plain[at : at + size] for at in range(len(plain) - size + 1))
                self._windows.setdefault(size, set()).update(parts)

    @classmethod
    def from_environment(cls, key: str) -> "Scrubber":
        """Knows the key and the passwords of the proxies that the environment names."""
        return cls(key, getproxies().values())

    def __call__(self, text: str | bytes, length: int = EXCERPT_CHARACTERS) -> str:
        """The beginning of a text: one line, printable, secrets struck out.

        Args:
            text: bytes are read as UTF-8.
            length: characters that are kept.
        """
        text = text[: 4 * _READ_CHARACTERS]
        if isinstance(text, bytes):
            text = text.decode(errors="replace")
        text = self._strike(" ".join(text.split())[:_READ_CHARACTERS])
        text = _USER_INFO.sub(f"://{_STRUCK}@", text)
        return escaped(text)[:length]

    def holds_secret(self, text: str) -> bool:
        """Whether a text repeats a secret verbatim that it cannot hold by chance; cheap."""
        return any(secret in text for secret in self._certain)

    def _strike(self, text: str) -> str:
        if not self._windows:
            return text
        units = _units(text)
        plain = "".join(character for _, _, character in units)
        struck = bytearray(len(plain))
        for size, parts in self._windows.items():
            for at in range(len(plain) - size + 1):
                if plain[at : at + size] in parts:
                    struck[at : at + size] = b"\x01" * size
        pieces, end = [], 0
        for run in re.finditer(b"\x01+", struck):
            pieces += [text[end : units[run.start()][0]], _STRUCK]
            end = units[run.end() - 1][1]
        return "".join([*pieces, text[end:]])


def escaped(text: str) -> str:
    """A text with unprintable characters written out, line breaks too, e.g. as ``\\x1b``."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def _units(text: str) -> list[tuple[int, int, str]]:
    """(start, end, character in lower case) of a text, its escapes resolved.

    Blanks, backslashes and unprintable characters are left out: a secret may be broken by them.
    """
    units = []
    for match in _UNIT.finditer(text):
        code = match[1] or match[2] or match[3]
        number = int(code, 16) if code else int(match[4]) if match[4] else None
        character = match[0] if number is None else chr(min(number, 0x10FFFF))
        if character.isprintable() and character not in " \\":
            lower = character.lower() if character.isascii() else character
            units.append((match.start(), match.end(), lower))
    return units


def _proxy_secrets(url: str) -> list[str]:
    """The password in a proxy's URL, and the header in which it is sent."""
    try:
        parts = urlsplit(url)
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
    except ValueError:
        return []
    if not password:
        return []
    return [password, base64.b64encode(f"{user}:{password}".encode()).decode()]
