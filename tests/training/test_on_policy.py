"""Where rows of the worker stand among the data's."""

from pathlib import Path

from megatron_dasd.training.exchange import Exchange
from megatron_dasd.training.on_policy import OnPolicy, Plan


def plan(**changes: object) -> Plan:
    given = {"global_batch_size": 4, "num_samples": 18, "share": 0.3, "max_age": 9, "every": None}
    return Plan(**(given | changes))  # type: ignore[arg-type]


def test_a_step_takes_its_share_rounded_over_the_steps_before() -> None:
    # 1.2, 2.4, 3.6, 4.8 and, of the last step's two samples, 5.4 in all
    assert [plan().most(i) for i in range(1, 6)] == [1, 1, 1, 1, 1]
    assert [plan(share=0.1).most(i) for i in range(1, 6)] == [0, 0, 1, 0, 0]
    assert [plan(share=1.0).most(i) for i in range(1, 6)] == [4, 4, 4, 4, 2]
    assert plan().last_iteration == 5


def test_own_rows_come_first_and_the_data_goes_on_behind_them(tmp_path: Path) -> None:
    hook = OnPolicy(Exchange(tmp_path), plan(num_samples=11), "torch")
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
    hook = OnPolicy(Exchange(tmp_path), plan(), "torch")
    hook.schedule.take([{"round": 0, "weights": 1, "iterations": [2, 2, 4]}])
    assert hook.take(4, 1.0) == {"on_policy_rows": 0}
    assert hook.take(8, 1.0) == {"on_policy_rows": 2, "on_policy_age": 0.0}
    assert hook.take(16, 1.0) == {"on_policy_rows": 1, "on_policy_age": 2.0}
