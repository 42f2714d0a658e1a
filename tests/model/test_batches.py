import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib.model.batches import PACKED_SLACK, join_states, micro_batches, pad


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 200), st.booleans())
def test_micro_batches_hold_every_document_once_within_the_budget(lengths, budget, packed):
    batches = micro_batches(lengths, budget, packed=packed)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[i] for i in batch)
        real = sum(lengths[i] for i in batch)
        assert len(batch) == 1 or (real if packed else padded) <= budget
        assert len(batch) == 1 or padded <= PACKED_SLACK * budget


def test_packed_documents_of_all_lengths_share_a_micro_batch():
    lengths = [512, 30, 300, 100]
    assert micro_batches(lengths, 1024, packed=True) == [[1, 3, 2, 0]]
    assert micro_batches(lengths, 1024) == [[1, 3, 2], [0]]


def test_rows_are_filled_up_on_the_right_and_masked():
    rows, mask = pad([[5, 6, 7], [8]], 9)
    assert rows.tolist() == [[5, 6, 7], [8, 9, 9]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_cached_states_are_joined_in_their_dtype():
    values = torch.tensor([[1.5, -2.0], [0.25, 3.0], [4.0, 5.0]], dtype=torch.bfloat16)
    cached = [part.view(torch.int16).numpy() for part in values.split([1, 2])]
    assert torch.equal(join_states(cached), values)
    floats = [np.ones((2, 3), np.float32), np.zeros((1, 3), np.float32)]
    assert join_states(floats).tolist() == [[1.0] * 3, [1.0] * 3, [0.0] * 3]
