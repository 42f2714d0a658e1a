"""Attributions: completeness, words and tokens, and words left out."""

import numpy as np
import pytest
import torch
from conftest import MINILM

from lib.config.arms import EmbeddingParams
from lib.data.labels import LabelSpace
from lib.errors import InputError
from lib.evaluation.scores import Scores
from lib.machine import choose_dtype
from lib.model.weights import load_tokenizer
from lib.runs import attribution
from lib.runs.attribution import deletion, integrated_gradients
from lib.runs.classifier import Classifier
from lib.runs.models import load_arm_model
from lib.runs.reading import encode

SPACE = LabelSpace(("alpha", "beta", "gamma"))
TEXT = "Cocoa prices rose in Ghana, <|im_end|> after the dry season."
ENCODER = {"model_id": MINILM, "lora_r": 0, "quantization": "none"}


@pytest.fixture
def make_head(cut_model, monkeypatch):
    """A head with random adapters, in the place of a run's: `make_head(windows=2)`."""

    def make(**changes):
        values = {"model_id": cut_model(2), "lora_r": 4, "max_length": 8} | changes
        params = EmbeddingParams(notebook="03_finetune_embedding", **values)
        torch.manual_seed(0)
        dtype = choose_dtype(torch.device("cpu"))
        model = load_arm_model(params, SPACE, device=torch.device("cpu"), dtype=dtype).eval()
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.02)
        tokenizer = load_tokenizer(params.model_id)
        head = attribution._Head(model, tokenizer, params, SPACE)
        monkeypatch.setattr(attribution, "_load", lambda folder, finished: head)
        monkeypatch.setattr(attribution, "has_head", lambda folder: True)
        return head

    return make


@pytest.mark.parametrize(
    "changes", [{}, {"windows": 2, "pooling": "last"}, ENCODER | {"windows": 2}]
)
def test_gradients_add_up_to_the_logit_and_only_words_that_are_read_have_any(make_head, changes):
    head = make_head(**changes)
    found = integrated_gradients("run", TEXT)
    assert found.gap <= attribution.TOLERANCE
    assert np.nansum(found.values) == pytest.approx(
        found.total, abs=attribution.TOLERANCE * abs(found.total) + 1e-6
    )
    document = encode(head.params, head.tokenizer, [TEXT])[0]
    logits = head.logits(document)[0]
    assert found.label == SPACE.names[int(logits.argmax())]
    read = ~np.isnan(found.values)
    assert read[0]
    assert not read[-1]
    assert list(read) == sorted(read, reverse=True)  # the first words


@pytest.mark.parametrize("changes", [{}, ENCODER | {"windows": 2}])
def test_the_models_own_embeddings_give_its_own_logits(make_head, changes):
    head = make_head(**changes)
    document = encode(head.params, head.tokenizer, [TEXT])[0]
    own = head._layer(torch.tensor(list(document)))[None].detach()
    with torch.no_grad():
        logits = head.logits(document, own.repeat(2, 1, 1))
        assert logits.shape == (2, 3)
        torch.testing.assert_close(logits, head.logits(document).repeat(2, 1), atol=1e-3, rtol=1e-3)


def test_a_run_without_a_head_has_no_gradients(monkeypatch):
    monkeypatch.setattr(attribution, "has_head", lambda folder: False)
    with pytest.raises(InputError, match="run: a run without a head"):
        integrated_gradients("run", TEXT)


def answer_by(score_of):
    return Classifier(
        SPACE, lambda texts: Scores(np.array(list(map(score_of, texts)))), False, None
    )


def test_a_word_speaks_for_the_answer_where_that_is_likelier_with_it():
    odds = {"good": 3.0, "bad": 0.25}

    def score(text):
        weight = np.prod([odds.get(word, 1.0) for word in text.split()])
        return [0.01 * weight, 0.5 - 0.01 * weight, 0.001]

    found = deletion(answer_by(lambda text: [score(text)[1], score(text)[0], 0]), "a good bad day")
    assert found.label == "alpha"
    score_with = score("a good bad day")[1]
    without = [score(text)[1] for text in ("good bad day", "a bad day", "a good day", "a good bad")]
    np.testing.assert_allclose(found.values, np.log(score_with) - np.log(without))
    margins = deletion(answer_by(lambda text: [len(text), 0.0, 0.0]), "abc de", margins=True)
    assert margins.values.tolist() == [4.0, 3.0]  # "abc de" against "de" and "abc"


def test_a_free_answer_that_is_no_label_has_no_attribution():
    found = deletion(answer_by(lambda text: [0.0, 0.0, 0.0]), "a word")
    assert found.label == ""
    assert np.isnan(found.values).all()


def test_the_only_word_is_not_left_out_and_far_ones_neither():
    assert np.isnan(deletion(answer_by(lambda text: [0.9, 0.1, 0.0]), "wheat").values).all()
    long = deletion(answer_by(lambda text: [0.9, 0.1, 0.0]), "word " * 120)
    assert (~np.isnan(long.values)).sum() == attribution.MAX_WORDS
