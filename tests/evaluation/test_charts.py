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
    "cut off": lambda: charts.cut_off_chart(
        [{"from": 10, "to": 20, "cut_off": 0.0}, {"from": 21, "to": 4000, "cut_off": 0.5}]
    ),
    "time": lambda: charts.time_chart({"sample": 3.5, "train": 20.0}),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_one_well_formed_picture(name: str) -> None:
    picture = CHARTS[name]()
    assert ElementTree.fromstring(picture).tag == "{http://www.w3.org/2000/svg}svg"
    assert picture == CHARTS[name]()
