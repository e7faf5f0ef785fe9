import subprocess
import sys
from pathlib import Path

import pytest

from megatron_dasd.config.base import Launch
from megatron_dasd.device.apex import find_apex, refuse_foreign_apex
from megatron_dasd.errors import UserError
from megatron_dasd.models.hf_config import read_architecture
from megatron_dasd.models.program import common_flags


def make_apex(folder: Path, *parts: str) -> Path:
    """A package ``apex`` with empty modules of these names."""
    for part in ("__init__.py", *parts):
        path = folder / "apex" / part
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("raise RuntimeError('imported')\n")
    return folder


def test_no_apex(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    assert find_apex() is None
    refuse_foreign_apex()


def test_a_pyramid_toolkit_is_foreign(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(make_apex(tmp_path, "views.py", "lib/libapex.py"))
    with pytest.raises(UserError) as error:
        refuse_foreign_apex()
    place = tmp_path / "apex"
    assert str(error.value) == (
        f"{place}: this apex is not NVIDIA's apex, but Megatron would take it for that; "
        "take its folder off the Python path"
    )


def test_an_installed_one_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    make_apex(tmp_path, "views.py")
    facts = tmp_path / "apex-0.9.10.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: apex\nVersion: 0.9.10\n")
    (facts / "top_level.txt").write_text("apex\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"this apex 0\.9\.10 is not .*; run: pip uninstall apex$"):
        refuse_foreign_apex()


def test_a_folder_without_code_is_foreign(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "apex").mkdir()  # `import apex` works: a namespace package
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="is not NVIDIA's apex"):
        refuse_foreign_apex()


def test_nvidias_is_known_by_its_fused_parts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_apex(tmp_path, "optimizers/fused_adam.py", "normalization/fused_layer_norm.py")
    monkeypatch.syspath_prepend(tmp_path)
    apex = find_apex()
    assert apex is not None
    assert (apex.is_nvidias, apex.package) == (True, "")
    refuse_foreign_apex()


def test_training_does_not_start_with_a_foreign_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, random_model_dir: Path
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(make_apex(tmp_path, "views.py")), prepend=":")
    architecture = read_architecture(random_model_dir / "model")
    flags = common_flags(architecture, Launch(), seq_length=16, dtype="float32")
    code = (
        "import sys; from megatron_dasd.models.program import parse_flags;"
        "from megatron_dasd.errors import UserError\n"
        f"try: parse_flags({flags!r})\n"
        "except UserError as error: sys.exit(str(error))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("take its folder off the Python path")
