from pathlib import Path

from megatron_dasd.training.metrics_file import StepLine, forget_after, last_step

LINES = [
    '{"iteration": 1, "loss": 3.0}\n',
    '{"iteration": 2, "loss": 2.0}\n',
    '{"iteration": 2, "heldout_loss": 2.5}\n',
    '{"iteration": 3, "loss": 1.0}\n',
    '{"iteration": 4, "lo',
]


def test_the_newest_whole_line_of_a_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert last_step(path) is None
    path.write_text("".join(LINES[:3]))
    assert last_step(path) == StepLine(iteration=2, loss=2.0)
    path.write_text("".join(LINES))
    assert last_step(path) == StepLine(iteration=3, loss=1.0)


def test_what_is_trained_again_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    forget_after(path, 0)
    assert not path.exists()
    path.write_text("".join(LINES))
    forget_after(path, 3)
    assert path.read_text() == "".join(LINES[:4])
    forget_after(path, 2)
    assert path.read_text() == "".join(LINES[:3])
    forget_after(path, 0)
    assert path.read_text() == ""
