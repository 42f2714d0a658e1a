"""A study of one's own file."""

import csv
import json
from pathlib import Path

import pandas as pd
import pytest

from lib.__main__ import main
from lib.config import load_study
from lib.config.strict_yaml import read_yaml
from lib.data import load_splits
from lib.errors import DataError, ParamsError
from lib.runs import new
from lib.runs.rates import Machine
from lib.storage import ROOT

WORDS = ("red", "green", "blue", "white", "black", "brown", "grey")


def fast(flops=1e15):
    return Machine("fake", flops=flops, bandwidth=1e14, memory_gib=16.0, itemsize=4, device="cpu")


@pytest.fixture
def params(tmp_path, monkeypatch):
    """A folder of parameters with the models' presets; the machine is fast."""
    folder = tmp_path / "params"
    folder.mkdir()
    for name in ("answer", "answer_gpu"):
        (folder / name).symlink_to(ROOT / "params" / name)
    monkeypatch.setattr(new, "measure_this_machine", lambda study, seconds: fast())
    monkeypatch.setattr(new, "configure_process", lambda **_: None)
    return folder


@pytest.fixture
def write(tmp_path):
    def write(rows, name="colours.csv", header=("text", "label")):
        with (tmp_path / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
        return str(tmp_path / name)

    return write


def rows(count, label=lambda i: WORDS[i % 7]):
    return [(f"a {WORDS[i % 7]} thing that is number {i} of many", label(i)) for i in range(count)]


def test_a_file_becomes_a_study_that_loads(params, write):
    lines = []
    name = new.new_study(write(rows(300, lambda i: f"dark_{WORDS[i % 7]}")), params_dir=params,
                         say=lines.append)  # fmt: skip
    assert name == "colours"
    assert len(lines) <= 15
    assert not [line for line in lines if "caution" in line]
    arms = load_study(params / "colours", params_dir=str(params))
    assert set(arms) == {"embedding", "instruction", "encoder", "frozen", "tfidf"}
    assert len({len(arms[a].candidates) for a in ("embedding", "instruction", "encoder")}) == 1
    splits = load_splits(arms["embedding"])
    assert sum(map(len, splits.values())) == 300
    assert len(splits["test"]) == 60
    assert arms["instruction"].instruction == "Name the label of this text."
    texts = json.loads((params / "colours/labels.json").read_text())
    assert texts["dark_red"] == "dark red"
    # A second time nothing is chosen anew; another file of that name is another study's.
    before = (params / "colours/common.yaml").read_text() + "# mine\n"
    (params / "colours/common.yaml").write_text(before)
    assert new.new_study(arms["tfidf"].dataset, params_dir=params, say=lines.append) == "colours"
    assert (params / "colours/common.yaml").read_text() == before
    assert "is there already and stays" in lines[-1]


@pytest.mark.parametrize("cells", [[("a text",)] * 20, [("a text", "")] * 20, [("", "")]])
def test_a_test_file_without_labels_is_left_out_and_the_study_found_again(params, write, cells):
    write(rows(300), "train.csv")
    data = str(Path(write(cells, "test.csv", ("text", "label")[: len(cells[0])])).parent)
    lines = []
    for _ in range(2):
        name = new.new_study(data, name="mine", params_dir=params, say=lines.append)
    assert name == "mine"
    assert "is there already and stays" in lines[-1]
    assert any("test is left out" in line for line in lines)
    assert (
        len(load_splits(load_study(params / "mine", params_dir=str(params))["tfidf"])["test"]) == 60
    )


def test_a_split_without_labels_in_one_file_is_cut_anew(params, write):
    lines = []
    table = [(text, "" if i % 10 == 0 else label, "test" if i % 10 == 0 else "train")
             for i, (text, label) in enumerate(rows(300))]  # fmt: skip
    new.new_study(write(table, header=("text", "label", "split")), params_dir=params,
                  say=lines.append)  # fmt: skip
    assert "column 'split' is not used: no row of 'test' has a text and a label" in str(lines)
    assert len(load_splits(load_study(params / "colours", params_dir=str(params))["tfidf"])) == 3


def test_less_time_is_fewer_documents_and_tries(params, write, monkeypatch):
    data = write(rows(900))
    sizes = {}
    for name, flops in (("fast", 1e15), ("slow", 2e10)):
        monkeypatch.setattr(new, "measure_this_machine", lambda *_, f=flops, **__: fast(f))
        new.new_study(data, name=name, params_dir=params, say=lambda _: None)
        arm = load_study(params / name, params_dir=str(params))["embedding"]
        tries = len(arm.candidates)
        sizes[name] = (arm.num_train or 900, arm.num_test, tries, arm.batch_size)
    assert sizes == {"fast": (900, 180, 6, 8), "slow": (250, 180, 2, 4)}


def test_few_documents_are_those_that_are_left_to_learn_from(params, write):
    for count, batch_size in ((480, 4), (800, 8)):  # of which a fifth each are held out
        name = new.new_study(write(rows(count), f"of{count}.csv"), params_dir=params,
                             say=lambda _: None)  # fmt: skip
        arms = load_study(params / name, params_dir=str(params))
        assert {arms[a].batch_size for a in ("embedding", "instruction")} == {batch_size}
        assert arms["encoder"].batch_size == 8  # it has twice the epochs


def test_label_sets_gaps_and_a_foreign_language(params, write):
    texts = [f"Das ist der {i}. Satz über die {w} Katze" for i, w in enumerate(WORDS * 20)]
    sets = list(zip(texts, ["a;b", "b", "c;a", ""] * 35, strict=True))
    lines = []
    new.new_study(write([*sets, ("", "a")], header=("satz", "tags")), params_dir=params,
                  say=lines.append)  # fmt: skip
    values = read_yaml(params / "colours/common.yaml")
    assert values["label_mode"] == "multi"
    assert values["instruction"] == "List the tags of this text."
    assert (values["empty_texts"], values["unlabelled"]) == ("drop", "predict")
    told = "\n".join(lines)
    assert "German" in told
    assert "35 rows without a label, to predict later" in told
    assert "1 rows without a text" in told


def test_files_per_split_are_used_unless_they_lack_labels(params, write, tmp_path):
    folder = tmp_path / "cats"
    folder.mkdir()
    for part, count in (("train", 200), ("dev", 40), ("test", 50)):
        table = [(*row, part) for row in rows(count)]  # with a column that says so too
        write(table, f"cats/{part}.csv", ("text", "label", "split"))
    new.new_study(str(folder), params_dir=params, say=lambda _: None)
    values = read_yaml(params / "cats/common.yaml")
    assert values["split_names"] == ["train", "dev", "test"]
    assert (values["num_train"], values["num_validation"], values["num_test"]) == (0, 40, 50)
    (folder / "test.csv").write_text("text\nwho knows\n")
    (folder / "dev.csv").unlink()
    lines = []
    new.new_study(str(folder), name="cut", params_dir=params, say=lines.append)
    assert read_yaml(params / "cut/common.yaml")["dataset"].endswith("cats/train.csv")
    assert "test is left out" in lines[0]


def test_shards_are_joined(params, tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    table = pd.DataFrame(rows(300), columns=["text", "label"])
    pieces = {"train-00000-of-00002": table[:150], "train-00001-of-00002": table[150:250],
              "test-00000-of-00001": table[250:]}  # fmt: skip
    for name, piece in pieces.items():
        piece.to_parquet(folder / f"{name}.parquet", index=False)
    assert new.new_study(str(folder), params_dir=params, say=lambda _: None) == "shards"
    splits = load_splits(load_study(params / "shards", params_dir=str(params))["tfidf"])
    assert len(splits["train"]) + len(splits["validation"]) == 250
    assert len(splits["test"]) == 50
    (folder / "test-00000-of-00001.parquet").unlink()
    new.new_study(str(folder), name="cut", params_dir=params, say=lambda _: None)
    splits = load_splits(load_study(params / "cut", params_dir=str(params))["tfidf"])
    assert sum(map(len, splits.values())) == 250


@pytest.mark.parametrize("train", [[], [("a text", "")] * 20])
def test_train_without_a_document_is_one_line(params, write, train):
    write(rows(60), "test.csv")
    with pytest.raises(DataError, match="no row of train has a text and a label"):
        new.new_study(write(train, "train.csv"), params_dir=params, say=lambda _: None)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("text\none\n", {}, "one column"),
        ("text,label\n", {}, "bad.csv: contains no document"),
        ("text,label\nthis is a,x\nthis is b,x\nthis is c,x\n", {}, "1 labels in 3 rows"),
        ("text,label\nthis is a,x\nthis is b,y\n", {}, "1 rows per|2 labels in 2 rows"),
        ("text;label\nthis is a;x\n", {}, "1 labels in 1 rows"),
        ("text,label\nthis is a,x\nthis is b,y\n", {"model": "9b"}, "model: '9b' is none of"),
        ("text,label\nthis is a,x\nthis is b,y\n", {"text": ["body"]}, "no column 'body'"),
    ],
)
def test_a_file_that_is_no_study_is_one_line_and_leaves_nothing(
    params, tmp_path, content, options, message
):
    (tmp_path / "bad.csv").write_text(content)
    with pytest.raises((DataError, ParamsError), match=message) as raised:
        new.new_study(str(tmp_path / "bad.csv"), params_dir=params, say=lambda _: None, **options)
    assert "\n" not in str(raised.value)
    assert {path.name for path in params.iterdir()} == {"answer", "answer_gpu"}


