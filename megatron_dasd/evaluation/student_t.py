"""Quantiles of Student's t for whole degrees of freedom, by its finite series."""

from functools import cache
from math import atan2, cos, pi, sin, sqrt

_MOST_DEGREES = 20_000
"""From here on the quantile differs from the normal distribution's by less than 2e-4."""
_NORMAL_975 = 1.959963984540054


def central_probability(t: float, degrees: int) -> float:
    """The probability that a variable of Student's t lies between -t and t.

    Abramowitz and Stegun, Handbook of Mathematical Functions, 26.7.3 and 26.7.4.
    """
    angle = atan2(t, sqrt(degrees))
    square = cos(angle) ** 2
    odd = degrees % 2
    term, total = (cos(angle), cos(angle)) if odd else (1.0, 1.0)
    if degrees == 1:
        total = 0.0
    for number in range(2 + odd, degrees - 1, 2):
        term *= square * (number - 1) / number
        total += term
    if odd:
        return 2 / pi * (angle + sin(angle) * total)
    return sin(angle) * total


def two_sided_p(t: float, degrees: int) -> float:
    """The probability that a variable of Student's t is as far from 0 as t or farther."""
    return max(0.0, 1.0 - central_probability(abs(t), degrees))


def quantile_975(degrees: int) -> float:
    """The half width of a 95 % interval in standard errors; raises as :func:`central_quantile`."""
    return _NORMAL_975 if degrees > _MOST_DEGREES else central_quantile(0.95, degrees)


@cache
def central_quantile(probability: float, degrees: int) -> float:
    """The t between whose negative and itself a variable lies with this probability.

    Raises:
        ValueError: there are no degrees of freedom, or the probability is not between 0 and 1.
    """
    if degrees < 1:
        raise ValueError(f"degrees: {degrees} is less than 1")
    if not 0 < probability < 1:
        raise ValueError(f"probability: {probability} is not between 0 and 1")
    low, high = 0.0, 1.0
    while central_probability(high, degrees) < probability:
        high *= 2
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        if central_probability(middle, degrees) < probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2
