"""Parts of the test split that depend on a tokenizer."""

from collections.abc import Sequence

import pandas as pd
from transformers import PreTrainedTokenizerBase

from lib.model.tokens import are_cut


def parts_by_truncation(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> pd.Categorical:
    """The part of each document, (N,): read as a whole, or cut behind `max_length` tokens.

    Another arm's tokenizer may cut elsewhere, and TF-IDF reads whole texts.
    """
    names = [f"up to {max_length} tokens", "cut"]
    cut = are_cut(tokenizer, texts, max_length=max_length)
    return pd.Categorical.from_codes(cut.astype(int), names, ordered=True)
