import json

import numpy as np
import pandas as pd
import pytest
from conftest import load_documents
from datasets import Dataset, DatasetDict

from lib.data.labels import (
    NONE,
    LabelSpace,
    apply_min_support,
    check_spelling,
    read_label_names,
)
from lib.errors import DataError


def test_label_space_round_trip_and_labels_outside():
    space = LabelSpace(("a", "b", "c"))
    rows = [["b"], [], ["c", "a"], ["unknown"]]
    encoded = space.encode(rows)
    assert encoded.shape == (4, 3)
    assert space.to_names(encoded) == [["b"], [], ["a", "c"], []]


def test_an_empty_answer_is_outside_unless_sets_may_be_empty():
    rows = [["b"], [], ["c", "unknown"], ["unknown"], [""]]
    outside = [False, True, False, True, True]
    assert LabelSpace(("b", "c")).outside(rows).tolist() == outside
    outside[1] = False
    assert LabelSpace(("b", "c"), none="none").outside(rows).tolist() == outside


def frames(train, test=()):
    def frame(rows):
        return pd.DataFrame({"labels": pd.Series(list(rows), dtype=object)})

    return {"train": frame(train), "test": frame(test or train[:1])}


def supported(parts, policy, least=2):
    parts = apply_min_support(parts, train="train", min_support=least, rare_labels=policy)
    return {name: part["labels"].tolist() for name, part in parts.items()}


def test_no_document_has_no_label_lists():
    assert LabelSpace(("a", "b")).to_names(np.zeros((0, 2), dtype=bool)) == []


def test_rare_labels_are_kept_dropped_or_merged_into_their_parent():
    parts = frames([["A01B"], ["A01B"], ["A01C"], ["A01D", "B02D"], ["B02D"]], [["A01C"], ["A01Z"]])
    assert supported(parts, "keep")["train"] == parts["train"]["labels"].tolist()
    assert supported({"train": parts["train"]}, "drop") == {
        "train": [["A01B"], ["A01B"], ["B02D"], ["B02D"]]
    }
    assert supported(parts, "merge") == {
        "train": [["A01B"], ["A01B"], ["A01"], ["A01", "B02D"], ["B02D"]],
        "test": [["A01"], ["A01"]],
    }


def test_merging_goes_on_up_until_there_is_support_or_no_parent():
    parts = frames([["A01B 1"], ["A02C"], ["H01L"], ["G06F 3"], ["G06F 3"]])
    assert supported(parts, "merge")["train"] == [["A"], ["A"], ["H"], ["G06F 3"], ["G06F 3"]]


def test_dropping_every_label_of_a_split_is_an_error():
    with pytest.raises(DataError, match="min_support: 2 leaves no document in test"):
        supported(frames([["a"], ["a"], ["b"]], [["b"]]), "drop")


def test_labels_roll_up_to_a_coarser_level():
    space = LabelSpace(("A01B", "A01C", "B02D"))
    coarse, contains = space.rolled_up("class")
    assert coarse.names == ("A01", "B02")
    multi_hot = space.encode([["A01B", "A01C"], ["B02D"], []])
    assert ((multi_hot @ contains) > 0).tolist() == [[True, False], [False, True], [False, False]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": "x", "a": "y"}', "'a' appears twice"),
        ('{"a": "half \\ud83d"}', "lone surrogate"),
        ('{"a": null}', "expected `label: text` lines"),
        ('{"a": " "}', "expected `label: text` lines"),
        ('["a"]', "expected `label: text` lines"),
        ('{"a": ', "is not JSON"),
    ],
)
def test_json_texts_that_are_none_are_refused_in_one_line(tmp_path, text, message):
    file = tmp_path / "names.json"
    file.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_label_names(file)
    assert "\n" not in str(caught.value)


def test_json_texts_are_read_as_json(tmp_path):
    file = tmp_path / "names.json"
    file.write_text(json.dumps({"a": "joy 😀", "😀": "no"}, indent="\t"))
    assert read_label_names(file) == {"a": "joy 😀", "😀": "no"}


def test_texts_come_from_the_file_and_default_to_the_names(tmp_path):
    file = tmp_path / "names.json"
    file.write_text('{"A": "Human necessities", "no": "Norwegian"}')
    assert read_label_names(file) == {"A": "Human necessities", "no": "Norwegian"}
    (tmp_path / "train.csv").write_text("text,label\nx,A\ny,B\nz,A\n")
    (tmp_path / "test.csv").write_text("text,label\nx,A\n")
    splits = load_documents(
        str(tmp_path / "{split}.csv"), text_columns=["text"], label_column="label",
        num_validation=1,
    )  # fmt: skip
    space = LabelSpace.from_splits(splits, label_names=str(file))
    assert (space.names, space.texts) == (("A", "B"), ("Human necessities", "B"))
    assert np.array_equal(space.encode([["A"]]), [[True, False]])


def test_the_word_for_an_empty_set_is_no_label_of_the_study():
    splits = DatasetDict(
        {s: Dataset.from_dict({"labels": [["None"], ["b"], []]}) for s in ("train", "test")}
    )
    space = LabelSpace.from_splits(splits)
    assert (space.names, space.none) == (("None", "b"), "no label")
    assert LabelSpace.from_splits(splits.map(lambda row: {"labels": ["b"]})).none == ""
    taken = DatasetDict(test=Dataset.from_dict({"labels": [[], *([word] for word in NONE)]}))
    with pytest.raises(DataError, match=r"labels are called none, .* none is left for an empty"):
        LabelSpace.from_splits(taken)


def test_pairs_that_are_spelled_in_two_ways_are_counted():
    with pytest.raises(
        DataError, match=r"'A' and 'a' differ .* write them alike \(1 more such pair"
    ):
        check_spelling(["A", "B", "a", "b", "c"], "my.csv")


@pytest.mark.parametrize("labels", [["0", "1", "1.0"], ["-2", "-2.00", "0.5"], ["1.0", "1.00"]])
def test_a_number_that_is_written_in_two_ways_is_one_line(labels):
    with pytest.raises(DataError, match=r"my.csv: labels '(1|-2|1\.0)' and '\1\.?0+' are one"):
        check_spelling(labels, "my.csv")


@pytest.mark.parametrize(
    "labels", [["1", "1.5"], ["1", "1.0", "1.0.1"], ["1", "01"], ["3.1", "3.10"]]
)
def test_numbers_that_may_be_names_are_two(labels):
    check_spelling(labels, "my.csv")
