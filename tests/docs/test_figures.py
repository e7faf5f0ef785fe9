"""Every metric of training and every figure of a report is explained in the documentation."""

import re
from pathlib import Path

import pytest

from megatron_dasd.evaluation.report import RunFigures
from megatron_dasd.training.metrics import METRICS

DOCS = Path(__file__).parents[2] / "docs"


def explained(page: str) -> set[str]:
    """Names in the first column of the tables of a page."""
    rows = re.findall(r"^\| (`.+?) \|", (DOCS / page).read_text(), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`(\w+)`", row)}


@pytest.mark.parametrize(
    ("page", "names"),
    [("training.md", METRICS.keys()), ("figures.md", RunFigures.__annotations__.keys())],
    ids=["metrics.jsonl", "report.json"],
)
def test_every_name_is_explained(page: str, names: set[str]) -> None:
    assert names - explained(page) == set()


def test_no_figure_is_explained_that_a_report_lacks() -> None:
    assert explained("figures.md") - RunFigures.__annotations__.keys() == set()
