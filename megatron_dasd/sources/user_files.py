"""The files behind a user's path, each with the split that it belongs to.

A folder may be a stage's, one that ``datasets`` saved to disk, one as on a hub (``README.md``
beside ``data/train-00000-of-00002.parquet``), or any other with files of rows in it.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_dasd.errors import UserError
from megatron_dasd.json_values import read_object
from megatron_dasd.manifests import part_files
from megatron_dasd.printing import say
from megatron_dasd.records import Split
from megatron_dasd.records_io import holds_rows, record_files

_DICT, _STATE = "dataset_dict.json", "state.json"
_SHARD = re.compile(r"^(?P<split>.+?)-\d{5}-of-\d{5}")
"""A file's name that begins with a split's, as programs write data sets in shards."""
_KEYWORDS: dict[str, tuple[Split, str]] = {
    "train": ("train", "train|training"),
    "validation": ("heldout", "validation|valid|val|dev"),
    "test": ("heldout", "test|testing|eval|evaluation|heldout"),
}
"""By split: whether it trains, and the words in a name that say so."""
_SHOWN_NAMES = 10


@dataclass(frozen=True)
class UserFile:
    """A file of rows, and what its rows are for."""

    path: Path
    split: Split = "train"


def user_files(path: Path, splits: Mapping[str, Split] | None = None) -> list[UserFile]:
    """The files of rows behind a path, in order; says which files of a folder are not read.

    Args:
        splits: the splits to read, and whether each trains.  None: all; those whose name says
            that they are for training train, those for tests and validation are held out.

    Raises:
        UserError: there is nothing to read, or which split trains is not clear.
    """
    if path.is_file() or part_files(path):
        return [UserFile(file) for file in record_files(path)]
    if not path.is_dir():
        raise UserError(f"{path}: no such file or folder")
    found = list(_in_folder(path))
    if not found:
        raise UserError(f"{path}: no files of rows here{_names(path, _others(path, ()))}")
    roles = _roles(path, list(dict.fromkeys(split for split, _ in found)), splits)
    chosen = [UserFile(file, roles[split]) for split, file in found if split in roles]
    left = _others(path, [file.path for file in chosen])
    if left:
        say(f"{path}: not read{_names(path, left)}")
    return chosen


def _in_folder(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield split and file of every file of rows in a folder."""
    if (path / _DICT).is_file():
        splits = read_object(path / _DICT).get("splits")
        if not isinstance(splits, list) or not splits:
            raise UserError(f"{path / _DICT}: field splits: expected a list of names")
        for split in map(str, splits):
            yield from ((split, file) for file in _saved_files(path / split))
    elif (path / _STATE).is_file():
        split = str(read_object(path / _STATE).get("_split") or "train")
        yield from ((split, file) for file in _saved_files(path))
    else:
        for file in _visible(path):
            if holds_rows(file):
                yield _split_of(file.relative_to(path)), file


def _saved_files(path: Path) -> list[Path]:
    """The Arrow files of a folder that ``datasets`` saved, in order."""
    if not (path / _STATE).is_file():
        raise UserError(f"{path / _STATE}: is not there; was the data set saved whole?")
    files = read_object(path / _STATE).get("_data_files")
    if not isinstance(files, list):
        raise UserError(f"{path / _STATE}: field _data_files: expected a list of files")
    found = [path / str(file.get("filename")) for file in files if isinstance(file, dict)]
    for file in found:
        if file.parent != path or not file.is_file():
            raise UserError(f"{path / _STATE}: names {file.name}, which is not there")
    return found


def _split_of(file: Path) -> str:
    """The split that a file's name, or that of a folder around it, says; else ``train``."""
    for name in (file.name.lower(), *(part.lower() for part in reversed(file.parts[:-1]))):
        shard = _SHARD.match(name)
        if shard and _role_of(shard["split"]):
            return shard["split"]
        for split, (_, words) in _KEYWORDS.items():
            if _has_word(name, words):
                return split
    return "train"


def _role_of(split: str) -> Split | None:
    """Whether a split's name says that it trains or is held out; None: it says neither."""
    roles = [role for role, words in _KEYWORDS.values() if _has_word(split.lower(), words)]
    return roles[-1] if roles else None


def _has_word(name: str, words: str) -> bool:
    return re.search(rf"(?:^|[\W_\d])(?:{words})(?:[\W_\d]|$)", name) is not None


def _roles(
    path: Path, names: Sequence[str], asked: Mapping[str, Split] | None
) -> Mapping[str, Split]:
    """What each split that is read is for.

    Raises:
        UserError: a split that is asked for is not there, or several could be what trains.
    """
    if asked is not None:
        for split in asked:
            if split not in names:
                raise UserError(f"{path}: no split {split} (there are: {', '.join(names)})")
        return asked
    roles: dict[str, Split] = {name: _role_of(name) or "train" for name in names}
    train = [name for name, role in roles.items() if role == "train"]
    if len(train) > 1:
        raise UserError(
            f"{path}: splits {', '.join(train)} could each be the one that trains; say which are "
            f"read, e.g. splits: {{{train[0]}: train}}"
        )
    return roles


def _visible(path: Path) -> list[Path]:
    """All files in a folder, at any depth, but for hidden ones."""
    return [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file() and not any(p.startswith(".") for p in file.relative_to(path).parts)
    ]


def _others(path: Path, read: Sequence[Path]) -> list[Path]:
    """The files of a folder that are not read, but for those that describe a saved data set."""
    about = (_DICT, _STATE, "dataset_info.json", "dataset_infos.json")
    return [file for file in _visible(path) if file not in read and file.name not in about]


def _names(path: Path, files: Sequence[Path]) -> str:
    if not files:
        return ""
    shown = ", ".join(str(file.relative_to(path)) for file in files[:_SHOWN_NAMES])
    more = len(files) - _SHOWN_NAMES
    return f": {shown}" + (f" and {more} more" if more > 0 else "")
