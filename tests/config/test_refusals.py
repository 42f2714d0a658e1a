"""Files as people have them, faults included: each stops in one line that says what and where."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import load_documents
from datasets import ClassLabel, Dataset, Features, List

from lib.data import LabelSpace
from lib.data.tables import _name_classes
from lib.errors import DataError
from lib.storage import ROOT

GOOD = "text,label\n" + "".join(f"document {i},{'ab'[i % 2]}\n" for i in range(8))
TEST = "text,label\nnew one,a\nnew two,b\n"


@pytest.fixture
def load(tmp_path):
    """Write files by name, text or bytes, and load them; `{folder}` is where they lie."""

    def load(files, dataset="{split}.csv", **options):
        for name, content in files.items():
            data = content if isinstance(content, bytes) else content.encode()
            (tmp_path / name).write_bytes(data)
        options = {"text_columns": ["text"], "label_column": "label", "num_validation": 1} | options
        return load_documents(str(tmp_path / dataset), **options)

    return load


def csv(train=GOOD, test=TEST, **options):
    return {"train.csv": train, "test.csv": test}, options


def jsonl(*rows, **options):
    rows = [{"text": f"t{i}", "label": "ab"[i % 2]} for i in range(6)] + list(rows)
    lines = "\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows)
    test = '{"text": "new", "label": "a"}'
    return {"train.jsonl": lines, "test.jsonl": test}, {"dataset": "{split}.jsonl"} | options


def one(text, **options):
    return {"all.csv": text}, {"dataset": "all.csv", "num_test": 1} | options


MARKED = "text,label,part\na,x,train\nb,y,train\nc,x,train\nd,y,test\n"
DATED = "text,label,day\n" + "".join(f"d{i},{'ab'[i % 2]},2020-01-0{i + 1}\n" for i in range(8))

CASES = {
    "workbook": (
        csv(b"PK\x03\x04rest"),
        "is no text but a workbook or a zip archive; save its sheet",
    ),
    "missing column": (csv("text,topic\na,b\n"), "no column 'label'; did you mean"),
    "column of text named twice": (
        csv(text_columns=["text", "text:2"]),
        "train.csv: column 'text' is named twice as text; name it once",
    ),
    "doubled column": (
        csv("text,label,text\na,b,c\n"),
        "column 'text' appears twice in the head",
    ),
    "mixed types of text": (jsonl({"text": 7, "label": "a"}), "document 7 contains a number"),
    "mixed types of label": (jsonl({"text": "x", "label": 3}), "column 'label' mixes number and"),
    "text is a list": (jsonl({"text": ["x"], "label": "a"}), "document 7: 'text' contains a list"),
    "NaN label": (jsonl({"text": "x", "label": float("nan")}), "document 7: no label"),
    "null label": (jsonl({"text": "x", "label": None}), "document 7: no label"),
    "empty label list": (jsonl({"text": "x", "label": []}), "document 7: no label"),
    "label list of blanks": (jsonl({"text": "x", "label": [" "]}), "document 7: no label"),
    "blank label": (csv(GOOD + "text,\n"), "document 9: no label"),
    "blank text": (csv(GOOD + " ,a\n"), "document 9: text is empty"),
    "several labels": (
        jsonl({"text": "x", "label": ["a", "b"]}),
        r"document 7 has 2 labels \(a, b\); set label_mode",
    ),
    "labels that differ by case": (csv(GOOD + "x,A\n"), "labels 'A' and 'a' differ by case"),
    "labels that differ by spaces": (
        csv(GOOD + "x,a  b\ny,a b\n"),
        "'a  b' and 'a b' differ by case or spaces",
    ),
    "doubled id, other label": (
        csv("id,text,label\n1,x,a\n2,y,b\n1,z,b\n", "id,text,label\n9,x,a\n", id_column="id"),
        r"id '1' appears twice with labels \['a'\] and \['b'\]",
    ),
    "id of train in test": (
        csv("id,text,label\n1,x,a\n2,y,b\n3,z,b\n", "id,text,label\n1,q,a\n", id_column="id"),
        "id '1' appears twice; every document needs its own",
    ),
    "no id": (csv("id,text,label\n1,x,a\n,y,b\n", id_column="id"), "document 2: no id"),
    "not UTF-8": (csv("text,label\ncafé,a\n".encode("latin1")), r"not UTF-8 \(byte 0xe9\)"),
    "UTF-16 without a mark": (csv(GOOD.encode("utf-16-le")), "zero byte; .* `iconv -f UTF-16LE"),
    "UTF-16 cut off": (csv(GOOD.encode("utf-16")[:-1]), "line 9: not UTF-16 .* damaged or cut off"),
    "likely encoding": (
        csv("text,label\n今天股市大涨投资者很高兴,a\n".encode("gb18030")),
        "line 2: not UTF-8 .* likely GB18030, as which the line reads '今天股市大涨投资者很高兴,a'",
    ),
    "one damaged line": (
        csv("text,label\ncafé é é é,a\n".encode() + b"\xe9,b\n"),
        "mend that line",
    ),
    "truncated Parquet": (
        ({"train.parquet": b"PAR1\x15\x04", "test.parquet": b""}, {"dataset": "{split}.parquet"}),
        "train.parquet: cannot be read",
    ),
    "rows longer than the header": (csv("text,label\na,b,c,d\ne,f\n"), "train.csv"),
    "open quote": (
        csv('text,label\ngood,a\n"open,a\nnext,b\n'),
        r"""document 2 \(line 3\): a quotation mark opens a cell and .*'"open,a'; quote the""",
    ),
    "open quote, closed by a later one": (
        csv('text,label\ngood,a\n"open,a\nnext,b\n"own" line,a\n'),
        r"document 2 \(line 3\): a quotation mark opens a cell and swallows",
    ),
    "open quote, closed by chance": (
        csv(GOOD + '"open,a\nnext,b\n5",a\n'),
        r"document 9 \(line 10\): a quotation mark opens 'text' and swallows .*'open,a'; double it",
    ),
    "open quote behind the label, closed by chance": (
        csv('label,text\na,x\nb,y\na,"open\nb,5"\n'),
        r"document 3 \(line 4\): a quotation mark opens 'text' and swallows the rows after it",
    ),
    "quotes escaped by a backslash": (
        csv('text,label\n"a \\"b\\" c",a\nd,b\n'),
        r"document 1 \(line 2\): a quotation mark is escaped by a backslash",
    ),
    "quote that closes within a cell": (
        csv(GOOD + '"own" words,a\n'),
        r"document 9 \(line 10\): a quotation mark closes before the end of its cell",
    ),
    "header missing": (
        csv("good,a\nbad,b\nfine,a\n"),
        r"the first line \(good, a\) contains values, not names: write",
    ),
    "boolean among numbers": (
        (
            {
                "train.jsonl": '{"text": "x", "label": 1}\n{"text": "y", "label": true}\n',
                "test.jsonl": "",
            },
            {"dataset": "{split}.jsonl"},
        ),
        "'label' mixes boolean and number values; document 1 contains a number, 1; write",
    ),
    "labels that differ by Unicode form": (
        csv(GOOD + "x,cafe\u0301\ny,caf\u00e9\n"),
        r"labels 'cafe.u0301' and 'caf.xe9' look alike: they differ by Unicode form",
    ),
    "labels that differ by an invisible character": (
        csv(GOOD + "x,sport\ny,sport\u200b\n"),
        "look alike: they differ by Unicode form or invisible characters alone",
    ),
    "not JSON": (jsonl("{text: x}"), "line 7 is not JSON"),
    "JSON without names": (jsonl("[1, 2]"), "line 7 is not a JSON object"),
    "half of a character": (
        jsonl('{"text": "x \\ud83d", "label": "a"}'),
        r"train.jsonl: line 7 contains a lone surrogate, .ud83d .*; write the full",
    ),
    "empty file": (csv(""), "train.csv: cannot be read: No columns; name"),
    "header alone": (csv("text,label\n"), "train.csv: contains no document"),
    "one class": (csv("text,label\na,x\nb,x\nc,x\n", "text,label\nd,x\n"), "one class only: {'x'}"),
    "label only in test": (csv(test=TEST + "x,c\n"), r"test-3: label \['c'\] is in test but not"),
    "unknown ending": (({"a.xls": b"x"}, {"dataset": "a.xls"}), "ending '.xls' is none of"),
    "no file": (({}, {"dataset": "nowhere-{split}.csv"}), "nowhere-train.csv: no such data file"),
    "too few to stratify": (
        csv("text,label\na,x\nb,y\nc,z\n", "text,label\nd,x\n", num_train=2),
        "cannot take num_train 2, num_validation 1 out of 3 .*; train needs one of each of the 3",
    ),
    "more than there are": (
        csv(num_train=8),
        "cannot take num_train 8, num_validation 1 out of 8 training documents; lower",
    ),
    "nothing to validate": (
        csv(num_validation=0),
        "a split that is cut from train needs at least one document",
    ),
    "mark of no split": (
        one(MARKED.replace("d,y,test", "d,y,tset"), split_column="part"),
        "document 4: 'part' is 'tset', which is none of split_names",
    ),
    "empty split": (
        one(MARKED, split_column="part", split_names=["train", "dev", "test"]),
        "no document is marked 'dev' in 'part'",
    ),
    "group missing": (
        csv("text,label,family\na,x,1\nb,y,\n", group_column="family"),
        "document 2: no group",
    ),
    "no date": (
        one(DATED.replace("2020-01-03", "soon"), date_column="day"),
        "document 3: 'day' is no ISO date",
    ),
    "day before month": (
        one(DATED.replace("2020-01-03", "03/01/2020"), date_column="day"),
        "document 3: 'day' is no ISO date such as 2020-12-31",
    ),
    "one group holds nearly all": (
        one(
            "text,label,g\n" + "".join(f"d{i},{'ab'[i % 2]},{i // 6}\n" for i in range(8)),
            group_column="g",
            num_train=4,
        ),
        "documents are left for train once whole groups are held out, num_train is 4",
    ),
    "label lost to the cut by date": (
        one(DATED.replace("d7,b", "d7,late"), date_column="day"),
        r"label \['late'\] is in test but not in train",
    ),
    "list written as text": (
        jsonl({"text": "x", "label": "['a', 'b']"}),
        "document 7: 'label' is .* a list written as text, unlike that of other rows",
    ),
    "name among lists": (
        csv("text,label\nx,\"['a', 'b']\"\ny,['a']\nz,b\n", label_mode="multi"),
        "document 3: 'label' is 'b', no list written as text, unlike that of other rows",
    ),
    "list without quotation marks": (
        csv('text,label\nx,"[a, b]"\ny,[a]\n', label_mode="multi"),
        r"document 1: 'label' is '\[a, b\]', a list written as text without quotation marks",
    ),
    "empty label in a list": (
        jsonl({"text": "x", "label": [None, "b"]}, label_mode="first"),
        "document 7: 'label' has an empty label in its list",
    ),
    "label is an object": (
        jsonl({"text": "x", "label": {"a": 1}}),
        "'label' contains a dict",
    ),
    "labels of labels": (jsonl({"text": "x", "label": [["a"]]}), "'label' contains a list"),
    "id is a list": (
        jsonl({"text": "x", "label": "a", "id": ["1"]}, id_column="id"),
        "document 7: 'id' contains a list",
    ),
    "doubled key": (
        jsonl('{"text": "x", "text": "y"}'),
        "7 is not JSON: 'text' appears twice",
    ),
    "quotation mark in a TSV": (
        (
            {"train.tsv": 'text\tlabel\n"open\ta\nx\tb\ny" z\ta\nq\tb\n', "test.tsv": ""},
            {"dataset": "{split}.tsv"},
        ),
        r"document 1 \(line 2\): a quotation mark opens a cell and swallows",
    ),
    "plain table called .tab": (
        ({"train.tab": "text\tlabel\nx\ta\ny\tb\n", "test.tab": ""}, {"dataset": "{split}.tab"}),
        "line 2 does not contain Orange's column types",
    ),
    "template that is none": (csv(text_template="{text"), "text_template: '{text' is not valid"),
    "indicator of neither 0 nor 1": (
        csv("text,p,q\na,1,0\nb,2,1\n", indicator_columns=["p", "q"], label_mode="multi"),
        "document 2: 'p' is '2', neither 0 nor 1",
    ),
    "no indicator of one label": (
        csv("text,p,q\na,1,0\nb,0,0\n", indicator_columns=["p", "q"]),
        "document 2: no label",
    ),
    "blank indicator beside 0": (
        csv("text,p,q\na,1,0\nb,,1\nc,0,1\n", indicator_columns=["p", "q"], label_mode="multi"),
        "document 2: 'p' is '', neither 0 nor 1",
    ),
    "null among label sets": (
        jsonl({"text": "x", "label": None}, label_mode="multi"),
        "document 7: no label",
    ),
    "no label set but the empty one": (
        csv(*["text,p,q\na,0,0\nb,0,0\n"] * 2, indicator_columns=["p", "q"], label_mode="multi"),
        "one class only: the empty set; there is nothing to learn",
    ),
    "time without a time zone": (
        one(
            DATED.replace("2020-01-03", "2020-01-03T10:00").replace(
                "2020-01-04", "2020-01-04T10:00Z"
            ),
            date_column="day",
        ),
        "document 3: 'day' has a time without a time zone, other rows have one",
    ),
    "IPC code": (
        csv(GOOD.replace(",a", ",zz"), label_level="section"),
        "document 1: IPC code 'zz' is malformed",
    ),
    "template of other fields": (
        csv(text_template="{title}: {text}"),
        r"text_template: fields \['text', 'title'\] are not text_columns \['text'\]",
    ),
    "missing column beside lists": (
        jsonl(
            *[{"text": "x", "labels": ["a", "b"]}] * 2, label_column="labls", dataset="train.jsonl"
        ),
        "train.jsonl: no column 'labls'; did you mean 'labels'",
    ),
    "missing column of one object": (
        ({"a.json": '{"data": [{"text": "x"}, {"text": "y"}]}'}, {"dataset": "a.json"}),
        "a.json: is one JSON object of columns; write an object for each row",
    ),
    "list that marks a split": (
        (
            {"a.jsonl": '{"text": "x", "label": "a", "part": ["train", "test"]}\n'},
            {"dataset": "a.jsonl", "split_column": "part"},
        ),
        "document 1: 'part' is \"\\['train', 'test'\\]\", which is none of split_names",
    ),
    "nested too deeply": (jsonl("[" * 100_000), "line 7 nests lists or objects too deeply"),
    "list nested too deeply": (
        ({"a.json": "[" * 100_000 + "]" * 100_000}, {"dataset": "a.json"}),
        "a.json: nests lists or objects too deeply",
    ),
    "blank indicator in one file, 0 in another": (
        csv(
            "text,p,q\na,1,0\nb,,1\nc,1,1\n",
            "text,p,q\nd,0,1\n",
            indicator_columns=["p", "q"],
            label_mode="multi",
        ),
        "train.csv: document 2: 'p' is '', neither 0 nor 1",
    ),
    "nothing left for train": (
        csv(num_validation=9),
        r"num_train 0 \(the rest\), num_validation 9 out of 8 training documents",
    ),
    "hour without a time zone": (
        one(
            DATED.replace("2020-01-03", "2020-01-03T10").replace("2020-01-04", "2020-01-04T10Z"),
            date_column="day",
        ),
        "document 3: 'day' has a time without a time zone, other rows have one",
    ),
    "ISO-2022-JP": (
        csv("text,label\na,b\n今日は天気がいいです,a\n".encode("iso2022_jp")),
        "train.csv: line 3 contains an escape sequence of ISO-2022-JP; .* `iconv -f ISO-2022-JP -t",
    ),
    "ISO-2022-KR": (
        csv("text,label\n안녕하세요,a\n".encode("iso2022_kr")),
        "contains an escape sequence of ISO-2022-KR; convert the file",
    ),
    "support that no label has": (csv(min_support=99, rare_labels="drop"), "leaves no document"),
}


@pytest.mark.parametrize("case", CASES)
def test_faulty_data_stops_in_one_line(load, case):
    (files, options), message = CASES[case]
    with pytest.raises(DataError, match=message) as caught:
        load(files, **options)
    assert "\n" not in str(caught.value)


SHOWN = ("workbook", "missing column", "blank label", "several labels", "not UTF-8",
         "labels that differ by case", "label only in test", "group missing")  # fmt: skip


def test_the_docs_show_what_faulty_files_say(load, tmp_path):
    lines = []
    for case in SHOWN:
        (files, options), _ = CASES[case]
        with pytest.raises(DataError) as caught:
            load(files, **options)
        message = str(caught.value).replace(f"{tmp_path}/", "data/mine-")
        lines.append(message)
    shown = "```\n" + "\n".join(lines) + "\n```"
    assert shown in (ROOT / "docs/your-data.md").read_text(encoding="utf-8"), shown


def test_there_are_at_least_25_kinds_of_bad_input():
    assert len(CASES) >= 25


def test_a_document_of_ten_megabytes_is_loaded(load):
    huge = "word " * 2_000_000
    splits = load(*csv(GOOD + f"{huge},a\n")[:1])
    assert max(map(len, splits["train"]["text"])) == len(huge.strip())


def test_a_byte_order_mark_is_no_part_of_the_first_column(load):
    assert len(load(*csv(GOOD.encode("utf-8-sig"))[:1])["train"]) == 7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: same\nb: same\n", "several are called 'same'"),
        ("x: one\n", "none of its labels"),
        ("- a\n", "expected `label: text` lines"),
        ("a: [1\n", "cannot be read"),
        ("a:\n", "expected `label: text` lines"),
        ("a: one\nb: two\na: three\n", "names.yaml: a: given twice; leave one"),
        ('a: "half \\ud83d"\n', r"names.yaml: '\\ud83d' is no character of a text; leave it out"),
    ],
)
def test_faulty_label_names_stop_in_one_line(load, tmp_path, content, message):
    splits = load(*csv()[:1])
    file = tmp_path / "names.yaml"
    file.write_text(content)
    with pytest.raises(DataError, match=message) as caught:
        LabelSpace.from_splits(splits, label_names=str(file))
    assert "\n" not in str(caught.value)


def test_a_missing_package_and_a_missing_hub_data_set_are_named():
    options = {"text_columns": ["text"], "label_column": "label", "num_validation": 1}
    with pytest.raises(DataError, match=r"no installed package contains nopackage/x-train.csv"):
        load_documents("package:nopackage/x-{split}.csv", **options)
    with pytest.raises(DataError, match=r"someone/nothing: split 'train' cannot be loaded") as at:
        load_documents("someone/nothing", **options)
    assert "\n" not in str(at.value)


def test_missing_cells_do_not_turn_labels_into_decimals(tmp_path):
    frame = pd.DataFrame({"text": list("abcdef"), "label": [1, 2, 1, 2, 1, 2]})
    frame.to_parquet(tmp_path / "test.parquet")
    frame.loc[len(frame)] = [None, np.nan]
    frame.to_parquet(tmp_path / "train.parquet")
    splits = load_documents(
        str(tmp_path / "{split}.parquet"),
        text_columns=["text"], label_column="label", num_validation=1,
    )  # fmt: skip
    assert LabelSpace.from_splits(splits).names == ("1", "2")


def test_rows_keep_their_numbers_beside_a_column_called_row(load):
    splits = load(*csv("text,label,row\na,x,7\nb,y,8\nc,x,9\n", "text,label\nd,x\n")[:1])
    assert {i for split in splits.values() for i in split["id"]} == {
        "train-1", "train-2", "train-3", "test-1",
    }  # fmt: skip


def test_parquet_keeps_an_index_that_has_a_name_and_draws_groups_at_random(tmp_path):
    size = 60
    frame = pd.DataFrame(
        {
            "text": [f"t{i}" for i in range(size)],
            "label": list("ab") * (size // 2),
            "family": pd.Categorical([f"g{i // 3:02d}" for i in range(size)]),
        },
        index=pd.Index([f"n{i}" for i in range(size)], name="key"),
    )
    frame.to_parquet(tmp_path / "all.parquet")
    options = {"text_columns": ["text"], "label_column": "label", "id_column": "key",
               "group_column": "family", "num_validation": 6, "num_test": 6}  # fmt: skip
    path = str(tmp_path / "all.parquet")
    held_out = [
        set(load_documents(path, **options, data_seed=seed)["test"]["group"]) for seed in (0, 1)
    ]
    assert held_out[0] != held_out[1]


def test_a_hub_class_that_is_not_labelled_has_no_label():
    features = Features(
        {"y": ClassLabel(names=["a", "b"]), "z": List(ClassLabel(names=["a", "b"]))}
    )
    documents = Dataset.from_dict({"y": [1, None, -1], "z": [[0, 1], [], [-1]]}, features=features)
    table = _name_classes(documents.to_pandas(), features)
    assert table["y"].tolist() == ["b", None, None]
    assert table["z"].tolist() == [["a", "b"], [], [None]]
