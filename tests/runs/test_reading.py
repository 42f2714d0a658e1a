"""The part of each document that an arm reads, found for "auto" and told as a share."""

import numpy as np
import pytest
from conftest import MINILM

from lib.config.arms import BaselineParams, EmbeddingParams, InstructionParams
from lib.model.tokens import encode_documents
from lib.model.weights import load_tokenizer
from lib.model.windows import split_windows, window_lengths
from lib.runs import reading

TEXTS = ["oil " * n for n in range(1, 101)]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("lib.storage.CACHE", tmp_path)


def params(kind=EmbeddingParams, **changes):
    return kind(model_id=MINILM, **{"max_length": "auto"} | changes)


@pytest.mark.parametrize(
    ("kind", "changes", "expected"),
    [
        (EmbeddingParams, {}, 96),  # 90 tokens, up to a multiple of 16
        (EmbeddingParams, {"windows": 2}, 48),
        (EmbeddingParams, {"token_budget": 50}, 50),
        (EmbeddingParams, {"windows": 2, "token_budget": 50}, 25),
        (InstructionParams, {}, 96),
        (InstructionParams, {"num_examples": 6, "num_epochs": 0}, 63),  # 510 in eight parts
        (EmbeddingParams, {"max_length": 7}, 7),
    ],
)
def test_auto_covers_nine_documents_of_ten_within_context_and_budget(kind, changes, expected):
    found = reading.with_length(params(kind, **changes), TEXTS)
    assert found.max_length == expected
    assert found.model_copy(update={"max_length": "auto"}) == params(
        kind, **changes | {"max_length": "auto"}
    )


def test_auto_stays_within_a_models_positions():
    found = reading.with_length(params(), ["oil " * 3000] * 3)
    assert found.max_length == 510  # with [CLS] and [SEP], 512
    reading.tokenize(found, load_tokenizer(MINILM), {"train": {"text": ["oil " * 3000]}})


def test_a_new_text_is_read_no_further_than_the_model_has_positions():
    tokenizer = load_tokenizer(MINILM)
    for windows in (1, 2):
        (document,) = reading.encode(
            params(max_length=512, windows=windows), tokenizer, ["oil " * 2000]
        )
        assert max(window_lengths(document)) == 512


def test_the_share_that_is_cut_counts_all_windows():
    for windows, share in ((1, 0.9), (2, 0.8), (10, 0)):
        cut = reading.share_cut(params(max_length=10, windows=windows), TEXTS)
        assert cut == pytest.approx(share)


def test_tfidf_reads_all_or_what_models_read():
    whole = params(BaselineParams, method="tfidf", max_length=3)
    assert reading.reads_all(whole)
    assert reading.texts_read(whole, TEXTS) == TEXTS
    assert reading.share_cut(whole, TEXTS) == 0
    same = params(BaselineParams, method="tfidf", max_length=3, windows=2, read="max_length")
    assert not reading.reads_all(same)
    assert reading.texts_read(same, TEXTS) == [text[: 6 * 4 - 1] for text in TEXTS[:5]] + [
        "oil oil oil oil oil oil" if len(text) > 24 else text for text in TEXTS[5:]
    ]
    assert reading.share_cut(same, TEXTS) == pytest.approx(0.94)
    assert not reading.reads_all(params(BaselineParams, method="frozen"))


def test_texts_and_documents_are_the_same_tokens():
    one = params(max_length=3, windows=2)
    tokenizer = load_tokenizer(MINILM)
    cut = reading.texts_read(
        params(BaselineParams, method="tfidf", max_length=3, windows=2, read="max_length"), TEXTS
    )
    for text, document in zip(cut, reading.encode(one, tokenizer, TEXTS), strict=True):
        (ids,) = encode_documents(tokenizer, [text], max_length=99, add_special_tokens=False)
        assert ids == [i for window in split_windows(document) for i in window[1:-1]]
    assert np.all([len(text) <= 24 for text in cut])
