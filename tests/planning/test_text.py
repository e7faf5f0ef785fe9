"""The plan on a terminal of 80 columns."""

from megatron_dasd.planning.report import PlanFigures, StageFigures
from megatron_dasd.planning.text import WIDTH, plan_text


def stage(name: str, **changes: object) -> StageFigures:
    figures = {
        "stage": name,
        "kind": "train",
        "gpus": 1024,
        "cores": 0,
        "tokens": 1e12,
        "exaflops": 1.0,
        "tokens_per_second": 1e8,
        "hours": 1234.5,
        "gpu_hours": 1e6,
        "disk_gb": 1e5,
    }
    return {**figures, **changes}  # type: ignore[typeddict-item]


FIGURES: PlanFigures = {
    "name": "p",
    "assumptions": {"gpu": "H100", "gpu_memory_gb": 80.0, "mfu": 0.35},
    "stages": [stage("short"), stage("a_stage_with_a_very_long_name", gpus=0, cores=95)],
    "memory": {
        name: {
            "layout": "TP2 CP4 DP8 sharded optimizer",
            "gb": {"weights": 4.0, "total": 400.0},
            "host_gb": {"interim": 7.0, "last": 193.0},
            "fits": name != "large",
            "num_fitting": 2,
            "plainest": [{"layout": "CP8 DP8 sharded optimizer", "gb": 58.0}] * 2,
        }
        for name in ("first", "large", "second")
    },
    "growth": {name: {8: (1.0, 2.0), 1024: None} for name in ("a", "b", "c", "d", "e")},
    "time_line": [
        {
            "stage": name,
            "waits_for": [],
            "start": start,
            "end": end,
            "slack": slack,
            "critical": not slack,
        }
        for name, start, end, slack in (
            ("short", 0.0, 600.0, 0.0),
            ("a_stage_with_a_very_long_name", 600.0, 1200.0, 0.0),
            ("beside", 0.0, 300.0, 900.0),
        )
    ],
    "hours": 1200.0,
    "most_gpus": 2048,
    "side_by_side": [["short", "beside"]],
    "streams": [{"stages": ["sample", "filter"], "hours": 6.0, "hours_as_stream": 4.0}],
    "gpu_hours": 2e6,
    "price": 5e6,
    "disk_gb": 2e5,
}


def test_no_line_is_longer_than_a_terminal() -> None:
    lines = list(plan_text(FIGURES))
    assert max(map(len, lines)) <= WIDTH == 80
    assert not any("…" in line for line in lines)


def test_a_picture_of_the_time_line() -> None:
    bars = [line.split("|")[1] for line in plan_text(FIGURES) if line.count("|") == 2]
    assert bars == [15 * "#" + 15 * " ", 15 * " " + 15 * "#", 8 * "-" + 22 * " "]
    marked = [line.split()[1] for line in plan_text(FIGURES) if line.startswith("* ")]
    assert marked == ["short", "a_stage_with_a_very_long_name"]


def test_stages_alike_share_their_memory() -> None:
    lines = list(plan_text(FIGURES))
    assert "first, second: TP2 CP4 DP8 sharded optimizer, 400.0" in lines
    assert "large: TP2 CP4 DP8 sharded optimizer, 400.0, DOES NOT FIT" in lines
    assert sum("layouts of as many GPUs fit" in line for line in lines) == 2
