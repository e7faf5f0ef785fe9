"""Where rows of the worker stand among the data's."""

from pathlib import Path

from megatron_dasd.training.exchange import Exchange
from megatron_dasd.training.metrics import computed
from megatron_dasd.training.on_policy import OnPolicy, RowQuota
from megatron_dasd.training.step_recorder import StepRecorder
from tests.training.test_step_recorder import DENSE, Rows


def quota(**changes: object) -> RowQuota:
    given = {"global_batch_size": 4, "num_samples": 18, "share": 0.3, "max_age": 9}
    return RowQuota(**(given | changes))  # type: ignore[arg-type]


def test_a_step_takes_its_share_rounded_over_the_steps_before() -> None:
    # 1.2, 2.4, 3.6, 4.8 and, of the last step's two samples, 5.4 in all
    assert [quota().most(i) for i in range(1, 6)] == [1, 1, 1, 1, 1]
    assert [quota(share=0.1).most(i) for i in range(1, 6)] == [0, 0, 1, 0, 0]
    assert [quota(share=1.0).most(i) for i in range(1, 6)] == [4, 4, 4, 4, 2]
    assert quota().last_iteration == 5


def test_own_rows_come_first_and_the_data_goes_on_behind_them(tmp_path: Path) -> None:
    hook = OnPolicy(Exchange(tmp_path), quota(num_samples=11), None, "torch")
    hook.schedule.take(
        [
            {"round": 0, "weights": 0, "iterations": [2, None, 2]},
            {"round": 1, "weights": 1, "iterations": [3]},
        ]
    )
    packs = hook.packs(100, lambda sample: sample)
    assert [packs(sample) for sample in range(13)] == [
        *(0, 1, 2, 3),
        *(100, 102, 4, 5),  # rows 0 and 2 of the first round
        *(103, 6, 7, None),  # behind the last sample: padding
        None,
    ]


def test_rows_and_their_mean_age_are_told_of_each_step(tmp_path: Path) -> None:
    hook = OnPolicy(Exchange(tmp_path), quota(), None, "torch")
    hook.schedule.take([{"round": 0, "weights": 1, "iterations": [2, 2, 4]}])
    recorder = StepRecorder(DENSE, num_ranks=1, on_policy=hook)
    recorder.begin(Rows(), lambda sample: sample, first_sample=0)  # type: ignore[arg-type]

    def figures(consumed_samples: int) -> dict[str, object]:
        values = computed(recorder.step(consumed_samples, 1.0))
        return {name: x for name, x in values.items() if name.startswith("on_policy")}

    assert figures(4) == {"on_policy_rows": 0}
    assert figures(8) == {"on_policy_rows": 2, "on_policy_age": 0.0}
    assert figures(16) == {"on_policy_rows": 1, "on_policy_age": 2.0}
