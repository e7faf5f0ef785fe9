import pytest

from megatron_dasd.errors import UserError
from megatron_dasd.models.pipeline_stages import Stages


def test_layers_of_each_stage() -> None:
    assert Stages().layers(5) == [5]
    assert Stages(3).layers(6) == [2, 2, 2]
    assert Stages(3, first=2).layers(8) == [2, 3, 3]
    assert Stages(3, last=1).layers(7) == [3, 3, 1]
    assert Stages(4, first=1, last=3).layers(8) == [1, 2, 2, 3]
    assert Stages(2, first=3, last=4).layers(7) == [3, 4]


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        (Stages(4), "4 does not divide the model's layers .7."),
        (Stages(2, first=3, last=3), "leave 1 of the model's 7 layers to 0 other"),
        (Stages(3, first=6), "leave 1 of the model's 7 layers to 2 other"),
        (Stages(3, first=2), "2 middle stages do not divide the 5 layers"),
        (Stages(first=3), "need pipeline_parallel > 1"),
    ],
)
def test_layers_that_do_not_divide(stages: Stages, said: str) -> None:
    with pytest.raises(UserError, match=said):
        stages.check(7)


def test_every_chunk_of_a_stage_has_as_many_layers() -> None:
    Stages(3, virtual=2, first=2).check(10)
    with pytest.raises(UserError, match="virtual_pipeline 2 does not divide the 3 layers"):
        Stages(3, virtual=2, first=2).check(8)
