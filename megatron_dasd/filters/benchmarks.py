"""An index of benchmarks' texts, to find runs of their words in prompts and responses.

The 13-gram overlap of Brown et al. (arXiv 2005.14165, appendix C): words are compared in lower case
and without punctuation.  A run of words that many of the user's own prompts share is an instruction
and gives no benchmark away.  The index takes some 24 bytes of memory for each word.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from pathlib import Path
from typing import Self

import numpy as np

from megatron_dasd.arrays import Ints
from megatron_dasd.benchmarks.asked import read_questions
from megatron_dasd.benchmarks.table import BENCHMARKS, Benchmark
from megatron_dasd.config.selection import Decontamination
from megatron_dasd.errors import UserError
from megatron_dasd.filters.ngrams import Hashes, run_hashes, words_of
from megatron_dasd.records_io import numbered_rows, parse_line, record_files

TEXT_SUFFIX = ".txt"
NOT_SHOWN = " (not to be shown) of "
"""In what is said of a run of words that must not be shown."""
QUESTION = ", question "
"""Between the title of an evaluated benchmark and the id of its question."""
_WORD = re.compile(r"\w")
_FEWEST_COMMON = 5
"""Different prompts that must share a run at least, however few prompts there are."""
PromptRuns = dict[bytes, tuple[int, ...]]
"""By a hash of each different prompt, the hashes of the benchmarks' runs of words in it."""


@dataclass(frozen=True)
class Benchmarks:
    """The runs of words of all benchmarks."""

    vocabulary: dict[str, int]
    words: Ints
    """The words of all texts as numbers of ``vocabulary``, one text after the other."""
    places: dict[int, tuple[Hashes, Ints]]
    """By length of the runs: their hashes, ascending, and the index in ``words`` of each start."""
    text_starts: Ints
    """[texts] index in ``words`` of the first word of each text."""
    names: list[str]
    """[texts] file and record that each text comes from, or benchmark and question."""
    hidden: frozenset[str] = frozenset()
    """Those of ``names`` whose words are shown nowhere."""
    num_questions: dict[str, int] = dataclass_field(default_factory=dict)
    """Of each evaluated benchmark, by its title."""
    common: frozenset[int] = frozenset()
    """Hashes of the runs that many prompts share."""

    @classmethod
    def read(
        cls,
        paths: Sequence[Path],
        settings: Decontamination,
        evaluated: Mapping[str, Path] | None = None,
    ) -> Self:
        """Read the benchmarks' texts.

        Args:
            paths: files of records of any columns.
            settings: what is searched for in them.
            evaluated: copies of published benchmarks, by name; their questions are searched for.

        Raises:
            UserError: a file cannot be read, or none of its texts is long enough.
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
        hidden: set[str] = set()
        num_questions: dict[str, int] = {}
        for benchmark, name, text in _questions(evaluated or {}):
            num_questions[benchmark.title] = num_questions.get(benchmark.title, 0) + 1
            words = [vocabulary.setdefault(w, len(vocabulary) + 1) for w in _plain_words(text)]
            if len(words) >= min(settings.min_words, settings.ngram_words):
                texts.append(np.array(words, dtype=np.int64))
                names.append(name)
                hidden |= {name} if benchmark.is_private else set()
        index = _index(texts, settings.ngram_words)
        return cls(vocabulary, *index, names, frozenset(hidden), num_questions)

    def without_common_runs(self, prompts: Iterable[str], settings: Decontamination) -> Self:
        """The benchmarks without the runs that many different prompts share.

        Args:
            prompts: the prompts of the user's own data; equal ones count as one.
        """
        return self.without(common_runs([self.runs_in_prompts(prompts)], settings))

    def without(self, common: frozenset[int]) -> Self:
        """The benchmarks without some runs, given by their hashes."""
        return replace(self, common=common)

    def runs_in_prompts(self, prompts: Iterable[str]) -> PromptRuns:
        """Hashes of the benchmarks' runs in each different prompt."""
        found: PromptRuns = {}
        for prompt in prompts:
            plain = list(_plain_words(prompt))
            key = hashlib.blake2b(" ".join(plain).encode(), digest_size=16).digest()
            if key not in found:
                found[key] = tuple({hash_ for _, _, _, hash_ in self._runs_in(plain)})
        return found

    def found_in(self, text: str) -> str | None:
        """Describe a run of a benchmark's words that a text contains; None when there is none.

        A run that overlaps one that many prompts share is passed over: it is the end of an
        instruction and the beginning of what follows.
        """
        plain = list(_plain_words(text))
        runs = list(self._runs_in(plain))
        shared = {
            word
            for start, size, _, hash_ in runs
            if hash_ in self.common
            for word in range(start, start + size)
        }
        for start, size, place, _ in runs:
            if shared.isdisjoint(range(start, start + size)):
                text_number = int(np.searchsorted(self.text_starts, place, side="right")) - 1
                name = self.names[text_number]
                if name in self.hidden:
                    return f"{size} words{NOT_SHOWN}{name}"
                return f"{' '.join(plain[start : start + size])!r} of {name}"
        return None

    def _runs_in(self, plain: Sequence[str]) -> Iterator[tuple[int, int, int, int]]:
        """(first word, words, index in ``words``, hash) of each benchmark's run in a text."""
        words = np.array([self.vocabulary.get(word, 0) for word in plain], dtype=np.int64)
        for size, (hashes, places) in self.places.items():
            runs = run_hashes(words, size)
            at = np.minimum(np.searchsorted(hashes, runs), hashes.size - 1)
            for run in np.flatnonzero(hashes[at] == runs).tolist():
                place = int(places[at[run]])
                if np.array_equal(self.words[place : place + size], words[run : run + size]):
                    yield run, size, place, int(runs[run])


