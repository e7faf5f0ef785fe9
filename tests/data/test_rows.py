"""Rows: what the documents of a pack become (exact rows are in ``test_packed_dataset``)."""

import numpy as np
import pytest

from megatron_dasd.data.rows import packed_row


def test_documents_longer_than_the_row_are_refused() -> None:
    document = (np.arange(5), np.ones(5))
    with pytest.raises(ValueError, match="10 tokens do not fit into a row of 9"):
        packed_row([document, document], seq_length=9)


def test_nothing_is_learnt_across_a_border() -> None:
    # every token is marked as a target, also the first ones, which have nothing before them
    documents = [(np.array([7]), np.ones(1)), (np.array([8, 9]), np.ones(2))]
    row = packed_row(documents, seq_length=4)
    assert row["tokens"].tolist() == [7, 8, 9, 0]
    assert row["labels"].tolist() == [0, 9, 0, 0]
    assert row["loss_mask"].tolist() == [0, 1, 0, 0]
    assert row["position_ids"].tolist() == [0, 0, 1, 0]
    assert row["document_ids"].tolist() == [0, 1, 1, -1]