def test_texts_longer_than_the_encoder_reads_make_a_study(params, write):
    long = [(f"{i} {'blue and red ' * 180}", "ab"[i % 2]) for i in range(20)]
    new.new_study(write(long), params_dir=params, say=lambda _: None)
    assert read_yaml(params / "colours/common.yaml")["max_length"] == 510


def test_train_has_room_for_each_label_and_for_whole_groups():
    size, usable = new.SIZES[-1], pd.Series({"train": 5000})
    assert new._sized({}, usable, size, least=3)["num_train"] == size.num_train
    assert new._sized({}, usable, size, least=900)["num_train"] == 900
    usable = pd.Series({"train": int(size.num_train / 0.7)})
    assert new._sized({}, usable, size._replace(num_train=200), least=3)["num_train"] == 200
    grouped = new._sized({"group_column": "w"}, usable, size._replace(num_train=200), least=3)
    assert grouped["num_train"] == 0  # the rest, however large the groups that are held out


def test_a_study_is_called_as_its_file_as_far_as_folders_can_be(params, write):
    data = write(rows(60), "Übersicht (neu).csv")
    assert new.new_study(data, params_dir=params, say=lambda _: None) == "Ubersicht_neu"
    for name in ("a b", "../evil", ".hidden", "2024", "1e3", "1_000", "008", "true"):
        with pytest.raises(ParamsError, match=r"name: .* write a word of letters, digits"):
            new.new_study(data, name=name, params_dir=params)


def test_a_file_that_is_called_by_a_number_becomes_a_study_that_is_not(params, write):
    say = {"say": lambda _: None}
    assert new.new_study(write(rows(60), "2024.csv"), params_dir=params, **say) == "study_2024"
    assert new.new_study(write(rows(60), "20news.csv"), params_dir=params, **say) == "20news"


def test_another_studys_name_is_refused(params, write):
    new.new_study(write(rows(60)), params_dir=params, say=lambda _: None)
    with pytest.raises(ParamsError, match="NAME=<name>"):
        new.new_study(write(rows(60), "other.csv"), name="colours", params_dir=params)


def test_the_command_ends_with_one_line(tmp_path):
    with pytest.raises(SystemExit, match="no such file"):
        main(["new", str(tmp_path / "none.csv")])
