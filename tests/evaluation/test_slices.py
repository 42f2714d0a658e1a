import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from lib.data.labels import LabelSpace
from lib.evaluation.slices import (
    errors_by_level,
    f1_by_level,
    f1_by_part,
    parts_by_length,
    parts_by_support,
)

RNG = np.random.default_rng(0)
TRUTH = RNG.random((60, 5)) < 0.4
PREDS = {"a": RNG.random((2, 60, 5)) < 0.4, "b": np.stack([TRUTH, TRUTH])}
LEVELS = ("section", "class", "subclass")


def levels(space):
    return {level: space.rolled_up(level)[1] for level in LEVELS}


def test_f1_is_told_apart_by_how_often_labels_were_trained():
    truth = np.array([[1, 1, 0], [1, 0, 1]], dtype=bool)
    preds = np.array([[1, 0, 0], [1, 0, 1]], dtype=bool)
    parts = parts_by_support(np.array([500, 3, 0]))
    table = f1_by_part(truth, {"arm": preds[None]}, labels=parts).set_index("part")
    assert table["micro_f1"].to_dict() == {"unseen": 1, "1–5 documents": 0, "over 100": 1}
    assert table["size"].tolist() == [1, 1, 1]


def test_f1_of_part_of_the_documents_is_scikit_learns_on_them_within_its_interval():
    parts = pd.Categorical(np.where(np.arange(60) < 20, "first", "rest"))
    table = f1_by_part(TRUTH, PREDS, documents=parts).set_index(["arm", "part"])
    for part, rows in (("first", slice(20)), ("rest", slice(20, None))):
        scores = [f1_score(TRUTH[rows], p[rows], average="micro") for p in PREDS["a"]]
        row = table.loc["a", part]
        assert row["micro_f1"] == pytest.approx(np.mean(scores))
        assert row["low"] < row["micro_f1"] < row["high"]
        assert table.loc["b", part][["micro_f1", "high"]].tolist() == [1, 1]
        assert 0.7 < table.loc["b", part]["low"] < 0.95  # errors that so few do not show


def test_a_part_without_a_true_label_is_left_out():
    parts = pd.Categorical(["seen"] * 59 + ["empty"])
    truth = TRUTH.copy()
    truth[59] = False
    assert list(f1_by_part(truth, PREDS, documents=parts)["part"].unique()) == ["seen"]


def test_parts_that_do_not_fit_are_refused():
    parts = parts_by_support(np.arange(4))
    with pytest.raises(ValueError, match="labels: 4 parts for 5 labels"):
        f1_by_part(TRUTH, PREDS, labels=parts)
    with pytest.raises(ValueError, match="the parts of the documents or those of the labels"):
        f1_by_part(TRUTH, PREDS)


def test_documents_are_cut_into_quarters_by_their_words():
    parts = parts_by_length(range(1, 101))
    assert parts.value_counts().tolist() == pytest.approx([25] * 4, abs=1)
    assert parts[0] == parts.categories[0] == "1–25 words"
    assert list(parts_by_length([2] * 5)) == ["2 words"] * 5
    assert list(parts_by_length([1] * 5)) == ["1 word"] * 5
    assert not parts_by_length([0, *[2] * 9, 3]).isna().any()


def test_f1_rises_when_errors_stay_within_a_coarser_label():
    space = LabelSpace(("A01B", "A01C", "B02D"))
    truth, preds = space.encode([["A01B"], ["B02D"]]), space.encode([["A01C"], ["B02D"]])
    table = f1_by_level(truth, {"arm": preds[None]}, levels(space))
    assert table.loc["arm"].tolist() == [1, 1, 0.5]


def test_errors_are_counted_at_the_coarsest_level_that_is_wrong():
    space = LabelSpace(("A01B", "A01C", "A02B", "B01B"))
    truth = space.encode([["A01B"]] * 5)
    preds = space.encode([["A01B"], ["A01C"], ["A02B"], ["B01B"], []])
    table = errors_by_level(truth, {"arm": preds[None]}, levels(space))
    assert table.loc["arm"].to_dict() == pytest.approx({
        "no answer": 0.2, "wrong section": 0.2, "right section, wrong class": 0.2,
        "right class, wrong subclass": 0.2, "right": 0.2,
    })  # fmt: skip


def test_errors_of_label_sets_have_no_single_level():
    space = LabelSpace(("A01B", "A01C"))
    truth = space.encode([["A01B", "A01C"]])
    with pytest.raises(ValueError, match="one label per document; use f1_by_level"):
        errors_by_level(truth, {"arm": truth[None]}, levels(space))
