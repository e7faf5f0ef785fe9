"""What on-policy training costs its steps: the hook alone, and a worker on the other core."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.figures import Row, at_most
from benchmarks.training import BATCH, STEPS, own_step_seconds, write_model_and_data
from megatron_dasd.manifests import LOGS, METRICS
from megatron_dasd.training.exchange import Exchange
from megatron_dasd.training.job import OnPolicyRows

NUM_PAIRS = 10
MICRO = Path(__file__).parents[2] / "examples" / "cpu_micro" / "on_policy.yaml"
STAGE = "stage3_live"
EPOCHS = 110
NAME = "training steps with the hook on and the worker "


def rows() -> Iterator[Row]:
    """Figures of the room."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        write_model_and_data(place)
        hooked, alone = [], []
        for pair in range(NUM_PAIRS):
            alone.append(own_step_seconds(place / f"{pair} alone", place, []))
            exchange = Exchange(place / f"{pair} hooked")
            exchange.make()
            given = OnPolicyRows(
                stage=place / f"{pair} hooked",
                num_samples=BATCH * STEPS,
                share=0.25,
                max_age=100,
                every=1,
            )
            hooked.append(own_step_seconds(place / f"{pair} logs", place, [], given))
    yield at_most(
        1.03,
        name=f"{NAME}paused, against training alone",
        unit="s",
        own=hooked,
        peer=alone,
        peer_name="training alone, median of a run's steps, 10 alternating pairs",
        bar="at most 1.03 x the time; with the worker running on the other core: printed",
    )
    with tempfile.TemporaryDirectory() as name:
        run_dir = Path(name)
        _run(run_dir, "--until", "stage2")
        beside = _step_seconds(run_dir, [])
        by_itself = _step_seconds(run_dir, [f"{STAGE}.on_policy=null"])
    yield at_most(
        float("inf"),
        name=f"{NAME}running on the other core, against training alone (examples/cpu_micro)",
        unit="s",
        own=beside,
        peer=by_itself,
        peer_name="the same stage without a worker, every step of a run on one core",
        bar="printed",
    )


def _step_seconds(run_dir: Path, settings: list[str]) -> list[float]:
    given = [f"{STAGE}.epochs={EPOCHS}", f"{STAGE}.launch={{num_ranks: 1}}", *settings]
    _run(run_dir, "--only", STAGE, *(word for one in given for word in ("--set", one)))
    lines = (run_dir / STAGE / LOGS / METRICS).read_text().splitlines()
    steps: list[dict[str, float]] = [json.loads(line) for line in lines]
    return [step["seconds"] for step in steps[1:] if "seconds" in step]


def _run(run_dir: Path, *options: str) -> None:
    command = [sys.executable, "-m", "megatron_dasd.pipeline", str(MICRO)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--run-dir", str(run_dir), *options],
        capture_output=True,
        text=True,
        env=environment,
    )
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