def common_runs(found: Iterable[PromptRuns], settings: Decontamination) -> frozenset[int]:
    """Hashes of the runs that many different prompts share.

    Args:
        found: the runs in prompts; equal prompts, of different items too, count as one.
    """
    different: set[bytes] = set()
    counts: Counter[int] = Counter()
    for runs in found:
        for prompt, hashes in runs.items():
            if prompt not in different:
                different.add(prompt)
                counts.update(hashes)
    many = max(_FEWEST_COMMON, min(settings.common_prompts, len(different) // 10))
    return frozenset(hash_ for hash_, count in counts.items() if count >= many)


def _plain_words(text: str) -> Iterable[str]:
    return filter(_WORD.match, words_of(text.lower()))


def _index(
    texts: Sequence[Ints], ngram_words: int
) -> tuple[Ints, dict[int, tuple[Hashes, Ints]], Ints]:
    """``words``, ``places`` and ``text_starts`` of :class:`Benchmarks`."""
    starts = np.cumsum([0, *(text.size for text in texts)], dtype=np.int64)[:-1]
    found: dict[int, list[tuple[Hashes, Ints]]] = {}
    for text, start in zip(texts, starts.tolist(), strict=True):
        size = min(ngram_words, text.size)
        hashes = run_hashes(text, size)
        found.setdefault(size, []).append((hashes, start + np.arange(hashes.size)))
    places = {}
    for size, pairs in sorted(found.items(), reverse=True):
        hashes, runs = (np.concatenate(column) for column in zip(*pairs, strict=True))
        order = np.argsort(hashes, kind="stable")
        places[size] = hashes[order], runs[order]
    words = np.concatenate(texts) if texts else np.zeros(0, dtype=np.int64)
    return words, places, starts


def _questions(evaluated: Mapping[str, Path]) -> Iterator[tuple[Benchmark, str, str]]:
    """Yield every question of the evaluated benchmarks, with its name."""
    for key, path in evaluated.items():
        benchmark = BENCHMARKS[key]
        if benchmark.read is None:
            for number, (_, text) in enumerate(_texts(path, []), start=1):
                yield benchmark, f"{benchmark.title}{QUESTION}{number}", text
        else:
            for question in read_questions(key, path):
                name = f"{benchmark.title}{QUESTION}{question.question_id}"
                yield benchmark, name, question.text


def _texts(path: Path, fields: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield every text of a benchmark with the name of the record that it comes from."""
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


def _chosen(record: Mapping[str, object], fields: Sequence[str]) -> list[str]:
    if not fields:
        return [value for value in record.values() if isinstance(value, str)]
    chosen = []
    for field in fields:
        value = record.get(field)
        if not isinstance(value, str):
            raise ValueError(f"field {field}: expected a string")
        chosen.append(value)
    return chosen
