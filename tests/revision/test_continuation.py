from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_dasd.config.base import Engine, ThinkingFormat
from megatron_dasd.config.teacher import ContinueTeacher
from megatron_dasd.engines.base import GenerationRequest
from megatron_dasd.engines.transformers_engine import TransformersEngine
from megatron_dasd.manifests import model_folder
from megatron_dasd.records import FinishReason, Prompt, Response, Rollout
from megatron_dasd.records_io import SetAside, read_records
from megatron_dasd.revision import continuation
from megatron_dasd.revision.continuation import cut_rollout, cut_rollouts
from megatron_dasd.seeds import derive_seed
from tests.conftest import RunStage

EQUALS = ThinkingFormat(open="", close="=")
SETTINGS = ContinueTeacher(
    kind="continue_teacher",
    model="teacher",
    rollouts="rollouts",
    max_new_tokens=10,
    thinking=EQUALS,
    engine=Engine(batch_size=8, dtype="float32"),
    seed=1,
)
Make = Callable[..., Rollout]


@pytest.fixture
def make(make_prompt: Callable[..., Prompt]) -> Make:
    def rollout(
        text: str,
        prompt_id: str = "p0",
        finish_reason: FinishReason = "length",
        candidate: int = 0,
    ) -> Rollout:
        data = list(text.encode())
        return Rollout(
            prompt=make_prompt(prompt_id),
            candidate=candidate,
            token_ids=[byte + 1000 for byte in data],
            num_bytes=[1] * len(data),
            text=text,
            max_tokens=len(data),
            finish_reason=finish_reason,
            seed=0,
        )

    return rollout


def test_a_prefix_is_the_students_own_and_the_teacher_reads_its_own_form(make: Make) -> None:
    rollout = make("<think>\nabc def ghi jkl mno")
    for seed in range(30):
        prefix = cut_rollout(rollout, 0.5, EQUALS, seed)
        assert prefix is not None
        kept = len(prefix.student_prefix_ids)
        assert 14 <= kept <= 26  # beyond 13.5 of the 27 tokens, and not all of them
        assert prefix.student_prefix == rollout.text[:kept]
        assert prefix.student_prefix_ids == rollout.token_ids[:kept]
        assert prefix.teacher_form == rollout.text[len("<think>\n") : kept]


def test_no_cut_falls_inside_a_delimiter(make: Make) -> None:
    rollout = make("<think>\nab\n</think>\n\ncd")  # half of it ends inside </think>
    forms = set()
    for seed in range(300):
        prefix = cut_rollout(rollout, 0.5, EQUALS, seed)
        assert prefix is not None
        forms.add((prefix.student_prefix.removeprefix("<think>\nab\n"), prefix.teacher_form))
    assert forms == {
        ("</think>", "ab="),
        ("</think>\n", "ab="),
        ("</think>\n\n", "ab="),
        ("</think>\n\nc", "ab=c"),
    }


def test_rollouts_of_one_prompt_are_cut_at_places_of_their_own(make: Make) -> None:
    text = "<think>\nabc def ghi jkl mno"
    cuts = [cut_rollout(make(text, candidate=i), 0.5, EQUALS, 1) for i in range(8)]
    assert len({prefix.student_prefix for prefix in cuts if prefix}) > 1
    assert [prefix.candidate for prefix in cuts if prefix] == list(range(8))


@pytest.mark.parametrize("text", ["abc def ghi", "<th", "<think", ""])
def test_a_text_in_another_form_cannot_be_cut(make: Make, text: str) -> None:
    assert cut_rollout(make(text), 0.5, EQUALS, 0) is None


def test_only_rollouts_that_the_cap_ended_are_cut(make: Make) -> None:
    aside = SetAside()
    given = [
        make("<think>\nabc def", "whole", "stop"),
        make("<think>\nabc def", "capped"),
        make("no form", "formless"),
    ]
    prefixes = list(cut_rollouts(iter(given), SETTINGS, aside))
    assert [prefix.prompt.prompt_id for prefix in prefixes] == ["capped"]
    assert aside.counts == {"dropped: ended before the cap": 1, "dropped: no place to cut": 1}


def test_the_teacher_goes_on_from_the_prefix(
    run_stage: RunStage,
    tmp_path: Path,
    make: Make,
    write_records: Callable[..., Path],
    random_model_dir: Path,
) -> None:
    given = [
        make(f"<think>\nabc{'de' * i}\n</think>\n\nfgh", f"p{i}", candidate=i % 2) for i in range(6)
    ]
    inputs = {"teacher": random_model_dir, "rollouts": write_records("rollouts", [given])}
    manifest = run_stage(continuation.run, SETTINGS, inputs)
    written = list(read_records(tmp_path / "stage", Response))
    assert manifest.figures == {"num_prefixes": 6}
    assert len(written) + manifest.counts.get("dropped: empty", 0) == 6
    engine = TransformersEngine(model_folder(random_model_dir), SETTINGS.engine, "teacher")
    by_id = {rollout.prompt.prompt_id: rollout for rollout in given}
    for response in written:
        prompt_id = response.prompt.prompt_id
        prefix = cut_rollout(by_id[prompt_id], 0.5, EQUALS, 1)
        assert prefix is not None
        assert response.student_prefix == prefix.student_prefix
        assert response.student_prefix_ids == prefix.student_prefix_ids
        assert response.candidate == by_id[prompt_id].candidate
        request = GenerationRequest(
            prompt="<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n" + prefix.teacher_form,
            max_new_tokens=10,
            seed=derive_seed(1, "continue", prompt_id, response.candidate),
        )
        assert engine.generate_batch([request])[0].text == response.text
