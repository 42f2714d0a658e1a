"""Windows of documents: their ids, their micro-batches and their rows put together again."""

import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib.model.batches import PACKED_SLACK, micro_batches, pad
from lib.model.windows import (
    Windows,
    as_document,
    count_windows,
    documents_mask,
    longest_window,
    map_windows,
    regroup,
    split_windows,
    window_lengths,
)

LONG, SHORT = Windows([[5, 6, 7], [8, 9]]), [4]


def test_a_document_has_the_tokens_of_all_windows_and_knows_their_ends():
    assert LONG == [5, 6, 7, 8, 9]
    assert split_windows(LONG) == [[5, 6, 7], [8, 9]]
    assert split_windows(SHORT) == [SHORT]
    assert map_windows(lambda ids: [1, *ids], LONG) == [1, 5, 6, 7, 1, 8, 9]
    assert window_lengths(map_windows(lambda ids: [1, *ids], LONG)) == (4, 3)
    assert window_lengths(pickle.loads(pickle.dumps(LONG))) == (3, 2)
    assert type(as_document([SHORT])) is list
    assert longest_window([LONG, SHORT]) == 3
    with pytest.raises(TypeError, match="map_windows"):
        _ = LONG + [1]  # noqa: RUF005


def test_rows_of_windows_are_put_together_to_documents_and_taken_apart():
    ids, mask = pad([LONG, SHORT], 0)
    assert ids.tolist() == [[5, 6, 7], [8, 9, 0], [4, 0, 0]]
    windows = count_windows([LONG, SHORT])
    assert windows.tolist() == [2, 1]
    whole = documents_mask(mask, windows)
    assert whole.tolist() == [[1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]
    states = torch.arange(9.0).reshape(3, 3, 1) + 1
    together = regroup(states, mask, whole)
    assert together[..., 0].tolist() == [[1, 2, 3, 4, 5], [7, 0, 0, 0, 0]]
    assert torch.equal(regroup(together, whole, mask)[mask.bool()], states[mask.bool()])
    read = torch.tensor([[0, 0, 0, 0, 1], [1, 0, 0, 0, 0]]).bool()
    assert regroup(read, whole, mask).nonzero().tolist() == [[1, 1], [2, 0]]


def test_documents_of_one_window_are_their_rows():
    assert count_windows([[1, 2], [3]]) is None
    _, mask = pad([[1, 2], [3]], 0)
    assert documents_mask(mask, None) is mask
    states = torch.rand(2, 2, 3)
    assert regroup(states, mask, mask) is states


LENGTHS = st.lists(st.integers(1, 20), min_size=1, max_size=5).map(tuple)


@given(st.lists(LENGTHS, min_size=1, max_size=20), st.integers(1, 200), st.booleans())
def test_windows_of_a_document_share_a_micro_batch_within_the_budget(lengths, budget, packed):
    batches = micro_batches(lengths, budget, packed=packed)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        rows = [n for i in batch for n in lengths[i]]
        whole = max(sum(lengths[i]) for i in batch) * len(batch)
        padded = max(len(rows) * max(rows), whole)
        assert len(batch) == 1 or (sum(rows) if packed else padded) <= budget
        assert len(batch) == 1 or padded <= PACKED_SLACK * budget


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 200), st.booleans())
def test_one_window_each_is_batched_as_documents_without_any(lengths, budget, packed):
    plain = micro_batches(lengths, budget, packed=packed)
    assert micro_batches([(n,) for n in lengths], budget, packed=packed) == plain
