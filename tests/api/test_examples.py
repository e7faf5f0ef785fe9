"""Every example of docs/api.md and of the API's docstrings, run as written."""

import doctest
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from megatron_dasd.manifests import MODEL

ROOT = Path(__file__).parents[2]
FLAGS = doctest.ELLIPSIS


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = str(ROOT / "docs" / "api.md")
    failed, attempted = doctest.testfile(page, module_relative=False, optionflags=FLAGS)
    assert (failed, attempted > 20) == (0, True)


@pytest.mark.parametrize("name", ["sentences", "texts", "runs"])
def test_the_docstrings(name: str) -> None:
    module = import_module(f"megatron_dasd.api.{name}")
    failed, attempted = doctest.testmod(module, optionflags=FLAGS)
    assert (failed, attempted > 1) == (0, True)


def test_the_import_loads_nothing_that_takes_long() -> None:
    program = (
        "import sys, megatron_dasd as dasd\n"
        "from importlib.util import find_spec\n"
        "print({'numpy', 'pyarrow', 'pydantic', 'torch', 'transformers'} & set(sys.modules))\n"
        "dasd.pack, dasd.compare_sentences, dasd.drop_reason, dasd.split_sentences\n"
        "print({'torch', 'transformers'} & set(sys.modules))\n"
        "print(sorted(set(dasd._PLACES) - set(dir(dasd))))\n"
        "print([name for name in dasd._PLACES if find_spec(f'megatron_dasd.{name}')])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["set()", "set()", "[]", "[]"]


def test_two_models_are_compared(random_model_dir: Path, tmp_path: Path) -> None:
    model = str(random_model_dir / MODEL)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a b?\nc d?\n")
    script = ROOT / "examples" / "api" / "compare_two_models.py"
    flags = ["--prompts", str(prompts), "--max-new-tokens", "24"]
    done = subprocess.run(
        [sys.executable, str(script), model, model, *flags],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.splitlines()
    # a model and itself: every sentence is as likely to the one as to the other
    assert lines[0].startswith("sentences: shared ")
    assert "," not in lines[0]
    assert lines[1] == "kept: 2 of 4 responses"
