"""Files of every dialect, ending and encoding: read whole, or refused in one line."""

import bz2
import contextlib
import csv
import gzip
import io
import json
import lzma
from decimal import Decimal
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import load_documents
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from hypothesis import example, given
from hypothesis import strategies as st

from lib.data import LabelSpace
from lib.data.tables import _read_hub, cell_text, read_table
from lib.data.unlabelled import read_unlabelled
from lib.data.written_tables import open_table
from lib.errors import DataError

CELLS = st.text(st.sampled_from("ab é\"'\\,;\t\n"), max_size=6)
ROWS = st.lists(st.tuples(CELLS, st.sampled_from(["pos", "neg"])), min_size=1, max_size=6)


def options(**changed):
    return {"text_columns": ["text"], "label_column": "label", "num_validation": 2} | changed


@given(ROWS, st.sampled_from(["\n", "\r\n"]), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
@example([('",\n\\', "pos")], "\n", csv.QUOTE_MINIMAL)
def test_proper_tables_are_read_as_they_were_written(tmp_path_factory, rows, end, quoting):
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator=end, quoting=quoting)
    writer.writerows([("text", "label"), *rows])
    path.write_bytes(text.getvalue().encode())
    try:
        table = read_table(path)
    except DataError as error:  # another dialect would make rows of it: refused, not misread
        if '\\"' not in text.getvalue() or "escaped by a backslash" not in str(error):
            raise
    else:
        assert list(table.itertuples(index=False, name=None)) == rows


@given(
    st.lists(st.tuples(st.sampled_from("01"), CELLS), min_size=2, max_size=6),
    st.sampled_from(
        [
            {"doublequote": False, "escapechar": "\\"},
            {"quoting": csv.QUOTE_NONE, "escapechar": "\\"},
            {"quotechar": "'"},
        ]
    ),
)
@example([("0", '"'), ("0", ',"'), ("0", '"')], {"doublequote": False, "escapechar": "\\"})
def test_other_dialects_never_lose_a_row(tmp_path_factory, rows, dialect):
    rows = [("film", "0"), ("film", "1"), *((cell.replace("\n", " "), name) for name, cell in rows)]
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, **dialect).writerows([("text", "label"), *rows])
    with contextlib.suppress(DataError):
        table = read_table(path)
        again = io.StringIO(newline="")
        csv.writer(again).writerows([table.columns, *table.itertuples(index=False)])
        is_proper = again.getvalue().encode() == path.read_bytes()  # it says that, if not so meant
        assert len(table) == len(rows) or is_proper


@pytest.mark.parametrize(
    "text",
    [
        'text,label\n"a, b",x\n"say ""so""",y\nplain "word" in it,x\n',
        'text,label\n"Dear Bob, hello\nsee you, soon\nbye",x\n"one\ntwo",y\nthree,x\n',
        "text,label,\na,x,\nb,y,\nc,x,\n",
        "text,label\r\na,x\r\n\r\nb,y\r\nc,x",
        '"text","label"\n"a","x"\n"b","y"\n"","x"\n',
    ],
)
def test_rows_of_proper_tables_all_come(tmp_path, text):
    (tmp_path / "a.csv").write_bytes(text.encode())
    assert len(read_table(tmp_path / "a.csv")) == 3


