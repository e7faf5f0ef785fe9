"""Distribution-aware weights of sequences (METHOD, last section: the report's future work).

Of the n responses of one prompt, response i weighs

    w_i = n exp(l_i / tau) / sum_j exp(l_j / tau)

with l_i its mean teacher log-prob: 1 on average, more for what the teacher itself finds likely.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from megatron_dasd.arrays import Floats

_LEAST = 1e-30
"""A weight that underflows stays above 0, so that its sequence still counts in the divisor."""


def sequence_weights(
    prompt_ids: Sequence[str], mean_logprobs: Sequence[float], tau: float
) -> npt.NDArray[np.float32]:
    """Weigh every response among those of its prompt.

    Args:
        prompt_ids: [responses]
        mean_logprobs: [responses] mean ln p of a token under the teacher, untempered.
        tau: in nats a token; small: the likeliest response takes all, large: all weigh the same.

    Returns:
        [responses]; those of a prompt sum to their number.
    """
    _, prompt = np.unique(np.asarray(prompt_ids), return_inverse=True)
    scores = np.asarray(mean_logprobs, dtype=np.float64) / tau
    highest = np.full(prompt.max(initial=-1) + 1, -np.inf)
    np.maximum.at(highest, prompt, scores)
    terms = np.exp(scores - highest[prompt])
    means = np.bincount(prompt, terms) / np.bincount(prompt)
    weights: Floats = np.maximum(terms / means[prompt], _LEAST)
    return weights.astype(np.float32)
