"""Windows: a text that is longer than a model's input, read as several sequences.

```
text        t1 t2 t3 t4 t5 t6 t7                    max_length 3, up to 3 windows
document    [CLS] t1 t2 t3 [SEP]  [CLS] t4 t5 t6 [SEP]  [CLS] t7 [SEP]      ids, lengths (5, 5, 3)
rows        one per window: attention and positions do not go beyond it
pooled      over the real tokens of all rows of a document
```

A document of one window is a plain list of token ids; one of several is `Windows`.
"""

from collections.abc import Callable, Sequence
from itertools import accumulate, chain, pairwise

import torch
from torch import Tensor

Ids = Sequence[int]
Documents = Sequence[Ids]


class Windows(list):
    """Token ids of all windows of a document, one after another; `lengths` are the windows' tokens.

    It is a list of all tokens of the document, so that code that counts tokens counts all of them.
    """

    def __init__(self, windows: Sequence[Ids]) -> None:
        super().__init__(chain.from_iterable(windows))
        self.lengths = tuple(map(len, windows))

    def __add__(self, other: list) -> list:
        """Refused: windows have ends of their own; see `map_windows`."""
        raise TypeError("ids are added to each window, by map_windows")


def as_document(windows: Sequence[Ids]) -> list[int]:
    """One document of these windows: a plain list of ids where there is one, else `Windows`."""
    return list(windows[0]) if len(windows) == 1 else Windows(windows)


def window_lengths(document: Ids) -> tuple[int, ...]:
    """Tokens of each window of a document."""
    return getattr(document, "lengths", (len(document),))


def split_windows(document: Ids) -> list[list[int]]:
    """Token ids of each window of a document."""
    ends = accumulate(window_lengths(document), initial=0)
    return [list(document[start:end]) for start, end in pairwise(ends)]


def map_windows(change: Callable[[list[int]], Ids], document: Ids) -> list[int]:
    """The document with `change` applied to the token ids of every window."""
    return as_document([change(window) for window in split_windows(document)])


def longest_window(documents: Documents) -> int:
    """Tokens of the longest sequence that a model reads for these documents; 0 without any."""
    return max(chain.from_iterable(map(window_lengths, documents)), default=0)


def count_windows(documents: Documents) -> Tensor | None:
    """Number of windows of each of D documents, (D,) int64; None if each has one."""
    counts = [len(window_lengths(document)) for document in documents]
    return None if max(counts) == 1 else torch.tensor(counts)


def documents_mask(attention_mask: Tensor, windows: Tensor | None) -> Tensor:
    """Mask of D documents, (D, T'), each as long as all its windows, from the rows' mask, (W, T).

    `windows` comes from `count_windows`; None if every row is a document. Both masks are int64.
    """
    if windows is None:
        return attention_mask
    rows = attention_mask.sum(dim=1).split(windows.tolist())
    tokens = torch.stack([lengths.sum() for lengths in rows])  # (D,)
    return (torch.arange(int(tokens.max()), device=tokens.device) < tokens[:, None]).long()


def regroup(values: Tensor, mask: Tensor, other_mask: Tensor) -> Tensor:
    """Values (W, T, ...) at the real tokens of `mask`, at those of `other_mask`: (D, T', ...).

    Both masks have the same S real tokens in the same order, row after row; padding becomes 0.
    """
    if mask is other_mask:
        return values
    regrouped = values.new_zeros(*other_mask.shape, *values.shape[2:])
    places = other_mask.bool().reshape(*other_mask.shape, *[1] * (values.ndim - 2))
    return regrouped.masked_scatter(places, values[mask.bool()])