ROW = {"text": "café", "label": "NA"}
AS_CSV, AS_JSON = "text,label\ncafé,NA\n", json.dumps(ROW, ensure_ascii=False) + "\n"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("A.CSV", AS_CSV.encode()),
        ("a.csv.gz", gzip.compress(AS_CSV.encode(), mtime=0)),
        ("a.tsv.GZ", gzip.compress(AS_CSV.replace(",", "\t").encode(), mtime=0)),
        ("a.json", AS_JSON.encode()),
        ("a.json", f"[\n{AS_JSON}]".encode()),
        ("a.ndjson", AS_JSON.encode()),
        ("a.JSONL.gz", gzip.compress(AS_JSON.encode(), mtime=0)),
        ("v1.2.csv", AS_CSV.encode()),
        *[("a.csv", AS_CSV.encode(e)) for e in ("utf-8-sig", "utf-16", "utf-32")],
        ("a.csv", "\ufeff".encode("utf-16-be") + AS_CSV.encode("utf-16-be")),
        ("a.jsonl", AS_JSON.encode("utf-16")),
    ],
)
def test_endings_and_byte_order_marks_are_read(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert read_table(tmp_path / name).to_dict("records") == [ROW]


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_byte_order_marks_of_joined_files_are_no_cells(tmp_path, name):
    one = (AS_CSV if name == "a.csv" else AS_JSON).encode("utf-8-sig")
    (tmp_path / name).write_bytes(one * 2)
    header = [{"text": "text", "label": "label"}] if name == "a.csv" else []
    assert read_table(tmp_path / name).to_dict("records") == [ROW, *header, ROW]


@pytest.mark.parametrize("line", ["|---|:-:|", "| :--- | ---: |", "------+-----", "|--|--|"])
def test_drawn_tables_are_told_apart(tmp_path, line):
    (tmp_path / "a.csv").write_text(f"| text | label |\n{line}\n| one | a |\n")
    with pytest.raises(DataError, match="line 2 rules a table that is drawn, as in Markdown; save"):
        read_table(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("text|label\n-|a\n--|b\n")
    assert len(read_table(tmp_path / "a.csv")) == 2


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "text;label\r\ncafé;NA\r\n"),  # Excel's, where a comma is in numbers
        ("a.csv", '"text";"label"\ncafé;NA\n'),
        ("a.csv", "text\tlabel\ncafé\tNA\n"),
        ("a.csv", "text|label\ncafé|NA\n"),
        ("a.tsv", AS_CSV),
        ("a.csv", 'sep=;\r\ntext;label\r\n"café";NA\r\n'),
        ("a.csv", '"sep=,"\ntext,label\ncafé,NA\n'),
        ("a.csv", "SEP=;\ntext;label\ncafé;NA\n"),
    ],
)
def test_the_delimiter_is_that_of_the_header(tmp_path, name, content):
    (tmp_path / name).write_bytes(content.encode())
    assert read_table(tmp_path / name).to_dict("records") == [ROW]


