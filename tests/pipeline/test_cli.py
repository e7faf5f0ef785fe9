"""The command line as a user meets it: exit status, one line for a mistake, what is printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_dasd.pipeline import cli, runner

ROOT = Path(__file__).parents[2]
PIPELINE = """\
name: test
run_dir: runs
stages:
  first: {kind: make_prompts, files: [p.jsonl]}
  second: {kind: make_prompts, files: [first]}
"""
PROMPT = '{"prompt_id": "p0", "messages": [{"role": "user", "content": "1 + 1?"}]}\n'


@pytest.fixture
def pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The pipeline above in the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("p.jsonl").write_text(PROMPT)
    Path("pipeline.yaml").write_text(PIPELINE)
    return "pipeline.yaml"


def test_a_run_tells_of_every_stage_and_of_the_time(
    pipeline: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([pipeline]) == 0
    out = capsys.readouterr().out
    assert "[1/2] first (make_prompts)" in out
    assert "train 1" in out
    assert cli.main([pipeline]) == 0
    assert capsys.readouterr().out.count("unchanged, skipped: train 1") == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nowhere.yaml"], "nowhere.yaml: No such file or directory"),
        (["pipeline.yaml", "--only", "x"], "pipeline.yaml: no stage x (stages: first, second)"),
        (["pipeline.yaml", "--from", "second"], "stage second: its input first has not finished"),
        (["pipeline.yaml", "--set", "first.x=1"], "pipeline.yaml: stages.first.x: no such setting"),
    ],
)
def test_a_mistake_is_one_line(
    pipeline: str, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    assert cli.main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {told}")
    assert err.count("\n") == 1


def test_a_changed_setting_is_announced_with_what_is_made_anew(
    pipeline: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([pipeline]) == 0
    assert cli.main([pipeline]) == 0
    assert "made again" not in capsys.readouterr().out
    # not on a terminal: announced, not asked
    assert cli.main([pipeline, "--set", "first.heldout_fraction=0"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "first: heldout_fraction changed",
        "will be made again: first",
        "and where their inputs change: second",
    ]
    kept = r"old results \(\d[\d.]* kB\) stay beside the new ones, e.g. as runs/.first.replaced, "
    assert re.fullmatch(kept + r"until those are whole; [\d.,]+ [MG]B free", lines[3])
    assert lines[4] == "[1/2] first (make_prompts)"


def test_changed_inputs_are_announced(pipeline: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([pipeline]) == 0
    Path("p.jsonl").write_text(PROMPT.replace("1 + 1", "2 + 2"))
    capsys.readouterr()
    assert cli.run_kind("make_prompts", [pipeline, "--stage", "first"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == ["first: its inputs changed", "will be made again: first"]


def test_an_old_result_comes_back_with_its_settings(
    pipeline: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([pipeline]) == 0
    before = Path("runs/first/manifest.json").read_bytes()
    Path("q.jsonl").write_text("no record\n")
    changed = [pipeline, "--set", "first.files=[p.jsonl, q.jsonl]"]
    assert cli.main(changed) == 2
    assert Path("runs/.first.replaced/manifest.json").read_bytes() == before
    capsys.readouterr()
    assert cli.main([pipeline]) == 0
    out = capsys.readouterr().out
    assert "unfinished work that will be deleted: first\n" in out
    assert out.count("unchanged, skipped: train 1") == 2
    assert Path("runs/first/manifest.json").read_bytes() == before
    assert sorted(path.name for path in Path("runs").iterdir()) == ["first", "second"]


def test_a_user_may_keep_what_has_finished(
    pipeline: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main([pipeline]) == 0
    before = Path("runs/first/manifest.json").read_bytes()
    capsys.readouterr()
    for stream in ("stdin", "stdout"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True)
    monkeypatch.setattr("typer.confirm", lambda *_, **__: False)
    assert cli.main([pipeline, "--set", "first.seed=5"]) == 2
    err = capsys.readouterr().err
    assert err == "error: nothing was run; another --run-dir keeps both results\n"
    assert Path("runs/first/manifest.json").read_bytes() == before
    assert cli.main([pipeline, "--set", "first.seed=5", "--yes"]) == 0
    assert Path("runs/first/manifest.json").read_bytes() != before


def test_the_stages_of_one_kind(pipeline: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run_kind("make_prompts", [pipeline, "--stage", "first"]) == 0
    assert Path("runs/first/manifest.json").exists()
    assert not Path("runs/second").exists()
    assert cli.run_kind("make_prompts", [pipeline, "--run-dir", "elsewhere"]) == 0
    assert Path("elsewhere/second/manifest.json").exists()
    capsys.readouterr()
    assert cli.run_kind("train", [pipeline]) == 2
    assert capsys.readouterr().err == "error: pipeline.yaml: has no stage of kind train\n"
    assert cli.run_kind("make_prompts", [pipeline, "--stage", "x"]) == 2
    told = "error: pipeline.yaml: no make_prompts stage x (there are: first, second)\n"
    assert capsys.readouterr().err == told


def test_an_interruption_is_no_failure_of_the_program(
    pipeline: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run_stages", interrupted)
    assert cli.main([pipeline]) == 130
    assert capsys.readouterr().err == "stopped; the same command goes on from here\n"


def test_an_unexpected_error_is_one_line_and_a_log(
    pipeline: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(runner, "run_stages", broken)
    assert cli.main([pipeline]) == 70
    (line,) = capsys.readouterr().err.splitlines()
    log = line.removeprefix("error: unexpected ZeroDivisionError (traceback: ").removesuffix(")")
    assert "in broken" in Path(log).read_text()


def test_a_package_that_is_not_installed(
    pipeline: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    assert cli.main([pipeline]) == 0  # only generated tasks need it
    task = "first.tasks=[{generator: chain_sum, size: 1}]"
    assert cli.main([pipeline, "--set", task]) == 2
    told = (
        "error: stage first: needs the package reasoning_gym: pip install 'megatron_dasd[eval]'\n"
    )
    assert capsys.readouterr().err == told


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_a_folder_that_cannot_be_written(pipeline: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("runs").mkdir(mode=0o500)
    assert cli.main([pipeline]) == 2
    assert capsys.readouterr().err.startswith("error: runs/first: Permission denied; fix it")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_full_disk_is_one_line_and_the_next_run_goes_on(
    pipeline: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("runs").mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", "runs"], check=False
    )
    if mounted.returncode:
        pytest.skip("cannot mount here")
    try:
        Path("runs/filler").write_bytes(b"x" * 12 * 1024)
        assert cli.main([pipeline]) == 2
        err = capsys.readouterr().err
        assert "No space left on device; fix it, the same command goes on from here" in err
        assert err.count("\n") == 1
        subprocess.run(["mount", "-o", "remount,size=1m", "runs"], check=True)
        assert cli.main([pipeline]) == 0
    finally:
        subprocess.run(["umount", "runs"], check=True)


def test_the_program_as_it_is_started(pipeline: str) -> None:
    for command in (["-m", "megatron_dasd.pipeline"], [str(ROOT / "tools" / "run_pipeline.py")]):
        done = subprocess.run(
            [sys.executable, *command, "nowhere.yaml"], capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert done.stderr == "error: nowhere.yaml: No such file or directory\n"


def test_tools_can_be_started() -> None:
    tools = list((ROOT / "tools").glob("*.py"))
    assert len(tools) > 18
    assert [tool.name for tool in tools if not os.access(tool, os.X_OK)] == []
