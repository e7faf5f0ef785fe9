"""Shards of compressed documents with the teacher's likeliest tokens; each is there whole or not.

A shard is a file of compressed documents, and a JSON file with its facts and its digest, which is
written last.  A run that was killed goes on after the shards that exist.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from megatron_dasd.artifacts import write_atomic
from megatron_dasd.data.top_codec import encode_top
from megatron_dasd.manifests import file_sha256, hashing_threads

SHARD_TOKENS = 65_536
"""A shard ends with the document that reaches so many."""


@dataclass(frozen=True, kw_only=True)
class ShardFacts:
    """What is known of a shard beside its content."""

    sha256: str
    sizes: list[int]
    """[documents] compressed bytes."""
    mass: float
    """Sum over places of the probabilities of the known tokens."""
    places: int
    """Places with known tokens."""
    unscored: dict[str, int] = field(default_factory=dict)
    """Documents that no server answered well for, by the last fault."""
    faults: dict[str, int] = field(default_factory=dict)
    """Failed attempts, by fault."""
    teachers: dict[str, str] = field(default_factory=dict)
    """Names of the teachers, by domain."""


_facts = msgspec.json.Decoder(ShardFacts)


class ShardBuilder:
    """Gathers the documents of one shard, compressed."""

    def __init__(self, path: Path) -> None:
        """Nothing is written before :meth:`write`."""
        self._path = path
        self._documents: list[bytes] = []
        self._mass = 0.0
        self._places = 0

    def add(self, ids: npt.NDArray[np.integer], logprobs: npt.NDArray[np.float32]) -> None:
        """Add the next document, ``[tokens, k]`` each."""
        known = logprobs[:, 0] > -np.inf
        self._mass += float(np.exp(logprobs[known].astype(np.float64)).sum())
        self._places += int(known.sum())
        self._documents.append(encode_top(ids, logprobs))

    def write(
        self,
        unscored: Mapping[str, int] | None = None,
        faults: Mapping[str, int] | None = None,
        teachers: Mapping[str, str] | None = None,
    ) -> None:
        """Write the shard; see :class:`ShardFacts`."""
        data = b"".join(self._documents)
        facts = ShardFacts(
            sha256=hashlib.sha256(data).hexdigest(),
            sizes=list(map(len, self._documents)),
            mass=self._mass,
            places=self._places,
            unscored=dict(unscored or {}),
            faults=dict(faults or {}),
            teachers=dict(teachers or {}),
        )
        write_atomic(self._path, data)
        write_atomic(_facts_file(self._path), json.dumps(asdict(facts)).encode())


def plan_shards(lengths: npt.NDArray[np.integer]) -> Iterator[slice]:
    """Documents of each shard.

    Args:
        lengths: [documents] tokens of each.
    """
    start = num_tokens = 0
    for number, length in enumerate(lengths.tolist()):
        num_tokens += length
        if num_tokens >= SHARD_TOKENS or number == len(lengths) - 1:
            yield slice(start, number + 1)
            start, num_tokens = number + 1, 0


def made_shards(shards: list[Path]) -> list[bool]:
    """Whether each shard holds what an earlier attempt wrote."""
    with hashing_threads() as threads:
        return list(threads.map(_is_made, shards))


@dataclass
class Totals:
    """Facts of all shards together."""

    sizes: list[npt.NDArray[np.int32]] = field(default_factory=list)
    mass: float = 0.0
    places: int = 0
    unscored: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    teachers: dict[str, str] = field(default_factory=dict)

    @property
    def mean_mass(self) -> float:
        """Probability of the known tokens, mean over places; 0 where none is known."""
        return self.mass / max(1, self.places)


def total_facts(shards: list[Path]) -> Totals:
    """Sum the facts of finished shards."""
    total = Totals()
    for shard in shards:
        facts = _read_facts(shard)
        total.sizes.append(np.array(facts.sizes, np.int32))
        total.mass += facts.mass
        total.places += facts.places
        total.unscored.update(facts.unscored)
        total.faults.update(facts.faults)
        total.teachers |= facts.teachers
    return total


def _facts_file(shard: Path) -> Path:
    return shard.with_suffix(".json")


def _read_facts(shard: Path) -> ShardFacts:
    return _facts.decode(_facts_file(shard).read_bytes())


def _is_made(shard: Path) -> bool:
    try:
        return _read_facts(shard).sha256 == file_sha256(shard)
    except (OSError, ValueError, msgspec.MsgspecError):
        return False
