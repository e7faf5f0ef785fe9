"""Stage select_das: groups, figures, parts and restarts."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from math import log
from pathlib import Path

import pytest

from megatron_dasd.artifacts import StageFolder
from megatron_dasd.config.selection import SelectDas
from megatron_dasd.divergence.figures import collect
from megatron_dasd.divergence.runner import run, select
from megatron_dasd.errors import UserError
from megatron_dasd.manifests import Manifest
from megatron_dasd.records import (
    Prompt,
    Response,
    ScoredResponse,
    SelectedResponse,
    Span,
    TokenLogprobs,
)
from megatron_dasd.records_io import read_records

RunStage = Callable[..., Manifest]
MakeScored = Callable[..., ScoredResponse]
HIGH, LOW = 0.95, 0.5


def settings(**changes: object) -> SelectDas:
    given = {"kind": "select_das", "responses": "scored", "seed": 7}
    return SelectDas(**(given | changes))  # type: ignore[arg-type]


@pytest.fixture
def make_scored(
    make_response: Callable[..., Response], make_prompt: Callable[..., Prompt]
) -> MakeScored:
    """Make a response whose thinking has sentences of given classes, and the answer "z" is shared.

    ``classes`` is a word like "tss." of t(eacher), s(tudent) and . (shared), each a sentence "ok. "
    of 4 bytes; a token a byte in both models.
    """

    def make(
        classes: str,
        prompt_id: str = "p0",
        split: str = "train",
        domain: str = "unknown",
        **fields: object,
    ) -> ScoredResponse:
        thinking = " ".join(["ok."] * len(classes))
        output = f"<think>\n{thinking}\n</think>\n\nz"
        start, size = len("<think>\n"), len(thinking)
        spans = [Span(start=start, end=start + size), Span(start=len(output) - 1, end=len(output))]

        def tokens(high_for: str, end_of_turn: int) -> TokenLogprobs:
            values = [LOW] * len(output) + [LOW] * end_of_turn
            for index, kind in enumerate(classes):
                if kind == high_for:
                    first = start + 4 * index
                    last = min(first + 4, start + size)
                    values[first:last] = [HIGH] * (last - first)
            return TokenLogprobs(
                token_ids=[0] * len(values),
                num_bytes=[1] * len(output) + [0] * end_of_turn,
                logprobs=[log(value) for value in values],
            )

        return make_response(  # type: ignore[return-value]
            output,
            ScoredResponse,
            prompt=make_prompt(prompt_id, split=split, domain=domain),
            tokens=tokens("t", 0),
            output=output,
            output_spans=spans,
            text_spans=spans,
            student_tokens=tokens("s", 1),
            student_model="student",
            **fields,
        )

    return make


def test_selection_and_its_figures(
    run_stage: RunStage,
    make_scored: MakeScored,
    write_records: Callable[..., Path],
    tmp_path: Path,
) -> None:
    # the candidates of p0 at T = 1 lie in both files, with those of others between them
    first = [
        make_scored("tt.", candidate=0),
        make_scored("s", "p1", candidate=0),
        make_scored("t", "p0", candidate=0, temperature=0.6),
        make_scored("tttt", "p2", "heldout"),
    ]
    second = [
        make_scored("tss..", candidate=1),  # the longest of p0, with one teacher sentence
        make_scored("tt..", "p1", candidate=1),  # the longest of p1 and the one with most
    ]
    inputs = {"scored": write_records("scored", [first, second])}
    manifest = run_stage(run, settings(), inputs)

    chosen = [
        [
            (r.prompt.prompt_id, r.temperature, r.candidate)
            for r in read_records(part, SelectedResponse)
        ]
        for part in sorted((tmp_path / "stage").glob("part-*.parquet"))
    ]
    assert chosen == [[("p0", 1.0, 0), ("p0", 0.6, 0)], [("p1", 1.0, 1)]]
    assert manifest.counts == {"kept": 3, "dropped: not selected": 2, "skipped: heldout": 1}
    figures = manifest.figures
    # every response has a shared answer besides
    assert figures["sentence_classes"] == {"teacher": 6, "student": 3, "shared": 10}
    assert figures["sentence_classes_by_temperature"] == {
        "0.6": {"teacher": 1, "student": 0, "shared": 1},
        "1": {"teacher": 5, "student": 3, "shared": 9},
    }
    assert figures["sentence_classes_kept"] == {"teacher": 5, "student": 0, "shared": 6}
    assert (figures["groups"], figures["groups_compared"]) == (3, 2)
    assert figures["count_differs_from_longest"] == 0.5
    assert figures["count_exceeds_longest"] == 0.5
    # gaps: 6 of 0.45, 3 of -0.45, 10 of 0, in bins of 0.1
    counts = figures["gap_histogram"]["counts"]
    assert len(counts) == 20
    assert len(figures["gap_histogram"]["edges"]) == 21
    assert {i: n for i, n in enumerate(counts) if n} == {5: 3, 10: 10, 14: 6}

    record = next(read_records(tmp_path / "stage", SelectedResponse))
    assert [s.provenance for s in record.sentences] == ["teacher", "teacher", "shared", "shared"]
    assert record.sentences[0].text == "ok. "
    assert record.sentences[0].teacher_probability == pytest.approx(HIGH)
    assert record.sentences[0].student_probability == pytest.approx(LOW)
    assert [e["temperature"] for e in figures["examples"]] == [1.0, 0.6, 1.0]
    assert figures["examples"][0]["sentences"][0]["provenance"] == "teacher"


def test_an_equal_count_differs_by_chance_but_does_not_exceed(
    run_stage: RunStage, make_scored: MakeScored, write_records: Callable[..., Path]
) -> None:
    groups = [
        [make_scored("t" + "." * c, f"p{i}", candidate=c) for c in range(4)] for i in range(40)
    ]
    inputs = {"scored": write_records("scored", [[r for group in groups for r in group]])}
    figures = run_stage(run, settings(), inputs).figures
    assert 0.5 < figures["count_differs_from_longest"] < 1.0  # 3 of 4 expected
    assert figures["count_exceeds_longest"] == 0.0


def test_strategy_and_keep(
    run_stage: RunStage,
    make_scored: MakeScored,
    write_records: Callable[..., Path],
    tmp_path: Path,
) -> None:
    group = [make_scored(word, candidate=i) for i, word in enumerate(["t", "tt", ".....", "ttt"])]
    inputs = {"scored": write_records("scored", [group])}

    def chosen(**changes: object) -> list[int]:
        run_stage(run, settings(**changes), inputs)
        return [r.candidate for r in read_records(tmp_path / "stage", SelectedResponse)]

    assert chosen(keep=2) == [1, 3]
    assert chosen(strategy="longest") == [2]
    assert chosen(strategy="fewest") == [2]
    assert chosen(strategy="random", keep=9) == [0, 1, 2, 3]
    # with a higher bar no sentence is the teacher's: the gap is 0.45
    assert run_stage(run, settings(beta=0.46), inputs).figures["sentence_classes"]["teacher"] == 0


def test_a_restart_gives_the_same_bytes(
    run_stage: RunStage,
    make_scored: MakeScored,
    write_records: Callable[..., Path],
    tmp_path: Path,
) -> None:
    parts = [[make_scored("t" * (i + 1), candidate=i)] for i in range(3)]
    inputs = {"scored": write_records("scored", parts)}
    whole = run_stage(run, settings(keep=2), inputs)
    (tmp_path / "stage" / "part-00001.parquet").unlink()
    (tmp_path / "stage" / "part-00002.parquet").unlink()
    again = run_stage(run, settings(keep=2), inputs)
    assert (again.digest, again.counts, again.figures) == (
        whole.digest,
        whole.counts,
        whole.figures,
    )


@pytest.mark.parametrize("how", [{"keep": 2}, {"budget": {"responses": 9}}], ids=str)
def test_any_number_of_processes_gives_the_same_bytes(
    run_stage: RunStage,
    make_scored: MakeScored,
    write_records: Callable[..., Path],
    how: dict[str, object],
) -> None:
    parts = [
        [
            make_scored("t" * (1 + (5 * part + n) % 4), f"p{n}", candidate=part, domain=f"d{part}")
            for n in range(6)
        ]
        for part in range(5)
    ]
    inputs = {"scored": write_records("scored", parts)}

    def figures_alone(
        given: SelectDas, inputs: dict[str, Path], folder: StageFolder
    ) -> dict[str, object]:  # pictures take seconds to draw
        return dict(collect(select(given, inputs, folder), False, folder.path))

    expected = run_stage(figures_alone, settings(num_workers=1, **how), inputs, name="one")
    for num_workers in (2, 3):
        given = settings(num_workers=num_workers, **how)
        found = run_stage(figures_alone, given, inputs, name="many")
        assert (found.files, found.counts) == (expected.files, expected.counts)
        assert found.figures == expected.figures
        shutil.rmtree(inputs["scored"].with_name("many"))
    assert {file for file in expected.files if file.startswith("part")} == {
        f"part-{part:05d}.parquet" for part in range(5)
    }


def test_a_response_whose_tokens_do_not_fit_is_malformed(
    run_stage: RunStage,
    make_scored: MakeScored,
    write_records: Callable[..., Path],
    tmp_path: Path,
) -> None:

    bad = make_scored("t", candidate=0)
    short = TokenLogprobs(token_ids=[0], num_bytes=[3], logprobs=[-1.0])
    records = [replace(bad, student_tokens=short), make_scored(".", candidate=1)]
    inputs = {"scored": write_records("scored", [records])}
    with pytest.raises(UserError, match="prompt p0, candidate 0: field num_bytes: sum to 3"):
        run_stage(run, settings(), inputs)
    manifest = run_stage(run, settings(on_malformed="set_aside"), inputs)
    assert manifest.counts == {"kept": 1, "dropped: not selected": 0, "malformed": 1}
    assert [r.candidate for r in read_records(tmp_path / "stage", SelectedResponse)] == [1]


def test_the_distilled_student_s_scores_are_joined_by_name(
    run_stage: RunStage, make_scored: MakeScored, write_records: Callable[..., Path], tmp_path: Path
) -> None:
    scored = [make_scored("t.s", candidate=0), make_scored("..", candidate=1)]
    # after training the student likes what the teacher likes, and candidate 1 in whole
    after = [
        replace(scored[1], student_tokens=sure_of(scored[1])),
        replace(scored[0], student_tokens=scored[0].tokens),
    ]
    inputs = {"scored": write_records("scored", [scored]), "after": write_records("after", [after])}
    manifest = run_stage(run, settings(distilled="after", keep=2), inputs)
    records = list(read_records(tmp_path / "stage", SelectedResponse))
    assert [s.provenance for s in records[0].sentences] == [
        "teacher",
        "shared",
        "student",
        "shared",
    ]
    assert [s.provenance for s in records[1].sentences] == ["boosted", "boosted", "boosted"]
    assert records[1].sentences[0].distilled_probability == pytest.approx(HIGH)
    assert manifest.figures["sentence_classes"]["boosted"] == 3
    assert "boosted" in (tmp_path / "stage" / "report.html").read_text()


def sure_of(response: ScoredResponse) -> TokenLogprobs:
    tokens = response.student_tokens
    return replace(tokens, logprobs=[log(HIGH)] * len(tokens.logprobs))


def test_a_second_scoring_of_something_else_is_refused(
    run_stage: RunStage, make_scored: MakeScored, write_records: Callable[..., Path]
) -> None:
    scored = [make_scored("t", candidate=0)]
    inputs = {
        "scored": write_records("scored", [scored]),
        "other": write_records("other", [[make_scored("t", candidate=1)]]),
        "longer": write_records("longer", [[make_scored("tt", candidate=0)]]),
        "more": write_records("more", [scored, scored]),
    }
    for name, message in (
        ("other", "record 1: .*field distilled: .*other.* has no score of this response"),
        ("longer", "record 1: .*field distilled: .*longer.* has scored another output"),
        ("more", "distilled: has 2 parts, the responses 1"),
    ):
        with pytest.raises(UserError, match=message):
            run_stage(run, settings(distilled=name), inputs)


def test_one_budget_for_all_prompts(
    run_stage: RunStage, make_scored: MakeScored, write_records: Callable[..., Path], tmp_path: Path
) -> None:
    records = [
        make_scored("ttt", "p0", candidate=0),
        make_scored("tt", "p0", candidate=1),
        make_scored("t", "p1", candidate=0),
        make_scored("....", "p2", candidate=0),
    ]
    inputs = {"scored": write_records("scored", [records])}

    def chosen(**changes: object) -> list[tuple[str, int]]:
        run_stage(run, settings(**changes), inputs)
        found = read_records(tmp_path / "stage", SelectedResponse)
        return [(r.prompt.prompt_id, r.candidate) for r in found]

    assert chosen(budget={"responses": 2}) == [("p0", 0), ("p0", 1)]
    sizes = [len(r.student_tokens.token_ids) for r in records]
    # what is left after the best is not enough for the second, but for the third
    assert chosen(budget={"tokens": sizes[0] + sizes[2]}) == [("p0", 0), ("p1", 0)]
    with pytest.raises(ValueError, match="not both"):
        settings(keep=2, budget={"responses": 2})
    with pytest.raises(ValueError, match="give tokens or responses"):
        settings(budget={})
    with pytest.raises(ValueError, match="give distilled too"):
        settings(alpha=0.2)


def test_one_temperature_alone(
    run_stage: RunStage, make_scored: MakeScored, write_records: Callable[..., Path]
) -> None:
    records = [make_scored("t", candidate=n, temperature=t) for n, t in enumerate((0.6, 1.0, 1.0))]
    inputs = {"scored": write_records("scored", [records])}
    manifest = run_stage(run, settings(temperature=1.0), inputs)
    assert manifest.counts == {"kept": 1, "dropped: not selected": 1, "skipped: T=0.6": 1}


def test_the_report_tells_of_domains_and_of_kept_against_dropped(
    run_stage: RunStage,
    make_scored: MakeScored,
    make_prompt: Callable[..., Prompt],
    write_records: Callable[..., Path],
    tmp_path: Path,
) -> None:
    math = replace(make_scored("tt", candidate=0), prompt=make_prompt("p0", domain="math"))
    worse = replace(make_scored("..", candidate=1), prompt=make_prompt("p0", domain="math"))
    code = replace(make_scored("s", candidate=0), prompt=make_prompt("p1", domain="code"))
    inputs = {"scored": write_records("scored", [[math, worse, code]])}
    run_stage(run, settings(), inputs)
    report = json.loads((tmp_path / "stage" / "report.json").read_text())
    assert report["sentence_classes_by_domain"] == {
        "code": {"1": {"teacher": 0, "student": 1, "shared": 1}},
        "math": {"1": {"teacher": 2, "student": 0, "shared": 4}},
    }
    both = report["kept_against_dropped"]["1"]
    assert (both["kept"]["responses"], both["dropped"]["responses"]) == (2, 1)
    assert both["kept"]["teacher_sentences"] == 1.0
    assert both["dropped"]["teacher_probability"] == pytest.approx(LOW, rel=1e-6)
    probability = report["response_probability"]
    assert sum(probability["counts"]["1"]["all"]["teacher"]) == 3
    # worse and code are of 0.5 under the teacher: the bin from 0.5 on
    assert probability["counts"]["1"]["dropped"]["teacher"][25] == 1
    page = (tmp_path / "stage" / "report.html").read_text()
    assert page.count("<svg") >= 6
    assert "math, T = 1" in page
