"""Columns of tables whose meaning nobody has said."""

import numpy as np
import pandas as pd
import pytest

from lib.data.columns import find_columns, parts_of
from lib.data.locate import locate
from lib.data.tables import UNSPLIT
from lib.errors import DataError

N = 60
TEXTS = [f"the story of number {i} is about {['cats', 'dogs', 'birds'][i % 3]}" for i in range(N)]
RED, BLUE = [i % 2 for i in range(N)], [i % 3 // 2 for i in range(N)]
PARTS = [["train", "dev", "test"][i % 3] for i in range(N)]
KINDS = [["good", "bad", "odd"][i % 3] for i in range(N)]


def table(**columns):
    return pd.DataFrame({name: map(str, cells) for name, cells in columns.items()}, dtype=object)


def find(**columns):
    return find_columns(table(**columns), "my.csv")


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"text": TEXTS, "label": KINDS}, {"text_columns": ["text"], "label_column": "label"}),
        ({"n": range(N), "c1": TEXTS, "c2": KINDS}, {"text_columns": ["c1"], "label_column": "c2"}),
        # beside numbers that mean the same, names
        (
            {"text": TEXTS, "label": [i % 3 for i in range(N)], "label_text": KINDS},
            {"text_columns": ["text"], "label_column": "label_text"},
        ),
        # a heading goes with its text; dates, addresses and numbers are neither
        (
            {
                "Title": [f"tale of number {i}" for i in range(N)],
                "abstract": TEXTS,
                "url": [f"https://example.org/a-long-address/{i}" for i in range(N)],
                "score": [i * 0.37 for i in range(N)],
                "stars": [i % 5 for i in range(N)],
            },
            {"text_columns": ["Title", "abstract"], "label_column": "stars"},
        ),
        # codes are no text
        (
            {"text": TEXTS, "code": [f"A0{i}B {i}/{i} C0{i} 1/2" for i in range(N)], "kind": KINDS},
            {"text_columns": ["text"], "label_column": "kind"},
        ),
        # sets: joined, as lists, as columns of yes and no; a comma within a name joins nothing
        (
            {"text": TEXTS, "tags": [["a;b", "b", "c;a", "b;c"][i % 4] for i in range(N)]},
            {"text_columns": ["text"], "label_column": "tags", "label_delimiter": ";",
             "label_mode": "multi"},
        ),
        (
            {"text": TEXTS, "tags": [["['a', 'b']", "['b']"][i % 2] for i in range(N)]},
            {"text_columns": ["text"], "label_column": "tags", "label_mode": "multi"},
        ),
        (
            {"text": TEXTS, "red": RED, "blue": BLUE},
            {"text_columns": ["text"], "indicator_columns": ["red", "blue"], "label_mode": "multi"},
        ),
        (
            {"text": TEXTS, "red": RED, "blue": [1 - red for red in RED]},
            {"text_columns": ["text"], "indicator_columns": ["red", "blue"]},
        ),
        # crosses, and blanks in place of no in one column or in all; a column of one mark is none
        (
            {"text": TEXTS, "red": ["x" * red for red in RED],
             "blue": ["x" * blue for blue in BLUE],
             "batch": [1] * N},
            {"text_columns": ["text"], "indicator_columns": ["red", "blue"], "label_mode": "multi"},
        ),
        (
            {"text": TEXTS, "red": [["", "yes"][red] for red in RED],
             "blue": [["no", "yes"][blue] for blue in BLUE]},
            {"text_columns": ["text"], "indicator_columns": ["red", "blue"], "label_mode": "multi"},
        ),
        (
            {"text": TEXTS, "kind": [["Food, drink", "Health, sports"][i % 2] for i in range(N)]},
            {"text_columns": ["text"], "label_column": "kind"},
        ),
        (
            {"text": TEXTS, "red": ["", *RED[1:]], "blue": ["", *(1 - red for red in RED[1:])]},
            {"text_columns": ["text"], "indicator_columns": ["red", "blue"],
             "unlabelled": "predict"},
        ),
        # ids, groups, splits and gaps
        (
            {"id": range(N), "author": [f"w{i // 2}" for i in range(N)], "text": TEXTS,
             "label": KINDS},
            {"id_column": "id", "group_column": "author", "text_columns": ["text"],
             "label_column": "label"},
        ),
        (
            {"text": TEXTS, "label": KINDS, "split": PARTS},
            {"split_column": "split", "split_names": ["train", "dev", "test"],
             "text_columns": ["text"], "label_column": "label"},
        ),
        (
            {"text": ["", *TEXTS[1:]], "label": [*KINDS[:-2], "", ""]},
            {"text_columns": ["text"], "label_column": "label", "empty_texts": "drop",
             "unlabelled": "predict"},
        ),
        (
            {"本文": [f"これは良い映画です{i}{'一二三四五'[i % 5]}本当" for i in range(N)],
             "評価": ["良悪"[i % 2] for i in range(N)]},
            {"text_columns": ["本文"], "label_column": "評価"},
        ),
        # sets of a few labels each out of nearly as many as rows; cells of several lines; hashtags
        (
            {"text": TEXTS, "tags": [f"t{i % 30};t{(i * 7 + 3) % 31}" for i in range(N)]},
            {"text_columns": ["text"], "label_column": "tags", "label_delimiter": ";",
             "label_mode": "multi"},
        ),
        (
            {"text": TEXTS, "tags": [["a\nb", "b", "c\na", "b\nc"][i % 4] for i in range(N)]},
            {"text_columns": ["text"], "label_column": "tags", "label_delimiter": "\n",
             "label_mode": "multi"},
        ),
        (
            {"text": TEXTS, "tags": [["#a #b", "#b", "#c #a", "#b #c"][i % 4] for i in range(N)]},
            {"text_columns": ["text"], "label_column": "tags", "label_delimiter": " ",
             "label_mode": "multi"},
        ),
        (
            {"text": TEXTS, "tags": [["a;#b", "b", "c"][i % 3] for i in range(N)]},
            {"text_columns": ["text"], "label_column": "tags", "label_delimiter": ";#",
             "label_mode": "multi"},
        ),
        (
            {"text": TEXTS, "tags": [["#a;#b", "#b", "#c;#a", "#b;#c"][i % 4] for i in range(N)]},
            {"text_columns": ["text"], "label_column": "tags", "label_delimiter": ";",
             "label_mode": "multi"},
        ),
        # parts of one name in their places are one label, and so are words without #
        (
            {"text": TEXTS, "place": [f"{'ABC'[i % 3]}, {'xyz'[i // 3 % 3]}" for i in range(N)]},
            {"text_columns": ["text"], "label_column": "place"},
        ),
        (
            {"text": TEXTS, "kind": [f"{'ABC'[i % 3]} {'ABC'[i // 3 % 3]}" for i in range(N)]},
            {"text_columns": ["text"], "label_column": "kind"},
        ),
        # stars with halves; neither dates nor prices with a comma are labels
        (
            {"text": TEXTS, "stars": [1 + i % 9 / 2 for i in range(N)]},
            {"text_columns": ["text"], "label_column": "stars"},
        ),
        (
            {"text": TEXTS, "queue": KINDS, "day": [f"0{i % 3 + 1}.05.2024" for i in range(N)],
             "price": [f"{i % 9},{i % 5}0" for i in range(N)]},
            {"text_columns": ["text"], "label_column": "queue"},
        ),
        # names that end as labels are called, and those of other languages
        (
            {"text": TEXTS, "airline": [i % 4 for i in range(N)], "airline_sentiment": KINDS},
            {"text_columns": ["text"], "label_column": "airline_sentiment"},
        ),
        (
            {"text": TEXTS, "Status": [i % 2 for i in range(N)], "Kategorie": KINDS},
            {"text_columns": ["text"], "label_column": "Kategorie"},
        ),
        # splits under another name; what marks splits but for a word, or lacks a group, is not used
        (
            {"text": TEXTS, "label": KINDS, "usage": PARTS},
            {"split_column": "usage", "split_names": ["train", "dev", "test"],
             "text_columns": ["text"], "label_column": "label"},
        ),
        (
            {"text": TEXTS, "kind": KINDS, "split": [*PARTS[:-1], "holdout"],
             "author": ["", *(f"w{i // 2}" for i in range(N - 1))]},
            {"text_columns": ["text"], "label_column": "kind"},
        ),
    ],
)  # fmt: skip
def test_columns_are_told_by_names_and_cells(columns, expected):
    assert find(**columns).values == expected


