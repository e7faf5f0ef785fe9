"""Pictures of sentence classes: well-formed, the same bytes for the same figures."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

import pytest
from markupsafe import Markup

from megatron_dasd.pages import charts

CHARTS: dict[str, Callable[[], Markup]] = {
    "classes": lambda: charts.class_chart(
        {
            "all": {"teacher": 3, "student": 1, "shared": 0},
            "none": {"teacher": 0, "student": 0, "shared": 0},
        }
    ),
    "gaps": lambda: charts.gap_chart({"edges": [-1, 0, 1], "counts": [3, 4]}, 0.1),
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
    for name in ("teacher", "student", "shared"):
        assert f"fill: {charts.COLOURS[name]}" in picture
    mixed = charts.gap_chart(histogram, 0.2)  # the outer bins hold shared sentences too
    assert f"fill: {charts.COLOURS['teacher']}" not in mixed


def test_boosted_sentences_have_their_bar_where_they_are_told_apart() -> None:
    counts = {"teacher": 1, "student": 1, "shared": 1}
    assert "boosted" not in charts.class_chart({"all": counts})
    assert charts.COLOURS["boosted"] in charts.class_chart({"all": counts | {"boosted": 1}})
