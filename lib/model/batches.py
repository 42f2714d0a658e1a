"""Micro-batches of documents: which documents go together, and their padded tensors."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lib.model.windows import Documents, split_windows

# Padded positions of the final states per token of the budget, if padding costs nothing in the
# layers: one layer's states are little beside what all layers keep (our choice).
PACKED_SLACK = 4


def micro_batches(
    lengths: Sequence[int | tuple[int, ...]], token_budget: int, *, packed: bool = False
) -> list[list[int]]:
    """Batches of document indices, the shortest documents first, each within the token budget.

    Parameters
    ----------
    lengths
        Tokens of each of N documents, or of each of its windows (`window_lengths`), which stay
        together.
    token_budget
        Most tokens of one batch once padded: rows x longest row. A document that is longer than
        the budget has a batch of its own.
    packed
        True if padding costs no compute (`lib.model.fast.attention`): the budget then counts real
        tokens. The final hidden states are still padded, to at most `PACKED_SLACK` times the
        budget.
    """
    slack = PACKED_SLACK if packed else 1
    windows = [(n,) if isinstance(n, int) else n for n in lengths]
    tokens = list(map(sum, windows))
    batches: list[list[int]] = [[]]
    real = rows = longest = 0
    for i in sorted(range(len(lengths)), key=tokens.__getitem__):
        # Two paddings count: rows are padded to the longest window, and then, for pooling, the
        # states of documents (all windows joined) to the longest document.
        longest = max(longest, *windows[i])
        padded = max((rows + len(windows[i])) * longest, (len(batches[-1]) + 1) * tokens[i])
        fits = real + tokens[i] <= token_budget and padded <= slack * token_budget
        if batches[-1] and not fits:
            batches.append([])
            real, rows, longest = 0, 0, max(windows[i])
        batches[-1].append(i)
        real += tokens[i]
        rows += len(windows[i])
    return [batch for batch in batches if batch]


def pad(documents: Documents, fill: int, *, side: str = "right") -> tuple[Tensor, Tensor]:
    """Token ids padded with `fill` on one side, and the mask, 1 at real tokens; both (B, T) int64.

    B counts rows: one per document, or one per window of a document (`lib.model.windows`).
    """
    windows = [window for document in documents for window in split_windows(document)]
    rows = [torch.tensor(window, dtype=torch.int64) for window in windows]
    real = [torch.ones_like(row) for row in rows]
    options = {"batch_first": True, "padding_side": side}
    return pad_sequence(rows, padding_value=fill, **options), pad_sequence(real, **options)


def stored_states(states: Tensor) -> np.ndarray:
    """States as an array to keep on disk: float32, or the bits of bfloat16 as int16.

    NumPy has no bfloat16.
    """
    states = states.cpu()
    return (states if states.dtype == torch.float32 else states.view(torch.int16)).numpy()


def join_states(cached: Sequence[np.ndarray]) -> Tensor:
    """`stored_states` of several documents, (T, H) each, as one (S, H) float32 or bfloat16."""
    states = torch.from_numpy(np.concatenate(cached))
    return states.view(torch.bfloat16) if states.dtype == torch.int16 else states
