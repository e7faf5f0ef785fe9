"""Which walls are used: those that hold here, tried, not those that are installed."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from megatron_dasd.containment import probe, seccomp, walls
from megatron_dasd.containment.probe import gaps
from tests.containment.walls import walls_here


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    probe.find_walls.cache_clear()
    yield
    probe.find_walls.cache_clear()


def test_bubblewrap_comes_first() -> None:
    walls_here("bubblewrap")
    assert probe.find_walls().name == "bubblewrap"


def test_without_bubblewrap_seccomp_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    walls_here("seccomp")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert probe.find_walls().name == "seccomp"


def test_bubblewrap_that_does_not_work_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    walls_here("seccomp")
    program = tmp_path / "bwrap"
    program.write_text(
        "#!/bin/sh\necho 'bwrap: No permissions to create new namespace' >&2\nexit 1"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    broken = walls.bubblewrap()
    assert broken is not None
    assert gaps(broken) == [
        "no worker starts behind bubblewrap: bwrap: No permissions to create new namespace"
    ]
    assert probe.find_walls().name == "seccomp"


def test_bubblewrap_that_lets_everything_through_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "bwrap"
    program.write_text('#!/bin/sh\nwhile [ "${1#*/python}" = "$1" ]; do shift; done\nexec "$@"')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(walls, "compiled", lambda files: b"")
    sham = walls.bubblewrap()
    assert sham is not None
    assert gaps(sham)


def test_with_neither_nothing_contains(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "pyseccomp", None)
    seccomp.compiled.cache_clear()
    found = probe.find_walls()
    assert (found.name, found.contains) == ("limits only", False)
    assert "reach the network" in gaps(found)
    seccomp.compiled.cache_clear()


def test_a_worker_sees_the_package_and_not_what_lies_beside_it() -> None:
    bound = walls_here("bubblewrap").prefix
    root = Path(walls.__file__).parents[2]
    assert str(root / "megatron_dasd") in bound
    assert str(root) not in bound
