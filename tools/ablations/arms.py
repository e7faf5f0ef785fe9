"""Runs the arms from their seeds and keeps what came of each: one file an arm, resumable."""

import json
import os
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypedDict

from megatron_dasd.artifacts import write_atomic
from megatron_dasd.config.pipeline import Pipeline, load_pipeline
from megatron_dasd.errors import UserError
from megatron_dasd.evaluation.accuracy import verdict
from megatron_dasd.evaluation.contrasts import smallest_effect
from megatron_dasd.evaluation.exposure import exposure_figures
from megatron_dasd.evaluation.heldout import heldout_figures
from megatron_dasd.manifests import fingerprint_of, read_manifest
from megatron_dasd.pipeline.runner import run_stages
from megatron_dasd.printing import say
from megatron_dasd.records import Graded, ScoredResponse
from megatron_dasd.records_io import read_records

POOL, MODELS = "pool", "models"
_ASSUMED_ACCURACY, _ASSUMED_BETWEEN_SEEDS = 0.5, 0.02


class SeedResult(TypedDict):
    """What one seed of an arm came to."""

    right: list[int]
    """Right answers to each problem, in the order of the problems' ids."""
    num_samples: int
    answered: float
    heldout_nll: float
    """Nats per token of the teacher's held-out responses."""
    exposure: dict[str, float]
    """Exposure bias before and after, of arms that measure it."""
    loss_tokens: int
    """Tokens of an epoch of the data."""
    steps: int
    commit: str


class ArmResult(TypedDict):
    """A kept file."""

    arm: str
    settings: str
    """Digest of what the arm's stages do; results of other settings are not mixed with them."""
    seeds: dict[str, SeedResult]


def run_arm(example: Path, runs: Path, results: Path, arm: str, seed: int) -> bool:
    """Run one arm from one seed, unless its result is kept; whether it was run.

    Raises:
        UserError: a stage fails, or results of other settings are kept.
    """
    file = example / "arms" / f"{arm}.yaml"
    overrides = [f"seed={seed}"]
    pipeline = load_pipeline(file, runs / arm / f"seed-{seed}", overrides)
    kept = read_result(results, arm)
    digest = _digest(load_pipeline(file, runs / arm, ["seed=0"]))
    if kept and kept["settings"] != digest:
        raise UserError(
            f"{results / arm}.json: kept from other settings of the arm; move it away to run anew"
        )
    if kept and str(seed) in kept["seeds"]:
        return False
    pool = load_pipeline(example / "pool.yaml", runs / POOL / f"seed-{seed}", overrides)
    _run(pool, runs / MODELS)
    _share(pool.run_dir, pipeline.run_dir, pool.stages)
    run_stages(pipeline, list(pipeline.stages))
    seeds = (kept["seeds"] if kept else {}) | {str(seed): _result(pipeline)}
    result: ArmResult = {"arm": arm, "settings": digest, "seeds": seeds}
    results.mkdir(parents=True, exist_ok=True)
    write_atomic(results / f"{arm}.json", json.dumps(result, sort_keys=True).encode() + b"\n")
    return True


def check_arm(example: Path, runs: Path, results: Path, arm: str, seed: int) -> str:
    """Run one arm again from one seed, in folders of its own, and compare it with what is kept.

    Raises:
        UserError: nothing is kept of it, or it comes to something else.
    """
    kept = read_result(results, arm)
    if not kept or str(seed) not in kept["seeds"]:
        raise UserError(f"{results}: nothing is kept of {arm}, seed {seed}")
    again = runs / "again"
    run_arm(example, again, again / "results", arm, seed)
    made = read_result(again / "results", arm)
    assert made is not None
    before, now = kept["seeds"][str(seed)], made["seeds"][str(seed)]
    differing = [
        name for name, value in before.items() if name != "commit" and now.get(name) != value
    ]
    if differing:
        raise UserError(f"{arm}, seed {seed}: other than kept in {', '.join(differing)}")
    return f"{arm}, seed {seed}: the kept figures"


