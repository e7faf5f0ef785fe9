"""Rows: what the documents of a pack become (more exact rows are in ``test_packed_dataset``)."""

import numpy as np
import pytest

from megatron_dasd.data.rows import packed_row


def document(
    tokens: list[int], mask: list[int], **companions: list[float]
) -> dict[str, np.ndarray]:
    given = {"tokens": tokens, "loss_mask": mask, **companions}
    return {name: np.array(values) for name, values in given.items()}


def as_lists(row: dict[str, np.ndarray]) -> dict[str, list[float]]:
    return {name: values.tolist() for name, values in row.items()}


def test_documents_longer_than_the_row_are_refused() -> None:
    five = document([1] * 5, [1] * 5)
    with pytest.raises(ValueError, match="10 positions do not fit into a row of 9"):
        packed_row([five, five], seq_length=9)
    packed_row([five, five], seq_length=10)
    with pytest.raises(ValueError, match="16 positions do not fit into a row of 15"):
        packed_row([five, five], seq_length=15, align=8)


def test_nothing_is_learnt_across_a_border() -> None:
    # every token is marked as a target, also the first ones, which have nothing before them
    row = packed_row([document([7], [1]), document([8, 9], [1, 1])], seq_length=4)
    assert as_lists(row) == {
        "tokens": [7, 8, 9, 0],
        "labels": [0, 9, 0, 0],
        "loss_mask": [0, 1, 0, 0],
        "position_ids": [0, 0, 1, 2],
        "cu_seqlens": [0, 1, 3],
        "cu_seqlens_padded": [0, 1, 4],
    }


def test_documents_are_aligned_and_padding_belongs_to_none() -> None:
    documents = [
        document([1, 2, 3], [0, 1, 1], sentence_classes=[0, 3, 1]),
        document([4, 5, 6, 7], [0, 0, 0, 1], sentence_classes=[0, 0, 2, 2]),
    ]
    row = packed_row(documents, seq_length=10, align=4, companions=["sentence_classes"])
    assert as_lists(row) == {
        "tokens": [1, 2, 3, 0, 4, 5, 6, 7, 0, 0],
        "labels": [2, 3, 0, 0, 5, 6, 7, 0, 0, 0],
        "loss_mask": [1, 1, 0, 0, 0, 0, 1, 0, 0, 0],
        "sentence_classes": [3, 1, 0, 0, 0, 2, 2, 0, 0, 0],
        "position_ids": [0, 1, 2, 3, 0, 1, 2, 3, 4, 5],
        "cu_seqlens": [0, 3, 7],
        "cu_seqlens_padded": [0, 4, 10],
    }


def test_a_row_without_documents_is_padding() -> None:
    row = packed_row([], seq_length=4, align=2, companions=["teacher_logprobs"])
    assert row["cu_seqlens"].tolist() == [0, 0]
    assert row["cu_seqlens_padded"].tolist() == [0, 4]
    assert row["loss_mask"].tolist() == [0.0] * 4
    assert np.isnan(row["teacher_logprobs"]).all()
