"""What a dry run of a submission prints."""

from pathlib import Path

import pytest

from megatron_dasd.cluster.submit import Submission, graph_lines, prepare, show_commands
from megatron_dasd.config.pipeline import load_pipeline

EXAMPLE = Path(__file__).parents[2] / "examples" / "qwen3_4b" / "h100_64.yaml"


@pytest.fixture
def submission(tmp_path: Path) -> Submission:
    pipeline = load_pipeline(EXAMPLE, tmp_path)
    return prepare(pipeline, list(pipeline.stages), [], ask=False)


def test_the_graph_fits_a_terminal_and_cuts_no_name(submission: Submission) -> None:
    lines = list(graph_lines(submission.jobs))
    assert max(map(len, lines)) <= 80
    words = {word.strip(",") for line in lines for word in line.split()}
    assert {"continuations", "end_servers_student_server", "serve_student_server"} <= words
    assert not any("…" in line for line in lines)


def test_replicas_of_a_server_are_one_line(submission: Submission) -> None:
    lines = list(graph_lines(submission.jobs))
    (teacher,) = (line.split() for line in lines if line.startswith("serve_teacher "))
    assert teacher == ["serve_teacher", "8", "1", "x", "1", "8", "48:00:00"]
    place = next(i for i, line in enumerate(lines) if line.startswith("sample "))
    assert lines[place + 1 : place + 3] == [
        "    after prompts",
        "    after the start of serve_teacher",
    ]


def test_commands_of_replicas_stand_once(
    submission: Submission, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show_commands(submission, Path("slurm"), tmp_path)
    said = capsys.readouterr().out
    assert said.count("--job-name=serve_teacher_") == 1
    assert "and the same for serve_teacher_2 to serve_teacher_8" in said
    assert "and serve_student_server_2" in said
    assert said.count("DASD_SERVICES=") == 1
    assert said.count("sbatch --parsable") == len(submission.jobs) - 7 - 1