def write_plan(results: Path, num_seeds: int, num_problems: int, num_samples: int) -> Path:
    """Write down the smallest effect that can be seen, before any arm is run; once."""
    path = results / "plan.json"
    if not path.exists():
        results.mkdir(parents=True, exist_ok=True)
        plan = {
            "num_seeds": num_seeds,
            "num_problems": num_problems,
            "num_samples": num_samples,
            "assumed_accuracy": _ASSUMED_ACCURACY,
            "assumed_between_seeds": _ASSUMED_BETWEEN_SEEDS,
            "smallest_effect": smallest_effect(
                num_seeds, num_problems, num_samples, _ASSUMED_ACCURACY, _ASSUMED_BETWEEN_SEEDS
            ),
        }
        write_atomic(path, json.dumps(plan, indent=2).encode() + b"\n")
    return path


def read_result(results: Path, arm: str) -> ArmResult | None:
    """What is kept of an arm; None: nothing is."""
    path = results / f"{arm}.json"
    if not path.exists():
        return None
    found: ArmResult = json.loads(path.read_bytes())
    return found


def _run(pool: Pipeline, models: Path) -> None:
    """Run the pool of one seed; stages that are the same for every seed are made once."""
    fixed = list(_fixed(pool))
    _share(models, pool.run_dir, fixed)
    run_stages(pool, list(pool.stages))


def _fixed(pool: Pipeline) -> Iterator[str]:
    """The stages that have a seed of their own: the models and the problems."""
    other = load_pipeline(pool.path, pool.run_dir, [f"seed={pool.seed + 1}"])
    for name, settings in pool.stages.items():
        if settings == other.stages[name]:
            yield name


def _share(place: Path, run_dir: Path, stages: Iterable[str]) -> None:
    """Let a run find stages in another place, by links."""
    run_dir.mkdir(parents=True, exist_ok=True)
    for name in stages:
        (place / name).mkdir(parents=True, exist_ok=True)
        link = run_dir / name
        if not link.is_symlink():
            link.symlink_to(os.path.relpath((place / name).resolve(), run_dir.resolve()))


def _digest(pipeline: Pipeline) -> str:
    stages = {name: settings.identity() for name, settings in pipeline.stages.items()}
    return fingerprint_of("ablation", {"stages": stages}, {})


def _result(pipeline: Pipeline) -> SeedResult:
    answers = list(read_records(pipeline.stage_dir("answers"), Graded))
    right: dict[str, int] = {}
    for one in answers:
        right[one.prompt.prompt_id] = right.get(one.prompt.prompt_id, 0) + (verdict(one) == "right")
    trained, data = (read_manifest(pipeline.stage_dir(name)) for name in ("trained", "data"))
    assert trained is not None
    assert data is not None
    nll = heldout_figures({"trained": _scored(pipeline, "likelihood")})["heldout_nll"]["trained"]
    return {
        "right": [right[prompt_id] for prompt_id in sorted(right)],
        "num_samples": len(answers) // len(right),
        "answered": sum(verdict(one) != "no answer" for one in answers) / len(answers),
        "heldout_nll": nll,
        "exposure": _exposure(pipeline),
        "loss_tokens": _whole(trained.figures.get("loss_tokens_per_epoch")),
        "steps": _whole(trained.figures.get("iterations")),
        "commit": commit(),
    }


def _exposure(pipeline: Pipeline) -> dict[str, float]:
    if "exposure_after" not in pipeline.stages:
        return {}
    names = {"before": "likelihood_before", "after": "likelihood"}
    found = exposure_figures(
        {name: _scored(pipeline, f"exposure_{name}") for name in names},
        {name: _scored(pipeline, stage) for name, stage in names.items()},
    )
    return {name: figures["mean"] for name, figures in found.items()}


def _scored(pipeline: Pipeline, stage: str) -> Iterator[ScoredResponse]:
    return read_records(pipeline.stage_dir(stage), ScoredResponse)


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0


def commit() -> str:
    """The commit that runs; with ``+`` where files differ from it."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty=+", "--abbrev=12"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parent,
    )
    return done.stdout.strip() or "unknown"


def run_all(
    example: Path, runs: Path, results: Path, arms: Sequence[str], seeds: Sequence[int]
) -> None:
    """Run what is missing, a seed of every arm before the next seed."""
    for seed in seeds:
        for arm in arms:
            ran = run_arm(example, runs, results, arm, seed)
            say(f"ablation: {arm}, seed {seed}: {'kept' if ran else 'kept before'}")
