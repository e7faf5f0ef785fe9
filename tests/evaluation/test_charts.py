"""The pictures: well-formed, the same bytes for the same figures, and what they say in words."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import pytest
from markupsafe import Markup

from megatron_dasd.evaluation import charts

CHARTS: dict[str, Callable[[], Markup]] = {
    "heldout": lambda: charts.heldout_chart(
        {"before": 2.0, "one": 1.5}, {"before": 0.1, "one": None}
    ),
    "loss": lambda: charts.loss_chart(
        {"one": {"train": [[1, 2.0], [2, 1.5]], "heldout": [[2, 1.8]]}}
    ),
    "loss without any": lambda: charts.loss_chart({"one": {"train": [[1, 2.0]], "heldout": []}}),
    "classes": lambda: charts.class_chart(
        {
            "all": {"teacher": 3, "student": 1, "shared": 0},
            "none": {"teacher": 0, "student": 0, "shared": 0},
        }
    ),
    "gaps": lambda: charts.gap_chart({"edges": [-1, 0, 1], "counts": [3, 4]}, 0.1),
    "time": lambda: charts.time_chart({"sample": 3.5, "train": 20.0}),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_one_well_formed_picture(name: str) -> None:
    picture = CHARTS[name]()
    assert ElementTree.fromstring(picture).tag == "{http://www.w3.org/2000/svg}svg"
    assert picture == CHARTS[name]()


def test_gaps_are_coloured_by_class() -> None:
    histogram = {"edges": [-0.3, -0.1, 0.1, 0.3], "counts": [1, 1, 1]}
    picture = charts.gap_chart(histogram, 0.1)
    for colour in charts.COLOURS.values():
        assert f"fill: {colour}" in picture
    mixed = charts.gap_chart(histogram, 0.2)  # the outer bins hold shared sentences too
    assert f"fill: {charts.COLOURS['teacher']}" not in mixed
