"""Mixed-policy data with a real vLLM on both sides: SmolLM2 teaches the student pruned from it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from megatron_dasd.config.base import ThinkingFormat
from megatron_dasd.config.pipeline import load_pipeline
from megatron_dasd.data.meta import LOSS_MASK, TOKENS, Document
from megatron_dasd.data.packed_dataset import PackedDataset
from megatron_dasd.engines.services import SERVICES
from megatron_dasd.engines.weights import Weights
from megatron_dasd.manifests import LOGS, METRICS, model_folder, require_manifest
from megatron_dasd.records import FilteredResponse, Response, Rollout
from megatron_dasd.records_io import read_records
from megatron_dasd.text.chat import render_prompt
from megatron_dasd.text.encoding import encode, load_tokenizer
from megatron_dasd.text.layout import end_of_turn_id
from megatron_dasd.text.thinking import to_teacher_form
from tests.vllm_server import ENVIRONMENT, vllm_python

ON_POLICY = Path(__file__).parents[2] / "examples" / "cpu_tiny" / "on_policy.yaml"
THINKING = ThinkingFormat(open="", close="\nAnswer: ")
SYSTEM = "You are a helpful assistant."
SMALLER = [
    "prompts.tasks=[{generator: chain_sum, size: 16, config: {max_terms: 3, max_digits: 1}}]",
    "sample.temperatures=[1.0]",
    "sample.engine={batch_size: 16, server: {service: teacher, patience_seconds: 180}}",
    "heal_data.max_tokens=1500",
    "data_low.temperature=1.0",
    "data_high.temperature=1.0",
    "stage2.epochs=0.2",
    "rollouts.cap_ratio=0.8",
    "rollouts.num_rollouts=2",
    "data_mixed.mix_ratio=0.5",
]

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(1500)]


def arguments(module: str, run_dir: Path, *more: str) -> list[str]:
    sets = [word for setting in SMALLER for word in ("--set", setting)]
    return [sys.executable, "-m", module, str(ON_POLICY), *more, "--run-dir", str(run_dir), *sets]


@contextmanager
def served(service: str, run_dir: Path) -> Iterator[None]:
    """The server of a service, as its job would run it."""
    command = arguments("megatron_dasd.cluster.serve", run_dir, service)
    with (run_dir / f"{service}.log").open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A run up to the end of stage 3."""
    place = tmp_path_factory.mktemp("servers") / "run"
    place.mkdir()
    with pytest.MonkeyPatch.context() as patch, ExitStack() as servers:
        bin_folder = vllm_python().parent
        patch.setenv("PATH", str(bin_folder), prepend=os.pathsep)
        patch.setenv("SLURMD_NODENAME", "127.0.0.1")
        patch.setenv(SERVICES, str(place / "services"))
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        stages = [*load_pipeline(ON_POLICY).ancestors("stage3"), "stage3"]
        run_stages(place, stages[: stages.index("sample")])
        servers.enter_context(served("teacher", place))
        run_stages(place, stages[stages.index("sample") : stages.index("rollouts")])
        servers.enter_context(served("student", place))
        run_stages(place, stages[stages.index("rollouts") :])
        yield place


def run_stages(run_dir: Path, stages: list[str]) -> None:
    only = [word for stage in stages for word in ("--only", stage)]
    done = subprocess.run(
        [*arguments("megatron_dasd.pipeline", run_dir), *only], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr


def test_every_example_is_prompt_and_exact_prefix_and_continuation(run_dir: Path) -> None:
    tokenizer = load_tokenizer(model_folder(run_dir / "student"))
    rollouts = {
        (r.prompt.prompt_id, r.candidate): r for r in read_records(run_dir / "rollouts", Rollout)
    }
    continued = {
        (r.prompt.prompt_id, r.candidate): r
        for r in read_records(run_dir / "continuations", Response)
    }
    kept = {
        (r.prompt.prompt_id, r.candidate): r
        for r in read_records(run_dir / "filter_mixed", FilteredResponse)
    }
    assert len(kept) >= 2
    data = PackedDataset(run_dir / "data_mixed")
    found = 0
    for number, document in enumerate(read_records(run_dir / "data_mixed", Document)):
        if not document.num_prefix_tokens:
            continue  # off-policy
        assert document.prompt_id is not None
        assert document.candidate is not None
        who = document.prompt_id, document.candidate
        rollout, response, filtered = rollouts[who], continued[who], kept[who]
        assert rollout.finish_reason == "length"
        assert len(rollout.token_ids) == rollout.max_tokens
        prefix = rollout.token_ids[: document.num_prefix_tokens]
        assert len(prefix) > len(rollout.token_ids) / 2
        assert response.student_prefix_ids == prefix
        assert rollout.text.startswith(response.student_prefix)
        # what the teacher read ends with the prefix, and what it wrote stands behind it
        in_teacher_form = to_teacher_form(response.student_prefix, THINKING)
        assert in_teacher_form
        assert response.teacher_prompt.endswith(in_teacher_form)
        assert response.finish_reason == "stop"
        assert filtered.output.startswith(response.student_prefix)
        continuation = filtered.output.removeprefix(response.student_prefix)
        asked = render_prompt(tokenizer, filtered.prompt.messages, SYSTEM)
        own = data.document(number)
        prompt_ids = encode(tokenizer, asked)
        assert own[TOKENS].tolist() == [
            *prompt_ids,
            *prefix,
            *encode(tokenizer, continuation, parse_special=False),
            end_of_turn_id(tokenizer),
        ]
        assert own[LOSS_MASK].tolist() == [0] * len(prompt_ids) + [1] * (
            len(own[TOKENS]) - len(prompt_ids)
        )
        found += 1
    assert found == len(kept)


def test_both_models_were_vllm_s_and_the_student_s_weights_were_the_stage_s(run_dir: Path) -> None:
    for stage in ("sample", "continuations"):
        engines = {(r.engine, r.model) for r in read_records(run_dir / stage, Response)}
        assert engines == {("vllm 0.32.0", "teacher")}
    version = Weights.from_folder(model_folder(run_dir / "stage2_hf")).version
    assert f"student: serving {version} at " in (run_dir / "student.log").read_text()


def test_it_was_trained_on(run_dir: Path) -> None:
    figures = require_manifest(run_dir / "stage3").figures
    data = PackedDataset(run_dir / "data_mixed").meta
    assert figures["num_samples"] == data.num_packs
    losses = [
        json.loads(line)["loss"]
        for line in (run_dir / "stage3" / LOGS / METRICS).read_text().splitlines()
    ]
    assert len(losses) == figures["iterations"]
    assert all(0 < loss < 3 for loss in losses)
