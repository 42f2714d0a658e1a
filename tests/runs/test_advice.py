"""Words about a new study's documents."""

from hashlib import sha256

import pytest
from datasets import Dataset, DatasetDict

from lib.data.labels import LabelSpace
from lib.errors import DataError
from lib.runs.advice import cautions, label_texts, prompt


def told(train, test, repeats=0):
    """The cautions about documents with these labels, the first test texts being in train too."""

    def documents(name, rows, same=0):
        names = [f"{'train' if i < same else name}-{i}" for i in range(len(rows))]
        texts = [sha256(each.encode()).hexdigest() for each in names]
        return Dataset.from_dict({"id": names, "text": texts, "labels": rows})

    splits = DatasetDict(train=documents("train", train), validation=documents("validation", train))
    splits["test"] = documents("test", test, repeats)
    return cautions(splits, LabelSpace.from_splits(splits), "my.csv")


AB = [["a"], ["b"]] * 50


@pytest.mark.parametrize(
    ("documents", "expected"),
    [
        ((AB, AB), []),
        (
            (AB, AB, 2),
            [
                "text is in train and in a held-out split: 2, such as train-0, train-1; drop them "
                "from the earlier split, or read the scores as optimistic"
            ],
        ),
        ((AB, AB[:9]), ["9 test documents show large differences alone; label more texts"]),
        (
            ([*AB, ["c"]], [*AB, ["d"], ["a", "e"]]),
            [
                "label has no training document: 2, such as d, e; it cannot be predicted",
                "label has fewer than 5 training documents: 1, such as c; label more documents",
            ],
        ),
        (
            ([*AB, *[["NULL"]] * 9], [*AB, ["NULL"]]),
            ["'NULL' counts as a label; empty these cells if they have none"],
        ),
        (([*AB, []], [*AB, []]), []),  # of label sets
    ],
)
def test_documents_that_mislead_are_said(documents, expected):
    assert told(*documents) == expected


def test_a_test_whose_labels_are_all_unknown_is_refused():
    with pytest.raises(
        DataError, match=r"no label of test \('0', '1', '2' and 2 more\) is in train"
    ):
        told(AB, [[str(i)] for i in range(5)])


@pytest.mark.parametrize(
    ("column", "labels", "instruction"),
    [
        ("is_spam", ("FALSE", "TRUE"), 'Is "spam" true of this text?'),
        ("label", ("no", "yes"), "Name the label of this text."),
        ("Category\n(final)", ("a", "b"), "Name the category final of this text."),
        ("1", ("a", "b"), "Name the label of this text."),
        ("text", ("a", "b"), "Name the label of this text."),
    ],
)
def test_the_instruction_reads_well(column, labels, instruction):
    found = prompt({"label_column": column}, LabelSpace(labels))
    assert found == {"instruction": instruction, "decoding": "score"}


def test_underscores_stay_where_two_labels_would_be_called_alike():
    assert label_texts(LabelSpace(("card_arrival", "top_up"))) == {
        "card_arrival": "card arrival",
        "top_up": "top up",
    }
    assert label_texts(LabelSpace(("card arrival", "card_arrival", "top_up"))) == {}


@pytest.mark.parametrize("gap", ["NaN", "\\N", "#REF!", "<NA>", "NaT", "#VALUE!", "#NAME?", "N/A"])
def test_marks_of_missing_values_count_as_labels_with_a_word_about_it(gap):
    rows = [*AB, *[[gap]] * 9]
    assert told(rows, rows) == [f"{gap!r} counts as a label; empty these cells if they have none"]


def test_equal_texts_with_different_labels_are_a_caution():
    assert any(each.startswith("the same text has different") for each in told(AB, AB[::-1], 2))