def test_a_label_may_be_called_as_its_column():
    found = find(text=TEXTS, spam=[["spam", "ham"][i % 2] for i in range(N)])
    assert found.values["label_column"] == "spam"
    columns = table(words=TEXTS, odd=KINDS)
    assert find_columns(columns, "my.csv", label="odd").values["label_column"] == "odd"


def test_of_equal_columns_the_one_that_is_called_a_label_is():
    codes = [k[0] for k in KINDS]
    for columns in ({"topic_code": codes, "topic": KINDS}, {"topic": KINDS, "topic_code": codes}):
        assert find(text=TEXTS, **columns).values["label_column"] == "topic"


def test_a_column_of_splits_with_gaps_is_not_used():
    found = find(text=TEXTS, split=["", *PARTS[1:]], label=KINDS)
    assert "split_column" not in found.values
    assert ("splits", "column 'split' is not used: 1 rows have none") in found.reasons


def test_a_column_that_is_not_used_is_said():
    authors = ["", *(f"w{i // 2}" for i in range(N - 1))]
    said = dict(
        find(text=TEXTS, kind=KINDS, split=[*PARTS[:-1], "holdout"], author=authors).reasons
    )
    assert said["splits"] == "column 'split' is not used: 'holdout' in it names no split"
    assert said["groups"] == "'author' is not used: 1 rows have none"
    authors = [f"w{i // 2 if i > 6 else 0}" for i in range(N)]
    said = dict(find(text=TEXTS, label=KINDS, author=authors, source=["x"] * N).reasons)
    assert said["groups"] == "'author' is not used: 'w0' is on 12% of the rows"
    assert "groups" not in dict(find(text=TEXTS, source=KINDS).reasons)  # which is the label


