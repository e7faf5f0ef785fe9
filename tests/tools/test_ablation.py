"""The ablation's files load, and its page is made from kept results alone."""

import json
import random
import sys
from pathlib import Path

import pytest

from megatron_dasd.config.pipeline import load_pipeline
from megatron_dasd.errors import UserError

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "ablation"
sys.path.insert(0, str(ROOT / "tools"))

from ablations import arms, page  # noqa: E402 -- of the tools

ARMS = sorted(path.stem for path in (EXAMPLE / "arms").glob("*.yaml"))


def seed_result(share: float, seed: int) -> arms.SeedResult:
    rng = random.Random(seed)
    return {
        "right": [sum(rng.random() < share for _ in range(4)) for _ in range(50)],
        "num_samples": 4,
        "answered": 1.0,
        "heldout_nll": 0.5,
        "exposure": {},
        "loss_tokens": 10,
        "steps": 3,
        "commit": "abc",
    }


def test_every_arm_takes_its_data_from_the_same_pool() -> None:
    assert len(ARMS) == 10
    pool = load_pipeline(EXAMPLE / "pool.yaml", overrides=["seed=3"])
    for arm in ARMS:
        pipeline = load_pipeline(EXAMPLE / "arms" / f"{arm}.yaml", overrides=["seed=3"])
        assert {name: pipeline.stages[name] for name in pool.stages} == pool.stages
        trained = [
            s for n, s in pipeline.stages.items() if s.kind == "train" and n not in pool.stages
        ]
        steps = sum(stage.model_dump()["max_steps"] for stage in trained)
        assert steps == (950 if "second" in pipeline.stages else 800)
    fixed = set(arms._fixed(pool))
    assert {"prompts", "teacher", "student", "student_checkpoint"} - fixed == {
        "student_checkpoint"
    } - fixed
    assert {"sample", "score"} & fixed == set()


def test_every_comparison_is_of_arms_that_exist() -> None:
    text = (EXAMPLE / "contrasts.yaml").read_text()
    wanted = page.parse_yaml(text)
    assert isinstance(wanted, list)
    assert {one[side] for one in wanted for side in ("arm", "control")} <= {*ARMS}
    groups = {one["group"] for one in wanted}
    assert sum(bool(one.get("primary")) for one in wanted) == len(groups)


def test_the_page_is_made_from_kept_results(tmp_path: Path) -> None:
    results = tmp_path / "results"
    with pytest.raises(UserError, match="no result is kept yet"):
        page.write_page(EXAMPLE, results, tmp_path)
    plan = json.loads(arms.write_plan(results, 8, 1000, 4).read_text())
    assert plan["smallest_effect"] == pytest.approx(0.0351, abs=1e-4)
    assert arms.write_plan(results, 2, 3, 4).read_text() == json.dumps(plan, indent=2) + "\n"
    for arm, share in (("high", 0.5), ("count", 0.8), ("longest", 0.5)):
        kept = {str(seed): seed_result(share, 7 * seed + len(arm)) for seed in range(1, 9)}
        whole = {"arm": arm, "settings": "x", "seeds": kept}
        (results / f"{arm}.json").write_text(json.dumps(whole))
    text = page.write_page(EXAMPLE, results, tmp_path).read_text()
    assert (tmp_path / "pictures" / "ablation.svg").read_text().startswith("<svg")
    [count] = [line for line in text.splitlines() if "count less high" in line]
    assert "selection (primary)" in count
    assert "0.000 | 8 | +1.9 / +3.1" in count
    assert "low_high" not in text  # nothing is kept of it


def test_results_of_other_settings_are_not_mixed(tmp_path: Path) -> None:
    results = tmp_path / "results"
    results.mkdir()
    (results / "low.json").write_text('{"arm": "low", "settings": "other", "seeds": {}}')
    with pytest.raises(UserError, match="kept from other settings of the arm"):
        arms.run_arm(EXAMPLE, tmp_path / "runs", results, "low", 1)