def test_the_delimiter_of_the_header_loses_no_row(tmp_path):
    (tmp_path / "a.csv").write_text('"text, of all";label\na, b;x\nc;d;y\n')
    with pytest.raises(DataError, match=r"document 2 \(line 3\) has 3 cells, the header 2; .* ';'"):
        read_table(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("Export of May\n\ntext,label\na,x\n")
    with pytest.raises(
        DataError, match=r"header 1; .*, or remove a title above the columns' names"
    ):
        read_table(tmp_path / "a.csv")


def test_a_header_without_the_column_of_row_names_is_said(tmp_path):
    (tmp_path / "a.csv").write_text('"text","label"\n"1","one","x"\n"2","two","y"\n')
    with pytest.raises(DataError, match=r"so has every row: name the column of row names too"):
        read_table(tmp_path / "a.csv")


def test_two_columns_of_parquet_with_one_name_are_said(tmp_path):
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    pq.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet: column 'text' appears twice; rename one"):
        read_table(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("cells", "named"),
    [
        ([2**70, 1], "column 'n' does"),
        ([{}, {}], "'n'"),
        ([[("a", 1)], [("b", 2)]], "column 'n' does"),  # a map
        ([["a"], "a"], "column 'n' does"),
    ],
)
def test_columns_that_do_not_fit_into_parquet_are_named(tmp_path, cells, named):
    table = pd.DataFrame({"text": ["a", "b"], "n": cells}, dtype=object)
    with (
        pytest.raises(DataError, match=f"{named}.* fit into Parquet|fit into Parquet .*{named}"),
        open_table(tmp_path / "a.parquet", table, {}) as write,
    ):
        write(table)


@pytest.mark.parametrize("unit", ["ns", "us", "ms"])
def test_times_and_durations_are_written_alike_alone_and_in_lists(tmp_path, unit):
    day, hour = pd.Timestamp("2020-01-01 10:00:00.005"), pd.Timedelta(hours=30)
    cells = {"day": (day, pa.timestamp(unit)), "hours": (hour, pa.duration(unit))}
    lists = {f"{n}_list": ([v, None], pa.list_(kind)) for n, (v, kind) in cells.items()}
    arrays = {name: pa.array([v], kind) for name, (v, kind) in (cells | lists).items()}
    pq.write_table(pa.table(arrays), tmp_path / "in.parquet")
    table = read_table(tmp_path / "in.parquet")
    for name in ("out.jsonl", "out.csv"):
        with open_table(tmp_path / name, table, {}) as write:
            write(table)
    times, hours = "2020-01-01T10:00:00.005000", "1 days 06:00:00"
    row = {"day": times, "hours": hours, "day_list": [times, None], "hours_list": [hours, None]}
    assert json.loads((tmp_path / "out.jsonl").read_text()) == row
    [cells] = read_table(tmp_path / "out.csv").to_dict("records")
    texts = {name: v if isinstance(v, str) else json.dumps(v) for name, v in row.items()}
    assert cells == texts


def test_the_largest_integers_stay_beside_a_missing_one(tmp_path):
    table = pd.DataFrame({"n": [2**64 - 1, None]}, dtype=object)
    with open_table(tmp_path / "a.parquet", table, {}) as write:
        write(table)
    assert read_table(tmp_path / "a.parquet")["n"].tolist() == [2**64 - 1, None]


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("text;label, of May\na, b, c;x\nd;y\n", ["text", "label, of May"]),
        ("text,label (x;y)\na;b,x\nd,y\n", ["text", "label (x;y)"]),
        ("text,label;more\na,x\nb\n", ["text", "label;more"]),  # as before: short rows
    ],
)
def test_of_two_delimiters_in_the_header_that_of_the_rows_is_taken(tmp_path, header, columns):
    (tmp_path / "a.csv").write_text(header)
    assert list(read_table(tmp_path / "a.csv").columns) == columns


def test_two_delimiters_that_both_fit_are_asked_about(tmp_path):
    (tmp_path / "a.csv").write_text("id;text, title;label\n1;Hello, world;x\n2;a, b;y\n")
    with pytest.raises(DataError, match=r"',' and ';' both give rows .* first line: sep=,$"):
        read_table(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("sep=;\nid;text, title;label\n1;Hello, world;x\n")
    assert list(read_table(tmp_path / "a.csv").columns) == ["id", "text, title", "label"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"PK\x03\x04\x14\x00\xb8", "no text but a workbook or a zip .*as CSV UTF-8"),
        ("a.csv", b"\xd0\xcf\x11\xe0\xa1\xb1", "no text but a workbook; save its sheet"),
        (
            "a.csv",
            gzip.compress(AS_CSV.encode(), mtime=0),
            "packed by gzip; let its name end in .gz",
        ),
        ("a.jsonl", b"PAR1\x15\x04", "Parquet; let its name end in .parquet"),
        ("a.csv", b"\x28\xb5\x2f\xfd\x04", "no text but packed by zstd; unpack it"),
        ("a.tsv", lzma.compress(AS_CSV.encode()), "packed by xz; unpack it"),
        ("a.csv.gz", bz2.compress(AS_CSV.encode(), 5), "packed by bzip2; unpack it"),
        ("a.csv", b"%PDF-1.7\n", "a PDF; save the table"),
        ("a.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"),
        ("a.parquet", b"version https://git-lfs.github.com/spec/v1\n", "is no Parquet but a poi"),
        ("a.csv", b"\n<!DOCTYPE html>\n<html>", "no text but a web page; get the file"),
        ("a.parquet", b"<html><body>", "is no Parquet but a web page"),
        ("a.xlsx", b"PK\x03\x04", "'.xlsx' is none of .*; save its sheet as CSV UTF-8"),
        ("a.json", b'{"data": [{"text": "a"}]}', "is one JSON object of columns; write an object"),
        (
            "a.csv",
            ("text,label\n" + "so far " * 12 + "un café à côté,x\n").encode("cp1252"),
            "café à côté,x'",
        ),
    ],
)
def test_files_of_another_kind_are_told_apart(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / name)


