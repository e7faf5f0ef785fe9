from pathlib import Path

import pytest

from megatron_dasd.config.pipeline import load_pipeline
from megatron_dasd.selftest.plan import PRECISIONS, Training, trainings, write_pipeline


@pytest.mark.parametrize(
    ("num_devices", "layouts"),
    [
        (1, ["one rank"]),
        (2, ["one rank", "TP2", "CP2"]),
        (3, ["one rank", "TP2", "CP2"]),
        (4, ["one rank", "TP2 CP2"]),
        (8, ["one rank", "TP2 CP4"]),
        (16, ["one rank", "TP2 CP4"]),
    ],
)
def test_one_rank_and_all_devices(num_devices: int, layouts: list[str]) -> None:
    assert [training.layout for training in trainings("bf16", num_devices)] == layouts


def test_a_pipeline_of_every_precision(tmp_path: Path) -> None:
    given = [training for p in PRECISIONS for training in trainings(p, 8)]
    pipeline = load_pipeline(write_pipeline(tmp_path, given))
    assert pipeline.run_dir == tmp_path
    of_all = Training("fp8-delayed", tensor_parallel=2, context_parallel=4)
    assert of_all.stage == "fp8-delayed_tp2_cp4"
    assert pipeline.stages[of_all.stage].num_ranks == of_all.num_ranks == 8
    kinds = [settings.kind for settings in pipeline.stages.values()]
    assert kinds.count("train") == 2 * len(PRECISIONS) + 1
    assert kinds.count("score_student") == 2