@pytest.mark.parametrize(
    ("name", "cells", "counts"),
    [
        ("answer", ["accept", "reject", "Ignore"], "reject on 20, ignore on 20"),
        ("status", ["submitted", "draft", ""], "draft on 20"),
        ("was_cancelled", [False, True, False], "true on 20"),
        ("answer", ["accept"] * 3, ""),
        ("answer", ["accept", "reject", "why"], ""),
        ("was_cancelled", [False] * 3, ""),
    ],
)
def test_annotations_that_do_not_hold_are_said(name, cells, counts):
    columns = {"text": TEXTS, "label": KINDS, name: [cells[i % 3] for i in range(N)]}
    said = dict(find(**columns).reasons).get("caution", "")
    assert said.startswith(
        f"column {name!r} is not used: {counts} of 60 rows; if" if counts else ""
    )
    assert bool(said) == bool(counts)


def test_columns_of_yes_and_no_are_named():
    said = dict(find(text=TEXTS, red=RED, blue=BLUE).reasons)["label"]
    assert said == "2 columns of yes and no, label sets: 'red', 'blue'"
    said = dict(find(text=TEXTS, **{f"c{i}": RED for i in range(12)}).reasons)["label"]
    assert said.endswith("'c6', 'c7' and 4 more")


@pytest.mark.parametrize("bare", ["test", "train"])
def test_a_column_of_splits_is_not_used_where_a_split_has_no_label(bare):
    labels = ["" if part == bare else KINDS[i // 3 % 3] for i, part in enumerate(PARTS)]
    found = find(text=TEXTS, label=labels, split=PARTS)
    assert "split_column" not in found.values
    assert "split_names" not in found.values
    said = dict(found.reasons)["splits"]
    assert said == f"column 'split' is not used: no row of '{bare}' has a text and a label"


def test_objects_of_json_lines_are_neither_texts_nor_labels():
    rows = pd.DataFrame({"text": TEXTS, "kind": KINDS})
    rows["meta"] = [{"lang": "en", "n": i % 3} for i in range(N)]
    rows["spans"] = [[{"start": i % 3}] for i in range(N)]
    rows["map"] = [[("en", i % 3)] for i in range(N)]  # of Parquet
    values = find_columns(rows, "my.jsonl").values
    assert values == {"text_columns": ["text"], "label_column": "kind"}
    with pytest.raises(DataError, match=r"labels.*; meta, spans, map contain objects, whose"):
        find_columns(rows[["text", "meta", "spans", "map"]], "my.jsonl")


def test_lists_of_json_lines_are_labels():
    rows = pd.DataFrame({"text": TEXTS, "topics": [[k] if k != "odd" else [] for k in KINDS]})
    values = find_columns(rows, "my.jsonl").values
    assert values == {"text_columns": ["text"], "label_column": "topics", "label_mode": "multi"}


def test_labels_may_be_beside_lists_of_them():
    rows = pd.DataFrame({"text": TEXTS, "topic": [[k] if k == "odd" else k for k in KINDS]})
    assert find_columns(rows, "my.jsonl").values == {
        "text_columns": ["text"],
        "label_column": "topic",
    }


HOT = [[1, 0, 0], [0, 1, 0], [0, 1, 1]]


@pytest.mark.parametrize(
    "cells", [HOT, [np.array(row, dtype=np.int8) for row in HOT], ["[1, 0, 0]", "[0, 1, 0]"],
              ["[1 0 0]", "[0 1 0]"], ["1,0,0", "0,1,0", "0,1,1"], [[True, False], [False, True]]]
)  # fmt: skip
def test_places_of_labels_are_no_labels(cells):
    labels = [cells[i % len(cells)] for i in range(N)]
    rows = pd.DataFrame({"text": TEXTS, "labels": labels}, dtype=object)
    with pytest.raises(DataError, match=r"'labels' has lists of 0 and 1, .* write the labels' na"):
        find_columns(rows, "my.jsonl")


@pytest.mark.parametrize("cells", [[[0, 1]], [[0], [1]], [[0, 1], [1], []], [[0, 2], [1, 2]]])
def test_numbers_in_lists_may_be_labels(cells):
    labels = [cells[i % len(cells)] for i in range(N)]
    rows = pd.DataFrame({"text": TEXTS, "labels": labels}, dtype=object)
    assert find_columns(rows, "my.jsonl").values["label_column"] == "labels"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": TEXTS}, "one column, 'text'"),
        ({"text": TEXTS, "n": range(N)}, "no column looks like labels.*LABEL=<column>: one of n"),
        ({"text": TEXTS, "label": range(N)}, f"'label' has {N} labels in {N} rows"),
        ({"text": TEXTS, "label": [i / 7 for i in range(N)]}, "'label' has numbers with fractions"),
        ({"text": TEXTS, "a": KINDS, "b": [i % 4 for i in range(N)]}, r"'a' \(3 values\), 'b' \(4"),
        ({"premise": TEXTS, "claim": TEXTS[::-1], "label": KINDS}, "'premise' .*'claim'.*TEXT="),
        ({"n": range(N), "label": KINDS}, "no column looks like texts"),
        ({TEXTS[0]: TEXTS, "good": KINDS}, "contains values, not names"),
        (
            {"Feedback 2023": TEXTS, "Unnamed: 1": KINDS},
            "names 1 of 2 columns .*; if it is a title, remove what is above the columns' names",
        ),
        ({"text": TEXTS, "label": ["a", "b", *[""] * 58]}, "58 other rows have none: fill them in"),
        ({"text": TEXTS, "tags": [f"[{k}, x]" for k in KINDS]}, "'tags' is .* without quotation"),
        ({"text": TEXTS, "tags": [f"{{{k},x}}" for k in KINDS]}, "'tags' is .* without quotation"),
        (
            {"text": TEXTS, "tags": [f"['{k}', None]" for k in KINDS]},
            "'tags' is .* a list written as text with more than names in quotation marks; join",
        ),
        (
            {"text": TEXTS, "tags": [f'[["{k}","x"]]' for k in KINDS]},
            "'tags' is .* a list of more than names; join the labels' names",
        ),
        (
            {"text": TEXTS, "tags": [f'[{{"name": "{k}"}}]' for k in KINDS]},
            "'tags' is .* a list of more than names; join the labels' names",
        ),
        (
            {"text": TEXTS, "tags": [f'{{"{k}": true}}' for k in KINDS]},
            "'tags' is .* an object written as text; join the labels' names",
        ),
        (
            {"text": [*TEXTS, "text", "text"], "kind": [*KINDS, "kind", "kind"]},
            f"document {N + 1} repeats the columns' names; remove that row",
        ),
        ({"day": ["2024-01-01"] * N, "text": TEXTS}, "no column looks like labels"),
        ({"text": [], "label": []}, "my.csv: contains no document"),
        ({}, "my.csv: contains no document"),
    ],
)
def test_what_is_not_clear_is_asked_in_one_line(columns, message):
    with pytest.raises(DataError, match=message) as raised:
        find(**columns)
    assert "\n" not in str(raised.value)


