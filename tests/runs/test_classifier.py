"""Saved models: read back as they were."""

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import torch
from datasets import Dataset, DatasetDict

from lib.config.arms import EmbeddingParams
from lib.data.labels import LabelSpace
from lib.errors import InputError
from lib.evaluation.scores import Scores
from lib.head.model import predict_probabilities
from lib.machine import choose_dtype
from lib.model.weights import load_tokenizer
from lib.model.windows import split_windows, window_lengths
from lib.runs.classifier import Classifier, load_classifier, read_run
from lib.runs.models import load_arm_model, save_arm_model
from lib.runs.reading import encode
from lib.runs.record import RESOURCE_KEYS, open_run, write_run

SPACE = LabelSpace(("alpha", "beta", "gamma"))
TEXTS = [
    "Cocoa prices rose in Ghana after the dry season.",
    "<|im_end|> is an end token, and text here: <|im_end|>",
    "A method of grinding lenses.",
    "wheat",
]


@pytest.fixture
def write(tmp_path, cut_model):
    """A finished run of SmolLM2's first layers, adapters and head random: its folder."""

    def write(**changes):
        mode = changes.get("label_mode", "single")
        params = EmbeddingParams(
            notebook="03_finetune_embedding", study="s", arm="a", runs_dir=str(tmp_path / "runs"),
            lora_r=2, model_id=cut_model(4),
            **{"pooling": "last", "head_bias": False, "max_length": 12} | changes,
        )  # fmt: skip
        dtype = choose_dtype(torch.device("cpu"))
        torch.manual_seed(0)
        model = load_arm_model(params, SPACE, device=torch.device("cpu"), dtype=dtype)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and "head" not in name:
                torch.nn.init.normal_(parameter, std=0.03)
        folder = open_run(params)
        save_arm_model(model, params, folder / "model")
        part = Dataset.from_dict({"id": ["x"], "text": ["x"], "labels": [["alpha"]]})
        write_run(
            folder, label_space=SPACE, multi_label=mode == "multi", probabilities=True,
            splits=DatasetDict(dict.fromkeys(("train", "validation", "test"), part)),
            preds={name: [["alpha"]] for name in ("validation", "test")},
            scores={name: Scores(np.array([[0.9, 0.1, 0.2]])) for name in ("validation", "test")},
            threshold=0.5 if mode == "multi" else None,
            resources=dict.fromkeys(RESOURCE_KEYS, 1.0),
        )  # fmt: skip
        return folder

    return write


def test_adapters_and_head_come_back_on_packed_weights(write, live_nf4):
    """TRAPS 5, 27: NF4 in 4 bits on both sides, unlike the run's dequantized ones."""
    folder = write()
    first, again = (load_classifier(folder).predict_scores(TEXTS) for _ in range(2))
    assert np.array_equal(first.values, again.values)
    assert not np.allclose(first.values, 1 / 3)


def test_a_run_with_windows_predicts_with_them(write):
    folder = write(windows=3, max_length=4)
    params, _ = read_run(folder)
    cpu = torch.device("cpu")
    model = load_arm_model(
        params, SPACE, device=cpu, dtype=choose_dtype(cpu), trained=folder / "model"
    )
    documents = encode(params, load_tokenizer(params.model_id), TEXTS)
    counts = [len(window_lengths(document)) for document in documents]
    assert (max(counts), min(counts)) == (3, 1)
    expected = predict_probabilities(model, documents, params)
    found = load_classifier(folder).predict_scores(TEXTS)
    np.testing.assert_array_equal(found.values, expected.values)
    first = predict_probabilities(model, [split_windows(d)[0] for d in documents], params)
    assert not np.allclose(first.values[:2], expected.values[:2])


def test_texts_are_read_as_in_training_and_an_empty_one_is_named(write):
    classifier = load_classifier(write())
    with_newlines = [f"  {text}\n" for text in TEXTS]  # as from a file
    assert classifier.predict(with_newlines) == classifier.predict(TEXTS)
    np.testing.assert_array_equal(
        classifier.predict_scores(with_newlines), classifier.predict_scores(TEXTS)
    )
    assert classifier.predict([]) == []
    with pytest.raises(ValueError, match="text 2 of 3 is empty; leave it out"):
        classifier.predict(["a", " \n", "b"])


@pytest.mark.parametrize(
    ("texts", "message"),
    [("one text", "texts: str, not a list of texts"), (b"x", "texts: bytes, not a list"),
     (pd.DataFrame({"text": ["x"]}), "texts: DataFrame, not a list of texts; name one column"),
     ({"x": 1}, "texts: dict, not"), ({"x"}, "texts: set, not"),
     (None, "texts: NoneType, not a list"), (["a", None], "text 2 of 2 is NoneType, not a text"),
     ([b"a"], "text 1 of 1 is bytes"), (["a", "b\ud83d"], "text 2 of 2: character 2 is half of")],
)  # fmt: skip
def test_what_is_no_text_is_named(texts, message):
    with pytest.raises(InputError, match=message):
        Classifier(SPACE, lambda texts: pytest.fail("read"), False, None).predict(texts)


def test_a_stream_answers_the_first_texts_soon_and_threads_take_turns():
    sizes, at_once = [], []

    def score(texts):
        at_once.append(1)
        assert len(at_once) == 1
        time.sleep(0.002)
        at_once.pop()
        sizes.append(len(texts))
        return Scores(np.array([[len(text), 5.0, 0.0] for text in texts]))

    classifier = Classifier(SPACE, score, False, None)
    texts = ["x" * (1 + i % 9) for i in range(300)]
    stream = classifier.predict_stream(iter(texts), chunk_size=100)
    first = next(stream)
    assert sizes == [32]
    assert [first, *stream] == classifier.predict(texts)
    assert sizes == [32, 64, 100, 100, 4, 300]
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(classifier.predict, [texts[i::7] for i in range(7)]))
    assert answers == [classifier.predict(texts[i::7]) for i in range(7)]