@pytest.mark.parametrize("ending", ["csv", "tsv", "csv.gz", "tsv.gz"])
def test_a_folder_keeps_the_labels_that_look_missing(tmp_path, ending):
    names = ["NA", "EU", "None", "null", "nan", "true"]
    for split in ("train", "test"):
        frame = pd.DataFrame({"text": [f"{split} {i}" for i in range(12)], "label": names * 2})
        frame.to_csv(tmp_path / f"{split}.{ending}", index=False, sep=",\t"["tsv" in ending])
    splits = load_documents(str(tmp_path), **options())
    assert LabelSpace.from_splits(splits).names == tuple(sorted(names))


def test_a_folder_swallows_no_rows(tmp_path):
    (tmp_path / "train.csv").write_text('text,label\na,x\n"b,y\nc,x\n"d" e,y\n')
    (tmp_path / "test.csv").write_text("text,label\na,x\n")
    with pytest.raises(DataError, match=r"document 2 \(line 3\): a quotation mark opens a cell"):
        load_documents(str(tmp_path), **options())


@pytest.mark.parametrize("name", ["review.text", "0", "a:b", "a:3", "{x}", "a[0]", "x!r", "é è"])
def test_columns_are_names_whatever_is_in_them(tmp_path, name):
    rows = [{name: f"t{i}", "title": "T", "label": "ab"[i % 2]} for i in range(8)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    splits = load_documents(
        str(tmp_path / "a.jsonl"),
        **options(text_columns=[name, "title"], num_test=2),
        text_template=f"{{title}} {{{{{{{name}}}}}}}",
    )
    assert {text for split in splits.values() for text in split["text"]} == {
        f"T {{t{i}}}" for i in range(8)
    }


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (np.array([1, 2] * 4, dtype=np.float32), ("1", "2")),
        (np.array([0.5, 2] * 4, dtype=np.float32), ("0.5", "2")),
        (np.array([0.1, 0.2] * 4, dtype=np.float32), ("0.1", "0.2")),
        (np.array([0.1, 0.2] * 4, dtype=np.float16), ("0.1", "0.2")),
        (pd.array([0.1, 0.2] * 4, dtype="Float32"), ("0.1", "0.2")),
        ([Decimal("1.00"), Decimal("2.50")] * 4, ("1", "2.50")),
        (pd.to_datetime(["2020-01-01", "2021-01-01"] * 4), ("2020-01-01", "2021-01-01")),
        (pd.Categorical(["NA", "b"] * 4), ("NA", "b")),
        (np.array([True, False] * 4), ("False", "True")),
    ],
)
def test_labels_of_parquet_are_written_plainly(tmp_path, values, names):
    pd.DataFrame({"text": list("abcdefgh"), "label": values}).to_parquet(tmp_path / "a.parquet")
    splits = load_documents(str(tmp_path / "a.parquet"), **options(num_test=2))
    assert LabelSpace.from_splits(splits).names == names


@pytest.mark.parametrize("pattern", ["a.parquet", "{split}.parquet"])
def test_class_labels_of_parquet_are_called_by_name(tmp_path, pattern):
    names = ClassLabel(names=["bad", "good"])
    features = Features(text=Value("string"), label=names, more=Sequence(names))
    rows = {"text": list("abcdefgh"), "label": [0, 1] * 4, "more": [[0, 1], [1]] * 4}
    for name in ("a", "train", "test"):
        Dataset.from_dict(rows, features).to_parquet(tmp_path / f"{name}.parquet")
    for column, mode in (("label", "single"), ("more", "multi")):
        changed = {"label_column": column, "label_mode": mode, "num_test": 2}
        splits = load_documents(str(tmp_path / pattern), **options(**changed))
        assert LabelSpace.from_splits(splits).names == ("bad", "good")
    assert set(read_table(tmp_path / "a.parquet")["label"]) == {0, 1}  # as it is for predictions


