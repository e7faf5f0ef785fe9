"""Stage report on the folders of small finished stages."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.evaluation import Report
from megatron_dasd.evaluation import report
from megatron_dasd.evaluation.samples import spread
from megatron_dasd.manifests import LOGS, METRICS, require_manifest
from megatron_dasd.records import (
    FilteredResponse,
    Graded,
    Prompt,
    Response,
    ScoredResponse,
    Span,
    TokenLogprobs,
)
from megatron_dasd.revision.lengths import length_figures

OUTPUT = "<think>\na\n</think>\n\n<b>"
SETTINGS = Report(
    kind="report",
    title="A <small> run",
    heldout_scores={"before": "score", "stage1": "score1"},
    sample="sample",
    filters=["filter"],
    select="select",
    train=["train"],
    rollouts="rollouts",
    evaluate="evaluate",
    verify="verify",
    export="export",
)
SELECT_FIGURES = {
    "sentence_classes": {"teacher": 6, "student": 1, "shared": 3},
    "sentence_classes_by_temperature": {"1": {"teacher": 6, "student": 1, "shared": 3}},
    "sentence_classes_kept": {"teacher": 4, "student": 0, "shared": 1},
    "count_differs_from_longest": 0.25,
    "count_exceeds_longest": 0.125,
    "gap_histogram": {"edges": [-1.0, 0.0, 1.0], "counts": [4, 6]},
    "examples": [
        {
            "prompt": "1 + 1?",
            "temperature": 1.0,
            "sentences": [
                {
                    "text": "x < y.",
                    "teacher_probability": 0.5,
                    "student_probability": 0.25,
                    "provenance": "teacher",
                }
            ],
        }
    ],
}


@dataclass
class Run:
    """Where finished stages lie."""

    folder: Path

    def stage(
        self,
        name: str,
        kind: str,
        records: Sequence[Any] = (),
        settings: Mapping[str, Any] | None = None,
        figures: Mapping[str, Any] | None = None,
        files: Mapping[str, str] | None = None,
    ) -> None:
        """Write a finished stage."""
        with StageFolder(self.folder / name, name, kind, dict(settings or {}), {}) as folder:
            if records:
                folder.write_part(0, type(records[0]), records, {"kept": len(records)})
            for path, text in (files or {}).items():
                (folder.path / path).parent.mkdir(exist_ok=True)
                (folder.path / path).write_text(text)
            folder.finish(figures=figures)


@pytest.fixture
def inputs(
    tmp_path: Path, make_prompt: Callable[..., Prompt], make_response: Callable[..., Response]
) -> dict[str, Path]:
    """A run of which every stage that the report reads has finished."""
    run = Run(tmp_path / "run")
    prompt = make_prompt("p0", "1 + 1?", split="heldout", grader="exact", reference_answer="2")
    passed = {
        "prompt": prompt,
        "output": OUTPUT,
        "output_spans": [Span(start=8, end=9), Span(start=20, end=23)],
        "text_spans": [],
    }
    mixed = passed | {"student_prefix": "<think>\na", "student_prefix_ids": [1, 2]}

    def scored(nats: float) -> ScoredResponse:
        tokens = TokenLogprobs(token_ids=[0, 1], num_bytes=[0, 0], logprobs=[-nats, -nats])
        response = make_response(
            "ab", ScoredResponse, **passed, student_tokens=tokens, student_model="s"
        )
        assert isinstance(response, ScoredResponse)
        return response

    answers = [
        Graded(
            prompt=prompt,
            model=model,
            sample=0,
            text=f"<think>\nx\n</think>\n\nanswer of {model}",
            score=score,
            num_tokens=7,
            finish_reason="stop",
        )
        for model, score in (("before", 0.0), ("middle", 0.0), ("after", 1.0))
    ]
    run.stage("sample", "sample_teacher", [make_response("ab")])
    run.stage(
        "filter",
        "filter_responses",
        [
            make_response("ab", FilteredResponse, **passed),
            make_response("ab", FilteredResponse, **mixed),
        ],
        figures={"kept_share": 0.5},
    )
    run.stage("score", "score_student", [scored(2.0)])
    run.stage("score1", "score_student", [scored(1.5)])
    settings = {"beta": 0.1, "strategy": "count", "keep": 1}
    run.stage("select", "select_das", settings=settings, figures=SELECT_FIGURES)
    lines = [{"iteration": 1, "loss": 3.0}, {"iteration": 2, "loss": 2.5}]
    metrics = "".join(json.dumps(line) + "\n" for line in lines)
    run.stage("train", "train", files={f"{LOGS}/{METRICS}": metrics})
    lengths = length_figures([10, 20, 40], [12, 30, 60], [False, True, True])
    run.stage("rollouts", "roll_out_student", figures=lengths)
    run.stage("evaluate", "evaluate", answers)
    conversion = {"max_difference": 2e-6, "tolerance": 1e-3}
    run.stage("verify", "verify_conversion", figures=conversion)
    run.stage("export", "export_hf", files={"model/config.json": "{}"})
    return {path.name: path for path in sorted((tmp_path / "run").iterdir())}


class Balance(HTMLParser):
    """Raises unless every element that is opened is closed, in order."""

    VOID = frozenset({"meta", "br", "img", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_report_tells_what_the_stages_gave(
    inputs: dict[str, Path],
    run_stage: Callable[..., Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run_stage(report.run, SETTINGS, inputs)
    figures = json.loads((tmp_path / "stage" / "report.json").read_text())
    assert figures["heldout_nll"] == {"before": 2.0, "stage1": 1.5}
    assert figures["heldout_nll_change"] == {"stage1": {"mean": -0.5, "stderr": None}}
    assert figures["sentence_classes"] == {"teacher": 6, "student": 1, "shared": 3}
    assert figures["count_differs_from_longest"] == 0.25
    assert {name: one["accuracy"]["mean"] for name, one in figures["accuracy"].items()} == {
        "before": 0.0,
        "middle": 0.0,
        "after": 1.0,
    }
    assert figures["accuracy_base"] == "before"
    assert figures["counts"]["filter"] == {"kept": 2}
    assert figures["kept_share"] == {"filter": 0.5}
    assert figures["loss_curves"] == {"train": {"train": [[1, 3.0], [2, 2.5]], "heldout": []}}
    assert figures["conversion"] == {"max_difference": 2e-6, "tolerance": 1e-3}
    assert figures["rollouts"]["cut_off"] == pytest.approx(2 / 3)
    assert figures["export_dir"] == str(tmp_path / "run" / "export" / "model")
    manifests = {name: require_manifest(path) for name, path in inputs.items()}
    assert figures["seconds"] == {name: m.seconds for name, m in manifests.items()}
    out = capsys.readouterr().out
    assert "held-out NLL before: 2.0000 nats/token\n" in out
    assert "held-out NLL stage1: 1.5000 nats/token, -0.5000\n" in out


def test_the_page_is_whole_and_shows_text_as_text(
    inputs: dict[str, Path], run_stage: Callable[..., Any], tmp_path: Path
) -> None:
    run_stage(report.run, SETTINGS, inputs)
    page = (tmp_path / "stage" / "report.html").read_text()
    balance = Balance()
    balance.feed(page)
    assert balance.open == []
    assert "<h1>A &lt;small&gt; run</h1>" in page
    assert "x &lt; y." in page
    assert "answer of before" in page
    assert "answer of after" in page
    assert "answer of middle" not in page
    assert page.count("<svg") == 7
    assert "34 tokens on average, the teacher's 23; 67 % were cut off" in page
    assert "&lt;think&gt;\na</span>" in page  # the student's prefix of the mixed-policy response
    assert "http" not in page.replace("http://www.w3.org/", "")  # the names of SVG's vocabulary


def test_the_first_tile_is_the_accuracy_also_where_the_teacher_was_not_asked(
    inputs: dict[str, Path], run_stage: Callable[..., Any], tmp_path: Path
) -> None:
    scores = dict(zip(("before", "after"), SETTINGS.heldout_scores.values(), strict=True))
    run_stage(report.run, SETTINGS.model_copy(update={"heldout_scores": scores}), inputs)
    page = (tmp_path / "stage" / "report.html").read_text()
    assert "<b>0 → 100 %</b><span>of held-out tasks right, before → after</span>" in page


def test_parts_that_a_run_does_not_have_are_left_out(
    inputs: dict[str, Path], run_stage: Callable[..., Any], tmp_path: Path
) -> None:
    short = SETTINGS.model_copy(
        update={"evaluate": None, "verify": None, "train": [], "filters": [], "rollouts": None}
    )
    run_stage(report.run, short, inputs)
    page = (tmp_path / "stage" / "report.html").read_text()
    for heading in (
        "Accuracy",
        "Side by side",
        "Training",
        "A mixed-policy response",
        "The student",
    ):
        assert f"<h2>{heading}" not in page


def test_of_iterations_run_twice_the_last_counts(tmp_path: Path) -> None:
    logs = tmp_path / LOGS
    logs.mkdir()
    lines = [
        '{"iteration": 1, "loss": 3.0}',
        '{"iteration": 2, "loss": 2.0}',
        '{"iteration": 2, "heldout_loss": 2.2}',
        '{"iteration": 3, "lo',  # killed here, went on from the checkpoint after iteration 1
        '{"iteration": 2, "loss": 2.5}',
        '{"iteration": 3, "loss": 1.5}',
        '{"iteration": 3, "heldout_loss": 1.7}',
    ]
    (logs / METRICS).write_text("\n".join(lines))
    assert report.loss_curves(tmp_path) == {
        "train": [[1, 3.0], [2, 2.5], [3, 1.5]],
        "heldout": [[2, 2.2], [3, 1.7]],
    }


def test_domains_take_turns() -> None:
    rows = [{"domain": domain, "n": n} for n, domain in enumerate("aaabab")]
    assert [row["n"] for row in spread(rows, 4)] == [0, 3, 1, 5]
