"""Compressed likeliest tokens: what comes back, and what is refused."""

import numpy as np
import pytest

from megatron_dasd.data.top_codec import STEPS, decode_top, encode_top


def made_up(num_tokens: int, top_k: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    ids = random.integers(0, 200_000, (num_tokens, top_k)).astype(np.int32)
    logprobs = -np.sort(random.exponential(4.0, ids.shape), axis=1).astype(np.float32)
    return ids, logprobs


def test_ids_come_back_exactly_and_logprobs_to_half_a_step() -> None:
    ids, logprobs = made_up(300, 16)
    ids[0], logprobs[0] = -1, -np.inf
    ids[5, -2:], logprobs[5, -2:] = -1, -np.inf  # fewer than k are known
    logprobs[7, -1] = -9000.0
    found_ids, found = decode_top(encode_top(ids, logprobs), 300, 16)
    assert found_ids.dtype == np.int32
    assert (found_ids == ids).all()
    known = ids >= 0
    assert np.isneginf(found[~known]).all()
    # half a step, and float32's own rounding far from 0
    np.testing.assert_allclose(found[known], logprobs[known], rtol=1e-7, atol=0.5 / STEPS + 1e-9)


def test_a_document_without_tokens() -> None:
    ids, logprobs = made_up(0, 4)
    assert decode_top(encode_top(ids, logprobs), 0, 4)[0].shape == (0, 4)


def test_it_takes_at_most_five_bytes_of_eight() -> None:
    ids, logprobs = made_up(2000, 64)
    assert len(encode_top(ids, logprobs)) < 5 * ids.size


@pytest.mark.parametrize("change", ["cut", "other", "longer", "shorter"])
def test_other_bytes_are_refused(change: str) -> None:
    data = encode_top(*made_up(20, 4))
    given = {"cut": data[:-9], "other": bytes(len(data))}.get(change, data)
    num_tokens = {"longer": 21, "shorter": 19}.get(change, 20)
    with pytest.raises(ValueError, match="of"):
        decode_top(given, num_tokens, 4)