def test_infinity_is_no_whole_number():
    assert [cell_text(float("inf")), cell_text(np.float32(3)), cell_text(None)] == ["inf", "3", ""]


@pytest.mark.parametrize(
    ("yes", "no"),
    [
        ("1", "0"),
        ("1.0", "0.0"),
        ("TRUE", "FALSE"),
        ("yes", "no"),
        ("Y", "n"),
        ("x", ""),
        ("1", ""),
    ],
)
def test_indicators_are_read_as_people_write_them(tmp_path, yes, no):
    rows = [f"t{i},{yes if i % 2 else no},{yes if i % 3 else no}" for i in range(12)]
    (tmp_path / "a.csv").write_text("text,p,q\n" + "\n".join(rows))
    splits = load_documents(
        str(tmp_path / "a.csv"),
        **options(label_column="", indicator_columns=["p", "q"], num_test=2, label_mode="multi"),
    )
    labels = {
        i: set(x) for s in splits.values() for i, x in zip(s["text"], s["labels"], strict=True)
    }
    assert labels == {
        f"t{i}": {name for name, of in (("p", 2), ("q", 3)) if i % of} for i in range(12)
    }


@pytest.mark.parametrize(
    "written",
    [
        ("['a', 'b']", "['a']", "[]"),
        ('["a", "b"]', '["a"]', "[]"),
        ("['a' 'b']", "['a']", "[]"),
        ("['a'\n 'b']", "['a',]", "[ ]"),
        ("('a', 'b')", "('a',)", "[]"),
        ("{'a', 'b'}", "{'a'}", "[]"),
        ("array(['a', 'b'], dtype=object)", "array(['a'], dtype='<U1')", "array([], dtype=object)"),
        ("array(['a',\n 'b'])", "array(['a'])", "[]"),
        ("frozenset({'a', 'b'})", "frozenset({'a'})", "frozenset()"),
        ("{'a', 'b'}", "{'a'}", "set()"),
        ("[np.str_('a'), np.str_('b')]", '[np.str_("a")]', "[]"),
        ('c("a", "b")', 'c("a")', "character(0)"),
    ],
)
def test_lists_written_as_text_are_label_sets(tmp_path, written):
    rows = [{"text": f"t{i}", "label": written[i % 3]} for i in range(12)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    splits = load_documents(str(tmp_path / "a.jsonl"), **options(num_test=2, label_mode="multi"))
    labels = {i: x for s in splits.values() for i, x in zip(s["text"], s["labels"], strict=True)}
    assert labels == {f"t{i}": [["a", "b"], ["a"], []][i % 3] for i in range(12)}


@pytest.mark.parametrize("written", [("[001 002]", "[001]"), ("[001, 002]", "['001']")])
def test_codes_of_digits_in_a_list_are_label_sets(tmp_path, written):
    rows = [{"text": f"t{i}", "label": written[i % 2]} for i in range(12)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    splits = load_documents(str(tmp_path / "a.jsonl"), **options(num_test=2, label_mode="multi"))
    assert LabelSpace.from_splits(splits).names == ("001", "002")


@pytest.mark.parametrize("written", [("[1, 0]", "[0, 1]"), ("1;0;0", "0;1;1")])
def test_places_of_labels_stop_a_study(tmp_path, written):
    rows = [{"text": f"t{i}", "label": written[i % 2]} for i in range(12)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    changed = {"label_mode": "multi", "label_delimiter": ";" if ";" in written[0] else ""}
    with pytest.raises(DataError, match=r"a.jsonl: 'label' has lists of 0 and 1, equally long"):
        load_documents(str(tmp_path / "a.jsonl"), **options(num_test=2, **changed))


@pytest.mark.parametrize(
    "names",
    [
        ("[bug]", "[feature]"),
        ("{bug}", "{it}"),
        ("[[bug]]", "[[it]]"),
        ("[1]", "[2]"),
        ("(1)", "(2)"),
    ],
)
def test_names_in_brackets_are_names(tmp_path, names):
    rows = [f"t{i},{names[i % 2]}" for i in range(8)]
    (tmp_path / "a.csv").write_text("text,label\n" + "\n".join(rows))
    splits = load_documents(str(tmp_path / "a.csv"), **options(num_test=2))
    assert LabelSpace.from_splits(splits).names == names


@pytest.mark.parametrize("kind", ["empty list", "no indicator", "nothing joined"])
def test_an_empty_label_set_is_an_answer(tmp_path, kind):
    sets = [["toxic"], [], [], ["insult", "toxic"]] * 10
    (tmp_path / "a.jsonl").write_text(
        "\n".join(
            json.dumps(
                {"text": f"t{i}", "label": x, "joined": "|".join(x)}
                | {name: int(name in x) for name in ("toxic", "insult")}
            )
            for i, x in enumerate(sets)
        )
    )
    how = {
        "empty list": {},
        "no indicator": {"label_column": "", "indicator_columns": ["toxic", "insult"]},
        "nothing joined": {"label_column": "joined", "label_delimiter": "|"},
    }[kind]
    splits = load_documents(
        str(tmp_path / "a.jsonl"), **options(label_mode="multi", num_test=10, **how)
    )
    labels = {i: x for s in splits.values() for i, x in zip(s["text"], s["labels"], strict=True)}
    assert labels == {f"t{i}": sorted(x) for i, x in enumerate(sets)}
    assert sum(not x for x in splits["test"]["labels"]) == 5  # its share, stratified


def test_rare_labels_vanish_without_the_sets_that_were_empty_before(tmp_path):
    sets = [["a"], []] * 10 + [["rare"]]
    rows = [json.dumps({"text": f"t{i}", "label": x}) for i, x in enumerate(sets)]
    (tmp_path / "a.jsonl").write_text("\n".join(rows))
    changed = {"label_mode": "multi", "num_test": 4, "min_support": 2, "rare_labels": "drop"}
    splits = load_documents(str(tmp_path / "a.jsonl"), **options(**changed))
    assert sorted(map(len, splits.values())) == [2, 4, 14]
    assert LabelSpace.from_splits(splits).names == ("a",)


@pytest.mark.parametrize("zone", ["", "Z", "+02:00"])
def test_no_date_is_on_two_sides_of_a_cut(tmp_path, zone):
    time = f"T10:00{zone}" if zone else ""
    rows = [f"t{i},{'ab'[i % 2]},2020-01-{i // 5 + 1:02d}{time}" for i in range(60)]
    (tmp_path / "a.csv").write_text("text,label,day\n" + "\n".join(rows))
    splits = load_documents(
        str(tmp_path / "a.csv"), **options(num_validation=7, num_test=7, date_column="day")
    )
    days = {name: {int(t[1:]) // 5 for t in split["text"]} for name, split in splits.items()}
    assert [len(splits[name]) for name in ("validation", "test")] == [7, 7]
    assert max(days["train"]) < min(days["validation"])
    assert max(days["validation"]) < min(days["test"])


@pytest.mark.parametrize("columns", ["{id},{text},{label}", "{label},{text},{id}"])
@pytest.mark.parametrize("last", [19, 60])
def test_rows_are_swallowed_beside_a_column_of_ids(tmp_path, columns, last):
    lines = [columns.format(id="id", text="text", label="label")]
    for i in range(1, 121):
        text = {18: '"open', last: f'a screen of {i}"'}.get(i, f"document {i}")
        lines.append(columns.format(id=f"n{i}", text=text, label=("pos", "neg")[i % 2]))
    (tmp_path / "a.csv").write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"document 18 \(line 19\): .* swallows the rows after it"):
        read_table(tmp_path / "a.csv")


def test_a_damaged_packed_file_stops_in_one_line(tmp_path):
    read_lines = partial(read_unlabelled, text_columns=["text"], text_template="")
    packed = bytearray(gzip.compress(AS_CSV.encode() * 99, mtime=0))
    for at in range(10, len(packed)):
        damaged = packed[:at] + bytes([packed[at] ^ 255]) + packed[at + 1 :]
        (tmp_path / "a.csv.gz").write_bytes(damaged)
        (tmp_path / "a.txt.gz").write_bytes(damaged)
        for name, read in (("a.csv.gz", read_table), ("a.txt.gz", read_lines)):
            with pytest.raises(DataError, match=f"{name}: ") as caught:
                read(tmp_path / name)
            assert "\n" not in str(caught.value)


def test_long_integers_stay_apart_beside_a_missing_one(tmp_path):
    ids = [2**53, 2**53 + 1, None]
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table({"id": ids, "lists": [ids, [1], []]}), path)
    for table in (read_table(path), _read_hub(str(tmp_path), "train", "main")):
        assert table["id"].map(cell_text).tolist() == ["9007199254740992", "9007199254740993", ""]
        assert list(map(cell_text, table["lists"][0])) == [
            "9007199254740992",
            "9007199254740993",
            "",
        ]


@pytest.mark.parametrize("crossed", ["train", "test", ""])
def test_a_label_without_a_cross_in_a_file_is_none_there(tmp_path, crossed):
    for name in ("train", "test"):
        rows = [f"{name}{i},{'x' * (i % 2)},{'x' * (name == crossed)}" for i in range(8)]
        (tmp_path / f"{name}.csv").write_text("text,a,b\n" + "\n".join(rows))
    changed = {"label_column": "", "indicator_columns": ["a", "b"], "label_mode": "multi"}
    splits = load_documents(
        str(tmp_path / "{split}.csv"), **options(**changed), allow_unseen_labels=True
    )
    found = {x for split in splits.values() for row in split["labels"] for x in row}
    assert found == ({"a", "b"} if crossed else {"a"})


def test_labels_that_differ_by_a_letter_are_two(tmp_path):
    rows = [f"t{i},{('Mass', 'Maß')[i % 2]}" for i in range(8)]
    (tmp_path / "a.csv").write_text("text,label\n" + "\n".join(rows))
    splits = load_documents(str(tmp_path / "a.csv"), **options(num_test=2))
    assert LabelSpace.from_splits(splits).names == ("Mass", "Maß")


@pytest.mark.parametrize(
    ("encoding", "text", "first"),
    [
        ("cp1252", "A votação não foi suspensa e a decisão é unânime", True),
        ("cp1252", "Hon såg på den blå sjön och gick över ängen för att äta", True),
        ("cp1252", "L’été dernier, la forêt était très belle; où êtes-vous allés", True),
        ("cp1250", "Příliš žluťoučký kůň úpěl ďábelské ódy", True),
        ("cp1250", "Wczoraj wieczorem poszliśmy całą rodziną do kina, było świetnie", False),
        ("cp1251", "Сегодня хорошая погода в Москве", True),
    ],
)
def test_the_right_encoding_is_among_the_likely(tmp_path, encoding, text, first):
    rows = [f'"{text}",{i}' for i in range(30)]
    (tmp_path / "a.csv").write_bytes("\n".join(["text,label", *rows]).encode(encoding))
    with pytest.raises(DataError) as caught:
        read_table(tmp_path / "a.csv")
    message = str(caught.value)
    assert f"{encoding.upper()}, as which the line reads {rows[0][:60]!r}" in message
    assert f"likely {encoding.upper()}" in message or not first
