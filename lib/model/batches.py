"""Micro-batches of documents: which documents go together, and their padded tensors."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lib.model.windows import Documents, split_windows

PACKED_SLACK = 4  # our choice; one layer's states are little beside what all layers keep


def micro_batches(
    lengths: Sequence[int | tuple[int, ...]], token_budget: int, *, packed: bool = False
) -> list[list[int]]:
    """Indices cut, shortest first, into batches within the token budget.

    Parameters
    ----------
    lengths
        Tokens of each of N documents, or of each of its windows (`window_lengths`), which stay
        together.
    token_budget
        Most tokens of one batch once padded: rows x longest. A longer document goes alone.
    packed
        True if padding costs no compute: the budget then counts real tokens, and the final hidden
        states, which are padded, may have `PACKED_SLACK` times as many.
    """
    slack = PACKED_SLACK if packed else 1
    windows = [(n,) if isinstance(n, int) else n for n in lengths]
    tokens = list(map(sum, windows))
    batches: list[list[int]] = [[]]
    real = rows = longest = 0
    for i in sorted(range(len(lengths)), key=tokens.__getitem__):
        # Padded twice: windows to the longest one, and documents, pooled, to the longest of these.
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
    """Rows filled up on one side, and their mask, 1 at real tokens; both (B, T) int64.

    A document has a row, or one per window (`lib.model.windows`).
    """
    windows = [window for document in documents for window in split_windows(document)]
    rows = [torch.tensor(window, dtype=torch.int64) for window in windows]
    real = [torch.ones_like(row) for row in rows]
    options = {"batch_first": True, "padding_side": side}
    return pad_sequence(rows, padding_value=fill, **options), pad_sequence(real, **options)


def stored_states(states: Tensor) -> np.ndarray:
    """States as an array to keep on disk: float32, or bfloat16 seen as int16."""
    states = states.cpu()
    return (states if states.dtype == torch.float32 else states.view(torch.int16)).numpy()


def join_states(cached: Sequence[np.ndarray]) -> Tensor:
    """`stored_states` of several documents, (T, H) each, as one tensor, (S, H)."""
    states = torch.from_numpy(np.concatenate(cached))
    return states.view(torch.bfloat16) if states.dtype == torch.int16 else states