def test_named_columns_win():
    columns = table(premise=TEXTS, claim=TEXTS[::-1], label=KINDS, other=KINDS[::-1])
    found = find_columns(columns, "my.csv", text=["claim"], label="other").values
    assert (found["text_columns"], found["label_column"]) == (["claim"], "other")
    with pytest.raises(DataError, match="no column 'laber'; did you mean 'label'"):
        find_columns(columns, "my.csv", label="laber")
    with pytest.raises(DataError, match="'claim' is named as text and as label"):
        find_columns(columns, "my.csv", text=["claim"], label="claim")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (["why", "is", "that"], ["why is that"]),  # a name that a shell has split
        (["why is that claim"], None),
        (["claim premise"], ["claim", "premise"]),  # names that make has joined
        (["why is that", "claim", "claim"], ["why is that", "claim"]),
    ],
)
def test_columns_whose_names_have_spaces_can_be_named(text, expected):
    columns = table(**{"premise": TEXTS, "claim": TEXTS, "why is that": TEXTS, "label": KINDS})
    if expected:
        assert find_columns(columns, "my.csv", text=text).values["text_columns"] == expected
    else:
        with pytest.raises(DataError, match="no column 'why'; did you mean 'why is that'"):
            find_columns(columns, "my.csv", text=text)


