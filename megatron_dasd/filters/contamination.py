"""Texts of benchmarks in prompts and responses, told by runs of words.

The 13-gram overlap of Brown et al. (arXiv 2005.14165, appendix C): words are compared in lower case
and without marks.  Memory is some 24 bytes for each word of the benchmarks.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from megatron_dasd.config.selection import Decontamination
from megatron_dasd.errors import UserError
from megatron_dasd.filters.ngrams import Hashes, Ints, run_hashes, words_of
from megatron_dasd.records_io import numbered_rows, parse_line, record_files

TEXT_SUFFIX = ".txt"
_WORD = re.compile(r"\w")


@dataclass(frozen=True)
class Benchmarks:
    """The runs of words of all benchmarks."""

    vocabulary: dict[str, int]
    words: Ints
    """Numbers of the words of all texts, one text after the other."""
    places: dict[int, tuple[Hashes, Ints]]
    """By length of the run: ascending hashes, and where in ``words`` each run begins."""
    text_starts: Ints
    """[texts] where in ``words`` each text begins."""
    names: list[str]
    """[texts] file and record."""

    @classmethod
    def read(cls, paths: Sequence[Path], settings: Decontamination) -> Self:
        """Read the benchmarks' texts.

        Raises:
            UserError: a file cannot be read, or holds no text that could be looked for.
        """
        vocabulary: dict[str, int] = {}
        texts: list[Ints] = []
        names: list[str] = []
        for path in paths:
            before = len(names)
            for name, text in _texts(path, settings.fields):
                words = [vocabulary.setdefault(w, len(vocabulary) + 1) for w in _plain_words(text)]
                if len(words) >= min(settings.min_words, settings.ngram_words):
                    texts.append(np.array(words, dtype=np.int64))
                    names.append(name)
            if len(names) == before:
                raise UserError(
                    f"{path}: no text of at least {settings.min_words} words to look for"
                )
        return cls(vocabulary, *_index(texts, settings.ngram_words), names)

    def found_in(self, text: str) -> str | None:
        """A run of a benchmark's words that stands in a text, in words; None without any."""
        plain = list(_plain_words(text))
        words = np.array([self.vocabulary.get(word, 0) for word in plain], dtype=np.int64)
        for size, (hashes, places) in self.places.items():
            runs = run_hashes(words, size)
            at = np.minimum(np.searchsorted(hashes, runs), hashes.size - 1)
            for run in np.flatnonzero(hashes[at] == runs).tolist():
                place = int(places[at[run]])
                if np.array_equal(self.words[place : place + size], words[run : run + size]):
                    text_number = int(np.searchsorted(self.text_starts, place, side="right")) - 1
                    shown = " ".join(plain[run : run + size])
                    return f"{shown!r} of {self.names[text_number]}"
        return None


def _plain_words(text: str) -> Iterable[str]:
    return filter(_WORD.match, words_of(text.lower()))


def _index(
    texts: Sequence[Ints], ngram_words: int
) -> tuple[Ints, dict[int, tuple[Hashes, Ints]], Ints]:
    """``words``, ``places`` and ``text_starts`` of :class:`Benchmarks`."""
    starts = np.cumsum([0, *(text.size for text in texts)])[:-1]
    found: dict[int, list[tuple[Hashes, npt.NDArray[Any]]]] = {}
    for text, start in zip(texts, starts.tolist(), strict=True):
        size = min(ngram_words, text.size)
        hashes = run_hashes(text, size)
        found.setdefault(size, []).append((hashes, start + np.arange(hashes.size)))
    places = {}
    for size, pairs in sorted(found.items(), reverse=True):
        hashes, runs = (np.concatenate(column) for column in zip(*pairs, strict=True))
        order = np.argsort(hashes, kind="stable")
        places[size] = hashes[order], runs[order]
    return np.concatenate(texts), places, starts


def _texts(path: Path, fields: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield every text of a benchmark with the name of its place."""
    for file in [path] if path.suffix == TEXT_SUFFIX else record_files(path):
        for number, row in numbered_rows(file):
            name = f"{file.name}, record {number}"
            if file.suffix == TEXT_SUFFIX and isinstance(row, str):
                yield name, row
                continue
            try:
                record = parse_line(row) if isinstance(row, str) else row
                yield name, "\n".join(_chosen(record, fields))
            except ValueError as error:
                raise UserError(f"{file}: record {number}: {error}") from None


def _chosen(record: dict[str, Any], fields: Sequence[str]) -> list[str]:
    if not fields:
        return [value for value in record.values() if isinstance(value, str)]
    for field in fields:
        if not isinstance(record.get(field), str):
            raise ValueError(f"field {field}: wanted a text")
    return [record[field] for field in fields]
