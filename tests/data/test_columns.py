"""Columns of tables whose meaning nobody has said."""

import pandas as pd
import pytest

from lib.data.columns import find_columns
from lib.data.locate import locate
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
            {"text": TEXTS, "kind": [["Food, drink", "Health, sports"][i % 2] for i in range(N)]},
            {"text_columns": ["text"], "label_column": "kind"},
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
    ],
)  # fmt: skip
def test_columns_are_told_by_names_and_cells(columns, expected):
    assert find(**columns).values == expected


def test_lists_of_json_lines_are_labels():
    rows = pd.DataFrame({"text": TEXTS, "topics": [[k] if k != "odd" else [] for k in KINDS]})
    values = find_columns(rows, "my.jsonl").values
    assert values == {"text_columns": ["text"], "label_column": "topics", "label_mode": "multi"}


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


def test_files_of_one_data_set_are_found_from_any_name_of_it(tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    for name in ("train.csv", "dev.csv", "notes.txt", "whole.csv"):
        (folder / name).write_text("text,label\n")
    split = (str(folder / "{split}.csv"), ["train", "dev", ""], "films")
    for data in (folder, folder / "train.csv", folder / "{split}.csv"):
        assert locate(str(data)) == split
    assert locate(str(folder / "whole.csv"))[1:] == (["train", "", "test"], "whole")
    (folder / "dev.csv").unlink()  # train alone is split
    assert locate(str(folder))[:2] == (str(folder / "train.csv"), ["train", "", "test"])
    for missing in ("none.csv", "none", "{split}.tsv"):
        with pytest.raises(DataError, match=r"no such file|no file of training"):
            locate(str(folder / missing))