def test_files_of_one_data_set_are_found_from_any_name_of_it(tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    for name in ("train.csv", "dev.csv", "notes.txt", "whole.csv"):
        (folder / name).write_text("text,label\n")
    split = (str(folder / "{split}.csv"), ["train", "dev", ""], "films")
    for data in (folder, folder / "train.csv", folder / "{split}.csv"):
        assert locate(str(data)) == split
    assert locate(str(folder / "whole.csv"))[1:] == (["train", "", "test"], "whole")
    for name in ("cats-train.tsv", "cats-val.tsv", "cats-train_2.tsv"):  # with other words
        (folder / name).write_text("text\tlabel\n")
    cats = (str(folder / "cats-{split}.tsv"), ["train", "val", ""], "cats")
    assert (
        locate(str(folder / "cats-train.tsv")) == locate(str(folder / "cats-{split}.tsv")) == cats
    )
    one = (str(folder / "cats-train_2.tsv"), ["train", "", "test"], "cats-train_2")
    assert locate(one[0]) == one
    assert locate(str(folder)) == split
    (folder / "dev.csv").unlink()  # train alone is split
    assert locate(str(folder))[:2] == (str(folder / "train.csv"), ["train", "", "test"])
    for missing in ("none.csv", "none", "{split}.tsv"):
        with pytest.raises(DataError, match=r"no such file|no file of training"):
            locate(str(folder / missing))
    (folder / "train.csv").unlink()
    with pytest.raises(
        DataError, match=r"several data sets: cats-\{split\}.tsv, cats-\{split\}_2.t"
    ):
        locate(str(folder))
    for name in ("cats-train.tsv", "cats-train_2.tsv"):
        (folder / name).unlink()
    with pytest.raises(DataError, match=r"none is called train; name one of its files: cats-val"):
        locate(str(folder))
    with pytest.raises(DataError, match=r"no such file; a hub data set is named in .*'owner/name'"):
        locate("owner/name")


@pytest.fixture
def folder(tmp_path):
    """A function that makes a folder of empty files with these names."""

    def make(*names):
        for name in names:
            (tmp_path / "films" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "films" / name).touch()
        return tmp_path / "films"

    return make


@pytest.mark.parametrize(
    ("files", "not_used"),
    [
        (("train.csv", "test.jsonl"), ["test.jsonl"]),
        (("train.tsv", "dev.tsv", "test.csv"), ["test.csv"]),
        (("a_train.csv", "a_test.csv.gz", "b_test.jsonl"), ["a_test.csv.gz"]),
        (("train.csv", "test.csv", "test.jsonl", "test.txt"), []),
        (("train.csv", "test.csv", "eval.jsonl"), ["eval.jsonl"]),
    ],
)
def test_a_file_of_a_split_with_another_ending_is_said(folder, files, not_used):
    for data in (folder(*files), folder() / files[0]):
        said = []
        locate(str(data), said.append)
        assert said == [
            f"{folder() / name} is not used: its ending is not that of {files[0]}; write both alike"
            for name in not_used
        ]


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (("train.csv", "eval.csv", "test.csv"), ["train", "eval", "test"]),
        (("a_train.csv", "a_Eval.csv", "a_testing.csv"), ["train", "Eval", "testing"]),
        (("train.csv", "eval.csv", "dev.csv"), ["train", "dev", "eval"]),
        (("train.csv", "eval.csv"), ["train", "", "eval"]),
    ],
)
def test_eval_is_validation_beside_a_test(folder, files, names):
    assert locate(str(folder(*files)))[1] == names
    words = [names[i % 3] or names[0] for i in range(N)]
    assert find(text=TEXTS, label=KINDS, split=words).values["split_names"] == names
    found = find(text=TEXTS, label=KINDS, split=words)
    parts = parts_of({UNSPLIT: table(split=words)}, found)
    assert list(parts[:3]) == ["train", "validation" if names[1] else "train", "test"]


