"""Every example is a recipe that expands to the graph that its file once spelt out."""

import json
from pathlib import Path
from typing import Any

import pytest

from megatron_dasd.config.pipeline import Pipeline, graph_text, load_pipeline

EXAMPLES = Path(__file__).parents[3] / "examples"
GRAPHS = Path(__file__).parents[1] / "graphs"
FILES = sorted(path for path in EXAMPLES.glob("*/*.yaml") if path.stem != "contrasts")
NAMES = [f"{path.parent.name}-{path.stem}" for path in FILES]

NEVER_SPELT_OUT = {"demo-pipeline", "ablation-pool", "ablation-arm", "ablation-stage3"}
"""Examples whose files have always been what they are: no graph from before is compared."""


@pytest.fixture(autouse=True)
def _scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCRATCH", "/scratch")


def graph(pipeline: Pipeline) -> dict[str, Any]:
    """All of a pipeline, its settings without their defaults."""
    stages = {
        name: {
            "reads": list(pipeline.input_paths(name)),
            "settings": settings.model_dump(mode="json", exclude_defaults=True),
        }
        for name, settings in pipeline.stages.items()
    }
    head = {"name": pipeline.name, "run_dir": str(pipeline.run_dir), "seed": pipeline.seed}
    rest = {
        "cluster": pipeline.cluster.model_dump(mode="json", exclude_defaults=True),
        "plan": pipeline.plan.model_dump(mode="json", exclude_defaults=True),
    }
    return head | {"stages": stages} | rest


def spelt_out(name: str) -> dict[str, Any]:
    """The graph of the file before it was a recipe."""
    kept: dict[str, Any] = json.loads((GRAPHS / f"{name}.json").read_text())
    if name.startswith("qwen3_4b"):  # its prompts came from a stage with a name of its own
        stages = {"prompts": kept["stages"].pop("tasks"), **kept["stages"]}
        stages["prompts"]["settings"]["files"] = ["./prompts"]
        stages["prompts"]["reads"] = ["./prompts"]
        stages["sample"]["settings"]["prompts"] = "prompts"
        stages["sample"]["reads"] = ["teacher", "prompts"]
        # the checkpoint was made when it was needed
        kept["stages"] = {"student_checkpoint": stages.pop("student_checkpoint"), **stages}
    return kept


def test_every_graph_has_its_example() -> None:
    assert {path.stem for path in GRAPHS.iterdir()} == {*NAMES} - NEVER_SPELT_OUT


@pytest.mark.parametrize("name", sorted({*NAMES} - NEVER_SPELT_OUT))
def test_the_recipe_expands_to_the_same_graph(name: str) -> None:
    path = FILES[NAMES.index(name)]
    expected, found = spelt_out(name), graph(load_pipeline(path))
    assert found == expected
    assert list(found["stages"]) == list(expected["stages"])


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_a_printed_graph_is_a_pipeline_file_with_the_same_stages(
    path: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "printed.yaml"
    elsewhere.write_text(graph_text(path))
    assert "&" not in elsewhere.read_text()  # no anchors
    pipeline, printed = load_pipeline(path), load_pipeline(elsewhere)
    assert graph(printed) == graph(pipeline)
    assert list(printed.stages) == list(pipeline.stages)
    for name, settings in pipeline.stages.items():
        assert printed.stages[name].identity() == settings.identity()
        given, read = (p.input_paths(name) for p in (pipeline, printed))
        assert {ref: path.resolve() for ref, path in read.items()} == {
            ref: path.resolve() for ref, path in given.items()
        }
    assert graph_text(elsewhere) == elsewhere.read_text()
