"""Student's t: published quantiles."""

import pytest

from megatron_dasd.evaluation.student_t import central_probability, quantile_975


@pytest.mark.parametrize(
    ("degrees", "quantile"),
    [
        (1, 12.7062),
        (2, 4.3027),
        (3, 3.1824),
        (4, 2.7764),
        (9, 2.2622),
        (29, 2.0452),
        (30, 2.0423),
        (120, 1.9799),
        (1000, 1.9623),
        (50_000, 1.9600),
    ],
)
def test_quantiles(degrees: int, quantile: float) -> None:
    assert quantile_975(degrees) == pytest.approx(quantile, abs=5e-5)


def test_central_probability() -> None:
    assert central_probability(1.0, 1) == pytest.approx(0.5, rel=1e-12)  # Cauchy's quartiles
    assert central_probability(0.0, 7) == 0.0
    with pytest.raises(ValueError, match="degrees: 0 is less than 1"):
        quantile_975(0)