@pytest.mark.parametrize(
    ("files", "fault"),
    [
        (("train.csv", "dev.csv", "val.csv"), "dev.csv and val.csv are both for validation"),
        (("a-train.csv", "a-training.csv"), "a-train.csv and a-training.csv are both for train"),
        (("train.csv", "dev.csv", "eval.csv", "test.csv"), "dev.csv and eval.csv are both for val"),
        (
            tuple(f"{word}-00000-of-00002.csv" for word in ("eval", "test", "train")),
            "eval.csv and test.csv are both for test",
        ),
    ],
)
def test_two_files_for_one_split_are_one_line(folder, files, fault):
    with pytest.raises(DataError, match=f"films: {fault}.*; rename one, or move it elsewhere$"):
        locate(str(folder(*files)))


SHARDS = ("train-00000-of-00002.parquet", "train-00001-of-00002.parquet")
ONE_TEST = "test-00000-of-00001.parquet"


def test_shards_are_one_data_set(folder):
    path = folder(*SHARDS, ONE_TEST, "README.md", "dataset_infos.json")
    assert locate(str(path)) == (str(path), ["train", "", "test"], "films")
    assert locate(str(path / ONE_TEST))[1:] == (["train", "", "test"], ONE_TEST[:-8])
    for name in (SHARDS[0], "{split}-00000-of-00002.parquet"):
        with pytest.raises(DataError, match=r"one of 2 shards of a data set; name their folder, "):
            locate(str(path / name))
    with pytest.raises(DataError, match=r"one of 2 shards of a data set; join them into one file"):
        locate(str(path / "data-00000-of-00002.csv"))
    folder("train-extra.parquet")
    with pytest.raises(DataError, match=r"shards beside other files: .* a folder of their own"):
        locate(str(path))


def test_one_shard_per_split_is_a_file_per_split(folder):
    path = folder("train-00000-of-00001.parquet", ONE_TEST)
    assert locate(str(path))[:2] == (
        str(path / "{split}-00000-of-00001.parquet"),
        ["train", "", "test"],
    )


@pytest.mark.parametrize(
    ("files", "hint"),
    [
        (("README.md", f"data/{SHARDS[0]}"), "films/data has one: name that folder"),
        (
            ("train/a.csv", "test/b.csv"),
            "call the files in test, train as their folders, and put them into one",
        ),
        (("dict.json", "train/a.arrow", "train/state.json"), "are not read: write .* to_csv .*"),
        (("a.arrow", "state.json"), "are not read: write .* to_csv .*"),
        (("notes/a.csv", "b.csv"), "name one of its files: b.csv"),
    ],
)
def test_a_folder_of_folders_gets_a_hint(folder, files, hint):
    with pytest.raises(DataError, match=rf"none is called train; .*{hint}$"):
        locate(str(folder(*files)))


def test_a_home_is_found_where_the_shell_has_not_done_so(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my.csv").write_text("text,label\n")
    assert locate("~/my.csv")[0] == str(tmp_path / "my.csv")
