"""The part of each document that an arm reads: its tokens, its windows, and the share cut off."""

import logging
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
from datasets import Dataset
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from lib.config.arms import StudyParams
from lib.model import tokens
from lib.model.weights import load_config, load_tokenizer

log = logging.getLogger(__name__)

COVERED = 0.9  # share of the training documents that "auto" reads as a whole (our choice)
MULTIPLE = 16  # tokens; matrix products of GPUs are fast at multiples of it (our choice)
MOST = 10_000_000  # tokens of a text, where a model's config names no limit

Params = TypeVar("Params", bound=StudyParams)


@lru_cache(maxsize=4)
def _tokenizer(model_id: str, revision: str) -> PreTrainedTokenizerBase:
    return load_tokenizer(model_id, revision)


def tokenizer_of(params: StudyParams) -> PreTrainedTokenizerBase:
    """The tokenizer of an arm's model, loaded once per process: it must not be changed."""
    return _tokenizer(params.model_id, params.model_revision)


def reads_all(params: StudyParams) -> bool:
    """True for an arm that reads whole texts: TF-IDF, unless it reads no more than models do."""
    return getattr(params, "method", "") == "tfidf" and params.read == "all"


def with_length(params: Params, texts: Sequence[str]) -> Params:
    """The parameters with a number as `max_length`: in place of "auto", one that suits the texts.

    It is the least multiple of `MULTIPLE` tokens at which the share `COVERED` of the texts fits as
    a whole into `windows` of that length. The model's positions and the token budget limit it. In a
    prompt, the positions are shared equally by the document, by each of `num_examples` examples,
    and by template and answer together.

    `texts` are those of all training documents, so that a learning curve has one length.
    """
    if params.max_length != "auto":
        return params
    tokenizer = tokenizer_of(params)
    limit = tokens.position_limit(_config(params, tokenizer)) or MOST
    limit -= tokenizer.num_special_tokens_to_add()
    if hasattr(params, "num_examples"):
        limit //= params.num_examples + 2
    limit = max(1, min(limit, params.token_budget // params.windows))
    options = {"max_length": limit * params.windows, "add_special_tokens": False}
    lengths = [len(ids) for ids in tokens.encode_cached(tokenizer, texts, **options)]
    needed = float(np.quantile(lengths, COVERED, method="inverted_cdf")) / params.windows
    length = min(MULTIPLE * max(1, math.ceil(needed / MULTIPLE)), limit)
    log.info("max_length: %d tokens%s, chosen by the training documents", length,
             f" in each of {params.windows} windows" if params.windows > 1 else "")  # fmt: skip
    return params.model_copy(update={"max_length": length})


def tokenize(
    params: StudyParams, tokenizer: PreTrainedTokenizerBase, splits: Mapping[str, Dataset]
) -> dict[str, list[list[int]]]:
    """Token ids of the documents of each split as a model reads them, cached on disk.

    Raises `ParamsError` if a window of a document has more tokens than the model has positions.
    """
    config = _config(params, tokenizer)
    documents = {}
    for name, split in splits.items():
        documents[name] = tokens.encode_cached(tokenizer, split["text"], **_options(params))
        tokens.require_positions(config, documents[name])
    return documents


def encode(
    params: StudyParams, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]
) -> list[list[int]]:
    """Token ids of texts as a model reads them, cut where the model has no more positions."""
    options = _options(params) | {"max_length": window_tokens(params, tokenizer)}
    return tokens.encode_documents(tokenizer, texts, **options)


def window_tokens(params: StudyParams, tokenizer: PreTrainedTokenizerBase) -> int:
    """Most tokens of a new text, or of each of its windows, special tokens not counted."""
    limit = tokens.position_limit(_config(params, tokenizer)) or MOST
    return min(params.max_length, limit - tokenizer.num_special_tokens_to_add())


def texts_read(params: StudyParams, texts: Sequence[str]) -> list[str]:
    """The part of each text that TF-IDF reads: all of it, or what the study's model reads."""
    if reads_all(params):
        return list(texts)
    return tokens.shorten_texts(tokenizer_of(params), texts, max_length=params.tokens_read)


def share_cut(params: StudyParams, texts: Sequence[str]) -> float:
    """Share of the texts, in [0, 1], of which the arm does not read the end."""
    if reads_all(params):
        return 0.0
    return float(tokens.are_cut(tokenizer_of(params), texts, max_length=params.tokens_read).mean())


def _options(params: StudyParams) -> dict[str, Any]:
    sizes = {"max_length": params.max_length, "windows": params.windows}
    return sizes | {"add_special_tokens": True}


def _config(params: StudyParams, tokenizer: PreTrainedTokenizerBase) -> PretrainedConfig:
    """The model's config with a padding token, from which some models number positions."""
    config = load_config(params.model_id, params.model_revision)
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = tokenizer.pad_token_id
    return config
