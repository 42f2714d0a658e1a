"""Parts of the test split that depend on a tokenizer."""

from collections.abc import Sequence

import pandas as pd
from transformers import PreTrainedTokenizerBase

from lib.model.tokens import encode_documents


def parts_by_truncation(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> pd.Categorical:
    """The part of each document, (N,): read as a whole, or cut behind `max_length` tokens.

    Tokens are those of this tokenizer; another arm's may differ, and TF-IDF reads whole texts.
    """
    options = {"max_length": max_length + 1, "add_special_tokens": False}
    ids = encode_documents(tokenizer, texts, **options)
    names = [f"up to {max_length} tokens", "cut"]
    return pd.Categorical.from_codes(
        [int(len(row) > max_length) for row in ids], names, ordered=True
    )
