"""The bench's history: kept by CPU model and commit; changes beyond the noise are said."""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from benchmarks import history, page
from benchmarks.figures import Row, at_most


def row(own: list[float], name: str = "a", peer: float = 1.0) -> Row:
    return at_most(2.0, name=name, unit="s", own=own, peer=[peer] * len(own), peer_name="copy")


def kept(commit: str, *rows: Row) -> history.Kept:
    return {"commit": commit, "committed": commit, "cpu": "c", "cores": 2, "rows": list(rows)}


def test_a_change_beyond_the_noise_is_said() -> None:
    before = kept("old", row([0.95, 1.0, 1.05]))  # 10 % of spread; now 10 % too
    assert history.changes([row([1.07, 1.13, 1.18])], [before]) == []
    [change] = history.changes([row([1.24, 1.3, 1.37])], [before])
    assert (change.before, change.now, change.commit) == (1.0, 1.3, "old")
    assert change.noise == pytest.approx(0.1 + 0.1)
    assert change.line == "a: 1.000 at old, now 1.300 (+30%; noise 20%)"
    [faster] = history.changes([row([0.76, 0.8, 0.84])], [before])
    assert faster.now == 0.8


def test_the_noise_of_one_sample_is_that_of_the_commits() -> None:
    earlier = [kept(f"c{n}", row([value])) for n, value in enumerate((1.0, 1.1, 1.05))]
    assert history.changes([row([3.0])], earlier[:2]) == []  # not known from two
    [change] = history.changes([row([3.0])], earlier)
    assert change.noise == pytest.approx(0.1 / 1.05)
    assert history.changes([row([1.12])], earlier) == []
    assert history.changes([row([9.0], name="new")], earlier) == []


def test_results_are_kept_by_commit_and_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = {"status": "", "rev-parse": "abc", "show": "2026-01-01T00:00:00+00:00"}
    monkeypatch.setattr(history, "_git", lambda first, *_: answers[first])
    monkeypatch.setattr(history, "cpu_model", lambda: "A CPU (R) @ 2 GHz")
    history.keep([row([1.0]), row([2.0], name="b")], tmp_path)
    history.keep([row([1.5])], tmp_path)
    assert [path.name for path in (tmp_path / "a-cpu-r-2-ghz").iterdir()] == ["abc.json"]
    [found] = history.read(tmp_path, "A CPU (R) @ 2 GHz")
    assert [one["value"] for one in found["rows"]] == [1.5, 2.0]
    answers["status"] = " M file"
    assert history.keep([row([7.0])], tmp_path) is None
    assert history.read(tmp_path, "another") == []


def test_git_is_asked_for_real() -> None:
    commit = subprocess.run(
        ["git", "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True
    ).stdout.strip()
    assert history._git("rev-parse", "--short=12", "HEAD") == commit
    assert history.cpu_model()


def test_the_page(tmp_path: Path) -> None:
    rows = [row([1.0, 1.1, 1.2]), row([3.0], name="b < c")]
    [change] = history.changes([row([2.0, 2.0])], [kept("old", row([1.0, 1.0]))])
    page.write_page(tmp_path / "index.html", rows, [change], {"a": [1.0, 1.1]}, "A CPU, 2 cores")
    text = (tmp_path / "index.html").read_text()
    assert "a: 1.000 at old, now 2.000" in text
    assert "b &lt; c" in text
    assert text.count("<svg") == 2
    assert "<td>no</td>" in text
