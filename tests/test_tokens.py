from uuid import uuid4

import pytest
from conftest import MINILM
from transformers import BertConfig, GPT2Config, LlamaConfig, MistralConfig, RobertaConfig

from lib.loader import load_tokenizer
from lib.params import ParamsError
from lib.tokens import encode_cached, encode_documents, require_context, require_positions


def test_an_encoders_frame_comes_on_top_of_max_length():
    bert = load_tokenizer(MINILM)
    ids = encode_documents(bert, ["a [SEP] b c d e f g"], max_length=4, add_special_tokens=True)[0]
    assert len(ids) == 6
    assert (ids[0], ids[-1]) == (bert.cls_token_id, bert.sep_token_id)
    assert bert.sep_token_id not in ids[:-1]


def test_a_document_needs_a_position_for_each_token():
    require_positions(BertConfig(max_position_embeddings=8), [[1] * 8, [1]])
    with pytest.raises(ParamsError, match=r"9 tokens.*8 positions; lower max_length by 1"):
        require_positions(BertConfig(max_position_embeddings=8), [[1], [1] * 9])
    roberta = RobertaConfig(max_position_embeddings=10, pad_token_id=1)  # numbers from 2 on
    with pytest.raises(ParamsError, match=r"9 tokens.*8 positions"):
        require_positions(roberta, [[1] * 9])


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(max_position_embeddings=100),
        MistralConfig(max_position_embeddings=1000, sliding_window=100),
    ],
)
def test_a_prompt_that_fills_the_context_is_refused(config):
    require_context(config, 90, 10)
    with pytest.raises(ParamsError, match="do not fit the model's context of 100"):
        require_context(config, 91, 10)
    require_context(GPT2Config(), 1_000, 24)


def test_tokens_are_cached_by_content(tokenizer, monkeypatch):
    calls = []

    def counted(*arguments, **options):
        calls.append(arguments)
        return encode_documents(*arguments, **options)

    monkeypatch.setattr("lib.tokens.encode_documents", counted)
    texts = [f"new text {uuid4()}", "another"]
    options = {"max_length": 5, "add_special_tokens": False}
    first = encode_cached(tokenizer, texts, **options)
    assert encode_cached(tokenizer, list(texts), **options) == first
    assert first == encode_documents(tokenizer, texts, **options)
    assert len(calls) == 1
    encode_cached(tokenizer, texts, **options | {"max_length": 6})
    encode_cached(load_tokenizer(MINILM), texts, **options)
    assert len(calls) == 3
