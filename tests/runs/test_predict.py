"""Runs of every approach, made by their notebooks: reloaded, and as `python -m lib predict`."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from lib.__main__ import main
from lib.config.study import load_params
from lib.data.labels import LabelSpace
from lib.data.load import load_splits
from lib.data.tables import read_table
from lib.errors import InputError
from lib.evaluation.scores import Scores
from lib.runs import predict
from lib.runs.classifier import Classifier, load_classifier
from lib.runs.finished import read_predictions
from lib.runs.scoring import Measure
from lib.storage import ROOT

WORDS = {"grain": "wheat maize barley oats", "metal": "copper zinc iron tin", "money": "bank loan"}
SETS = {"label_column": "labels", "label_mode": "multi", "label_delimiter": ";"}
FEW = {"num_train": 12, "num_validation": 6, "num_test": 6, "quantization": "none"}
SMALL = FEW | {"num_epochs": 1, "lora_r": 2}
ASKED = FEW | {"num_epochs": 0, "num_generated": 0, "template": "plain", "instruction": "Topic?"}
SHOWN = ASKED | {"num_examples": 2}
FROZEN = FEW | {"method": "frozen", "penalty_grid": [1.0]}
ARMS = {
    "tfidf": ("02_baselines", {}),
    "tfidf_sets": ("02_baselines", SETS),
    "frozen": ("02_baselines", FROZEN | {"pooling_grid": ["mean", "last"], "layer_grid": [1, 2]}),
    "nearest": ("04_finetune_instruction", SHOWN | {"example_choice": "nearest"}),
    "frozen_sets": ("02_baselines", FROZEN | SETS),
    "head": ("03_finetune_embedding", SMALL | {"learning_rate": 0.01}),
    "asked": ("04_finetune_instruction", SMALL),
    "zero_shot": ("04_finetune_instruction", ASKED | {"decoding": "greedy"}),
    "few_shot": (
        "04_finetune_instruction",
        SHOWN | {"example_choice": "balanced", "decoding": "generate"},
    ),
}


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    """A folder with a random model of two layers that reads bytes: it loads in no time."""
    folder = str(tmp_path_factory.mktemp("tiny"))
    tokens = ["<pad>", "</s>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="</s>", pad_token="<pad>"
    ).save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(tokens), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=1024,
        bos_token_id=None, eos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def make(tmp_path_factory, tiny_model):
    """A finished run of an arm, made once, and its parameters: `make("head")`."""
    root, made = tmp_path_factory.mktemp("predict"), {}
    rows = [(label, f"{label};rare" if b == "tin" else label, f"{a} {b} {i}, {label} news")
            for label, text in WORDS.items() for i in range(5)
            for a in text.split() for b in text.split()]  # fmt: skip
    rows += [(label, label, f"mixed report {i}") for i in range(8) for label in WORDS]  # unclear
    table = pd.DataFrame(rows, columns=["label", "labels", "text"])
    table.to_csv(root / "documents.csv", index=False)

    def make(arm):
        if arm in made:
            return made[arm]
        notebook, values = ARMS[arm]
        params = load_params(
            notebook=notebook, study="s", arm=arm, runs_dir=str(root / "runs"), device="cpu",
            dataset=str(root / "documents.csv"), text_columns=["text"], model_id=tiny_model,
            **{"label_column": "label", "max_length": 32, "num_threads": 1, "num_train": 30,
               "num_validation": 60, "num_test": 12} | values,
        )  # fmt: skip
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lib.runs.run.configure_process", lambda **options: None)
            patch.setattr("lib.config.notebook_params", lambda name: params)
            namespace = {}
            for cell in nbformat.read(ROOT / f"notebooks/{notebook}.ipynb", 4).cells:
                if cell.cell_type == "code":
                    exec(cell.source, namespace)
        made[arm] = (params.run_dir, params)
        return made[arm]

    return make


@pytest.fixture(autouse=True)
def _own_process(monkeypatch):
    monkeypatch.setattr(predict, "configure_process", lambda **options: None)
    monkeypatch.setattr("lib.__main__.stop_on_sigterm", lambda: None)


@pytest.mark.parametrize("arm", ARMS)
def test_every_kind_of_run_predicts_again_what_it_has_recorded(make, arm):
    """Frozen embeddings and examples in prompts too; free answers that are no label are none."""
    folder, params = make(arm)
    texts = load_splits(params)["test"]["text"]
    classifier, table = load_classifier(folder), read_predictions(folder)
    scores = classifier.predict_scores(texts)
    np.testing.assert_allclose(scores, np.stack(table["scores"]), atol=1e-2)
    recorded = [list(labels) for labels in table["y_pred"]]
    single = [labels[0] if labels else "" for labels in recorded]
    assert classifier.predict(texts) == (recorded if params.multi_label else single)
    assert not list((folder / "model").rglob("*.pkl"))
    assert classifier.classes_.tolist() == list(classifier.label_space.names)


def test_a_classifier_has_the_methods_of_scikit_learn_that_it_can_answer(make):
    texts = ["wheat and maize", "zinc", "a loan of a bank"]
    frozen = load_classifier(make("frozen")[0])
    probs = frozen.predict_proba(texts)
    assert (type(probs), probs.shape) == (np.ndarray, (3, 3))
    np.testing.assert_allclose(probs.sum(axis=1), 1, atol=1e-6)
    assert frozen.classes_[probs.argmax(axis=1)].tolist() == frozen.predict(texts)
    top = frozen.predict_top_k(texts, 2)
    assert [row[0][0] for row in top] == frozen.predict(texts)
    assert all(first >= second for (_, first), (_, second) in top)
    with ThreadPoolExecutor(3) as threads:
        answers = list(threads.map(frozen.predict_proba, [texts] * 3))
    assert all(np.array_equal(answer, probs) for answer in answers)

    words = load_classifier(make("tfidf")[0])
    assert not hasattr(words, "predict_proba")
    with pytest.raises(AttributeError, match="no attribute 'predict_proba'") as caught:
        words.predict_proba(texts)
    assert "gives decision values" in str(caught.value.__cause__)
    assert [row[0][0] for row in words.predict_top_k(texts, 3)] == words.predict(texts)
    for k in (0, 4, 1.5):
        with pytest.raises(InputError, match=f"top k: {k}; write a whole number from 1 to 3"):
            words.predict_top_k(texts, k)


def test_answers_of_a_search_or_free_ones_are_not_ranked():
    found = Scores(np.array([[0.0, 0.3, 0.0], [0.0, 0.0, 0.0]]))
    space = LabelSpace(("a", "b", "c"))
    searched = Classifier(space, lambda texts: found, False, None, *Measure("probability", False))
    free = Classifier(space, lambda texts: found, False, None, *Measure("", False))
    assert searched.predict(["x", "y"]) == ["b", "a"]
    assert free.predict(["x", "y"]) == ["b", ""]
    for classifier in (searched, free):
        assert not hasattr(classifier, "predict_proba")
        with pytest.raises(InputError, match="answers without a score of each label"):
            classifier.predict_top_k(["x", "y"], 1)


def test_int8_weights_give_nearly_the_same_scores(make, tmp_path, monkeypatch):
    monkeypatch.setattr("lib.model.int8.GAIN", 0)
    folder, params = make("head")
    texts = load_splits(params)["validation"]["text"]
    usual, quantized = load_classifier(folder), load_classifier(folder, int8=True)
    expected, found = usual.predict_scores(texts), quantized.predict_scores(texts)
    assert not np.array_equal(found.values, expected.values)
    np.testing.assert_allclose(found, expected, atol=0.02)
    agree = np.mean(np.array(usual.labels_of(expected)) == quantized.labels_of(found))
    assert agree > 0.9
    (tmp_path / "in.txt").write_text("wheat")
    run = [str(folder), str(tmp_path / "in.txt"), str(tmp_path / "out.csv"), "--int8"]
    main(["predict", *run])
    assert len(read_table(tmp_path / "out.csv")) == 1


@pytest.mark.parametrize(
    ("arm", "option", "message"),
    [
        ("tfidf", [], "int8: 'tfidf' trains no language model; omit it"),
        ("frozen", [], "int8: 'frozen' trains no language model; omit it"),
        ("zero_shot", [], "int8: too many answers of a prompt would change; omit it"),
        ("head", ["--precision", "0.9"], "--precision: validation was answered without --int8"),
    ],
)
def test_int8_is_refused_where_it_makes_no_sense(make, tmp_path, arm, option, message):
    (tmp_path / "in.txt").write_text("wheat")
    paths = [str(make(arm)[0]), str(tmp_path / "in.txt"), str(tmp_path / "out.csv")]
    with pytest.raises(SystemExit) as caught:
        main(["predict", *paths, "--int8", *option])
    assert message in str(caught.value)
    assert os.listdir(tmp_path) == ["in.txt"]


ROWS = [
    {"id": 7, "text": "wheat, maize\rand \"oats\"", "day": None},
    {"id": 8, "text": "  ", "day": "2020-01-02"},
    {"id": 9, "text": "copper\nand zinc", "day": "x"},
]  # fmt: skip


def write_rows(path):
    table = pd.DataFrame(ROWS)
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, sep={".csv": ",", ".tsv": "\t"}[path.suffix], index=False, quoting=1)
    return path


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("source", ["csv", "tsv", "jsonl", "parquet"])
def test_no_row_and_no_column_is_lost_between_any_two_formats(make, tmp_path, source, ending):
    folder, _ = make("tfidf")
    given = write_rows(tmp_path / f"in.{source}")
    target = tmp_path / f"out.{ending}"
    said = predict.predict_file(folder, given, target, top_k=2)
    assert said == f"{target}: 2 of 3 rows answered; 1 without a text"
    table = read_table(target)
    names = ["label", "score", "label_1", "score_1", "label_2", "score_2"]
    assert table.columns.tolist() == ["id", "text", "day", *names]
    texts = [row["text"].strip(" ") for row in ROWS]
    assert [text.strip(" ") for text in table["text"]] == texts
    assert [str(value) for value in table["id"]] == ["7", "8", "9"]
    labels = [value if isinstance(value, str) and value else None for value in table["label"]]
    expected = load_classifier(folder).predict([texts[0], texts[2]])
    assert labels == [expected[0], None, expected[1]] == ["grain", None, "metal"]
    assert table["label_1"].tolist()[::2] == expected
    assert sorted(os.listdir(tmp_path)) == [f"in.{source}", f"out.{ending}"]


def test_lines_are_texts_and_packed_files_are_read(make, tmp_path):
    (tmp_path / "in.txt.gz").write_bytes(gzip.compress(b'wheat\r\n\nzinc, "tin"'))
    predict.predict_file(make("tfidf")[0], tmp_path / "in.txt.gz", tmp_path / "out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows] == ["wheat", "", 'zinc, "tin"']
    assert [row["label"] is None for row in rows] == [False, True, False]
    assert rows[1]["score"] is None


def test_label_sets_are_lists_or_joined_by_a_delimiter_that_is_named(make, tmp_path):
    folder, _ = make("tfidf_sets")
    pd.DataFrame({"text": ["tin iron, metal news", "wheat maize, grain news"]}).to_csv(
        tmp_path / "in.csv", index=False
    )
    said = predict.predict_file(folder, tmp_path / "in.csv", tmp_path / "out.csv")
    assert said.endswith("; ';' separates the labels of a set")
    predict.predict_file(folder, tmp_path / "in.csv", tmp_path / "out.jsonl")
    lists = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    joined = read_table(tmp_path / "out.csv")
    assert [";".join(row["labels"]) for row in lists] == joined["labels"].tolist()
    assert all(len(row["labels"]) == len(row["scores"]) for row in lists)
    classifier = load_classifier(folder)
    assert [row["labels"] for row in lists] == classifier.predict([r["text"] for r in lists])


@pytest.mark.parametrize("arm", ["tfidf", "tfidf_sets"])
def test_answers_are_left_out_where_validation_is_not_sure(make, tmp_path, arm):
    """The threshold is one of validation: answers there at least as sure are right as asked."""
    folder, params = make(arm)
    splits = load_splits(params)
    lines = [*splits["validation"]["text"], "", "unheard of"]
    (tmp_path / "in.txt").write_text("\n".join(lines))
    said = predict.predict_file(folder, tmp_path / "in.txt", tmp_path / "a.jsonl", precision=0.8)
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    label = "labels" if params.multi_label else "label"
    given = [row[label] for row in rows[:60]]
    truth = [row if params.multi_label else row[0] for row in splits["validation"]["labels"]]
    answered = [(a, b) for a, b in zip(given, truth, strict=True) if a is not None]
    assert 22 <= len(answered) < 60
    assert np.mean([a == b for a, b in answered]) > 0.8
    assert rows[60][label] is None
    assert f"{sum(row[label] is not None for row in rows)} of 62 rows answered; 1 without" in said


def test_a_precision_that_validation_cannot_show_is_refused_and_nothing_written(make, tmp_path):
    (tmp_path / "in.txt").write_text("wheat\n")
    folder, _ = make("tfidf")

    def refused(message, wanted):
        with pytest.raises(InputError, match=message):
            target = tmp_path / "out.csv"
            predict.predict_file(folder, tmp_path / "in.txt", target, precision=wanted)

    refused("0.99 takes 473 validation documents to be sure of, the run .* has 60", 0.99)
    refused("--precision: 95; write a share between 0 and 1", 95)
    wrong = read_predictions(folder, "validation").assign(y_pred=[["x"]] * 60)
    free = replace(load_classifier(folder), measure="", ranks=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict, "read_predictions", lambda *_: wrong)
        refused("0.9 is out of reach: .* too many of the 46 most confident answers", 0.9)
        patch.setattr(predict, "load_classifier", lambda folder, **options: free)
        refused("answers of .* have no probability to choose by", 0.9)
    assert os.listdir(tmp_path) == ["in.txt"]


CASES = {
    "no such file": (None, [], "in.csv: no such data file"),
    "no column": ("txt\nwheat\n", [], "no column 'text'; did you mean 'txt'? (columns: txt); --te"),
    "another column": ("a\nwheat\n", ["--text", "b"], "no column 'b'; did you mean 'a'?"),
    "a column twice": ("a\nwheat\n", ["--text", "a:1", "a"], "column 'a' is named twice as text"),
    "empty": ("", [], "No columns; name them in line 1"),
    "no row": ("text\n", [], "contains no document"),
    "no text": ('text,x\n"",1\n', [], "every text is empty"),
    "another encoding": ("text\ncaf\xe9\n".encode("latin1"), [], "line 2: not UTF-8"),
    "columns of ours": ("text,label,predicted_label\na,b,c\n", [], "'predicted_label' already"),
    "lines have no columns": (
        "text\na\n",
        ["--text", "text"],
        "has a text per line and no columns",
    ),
    "rank": ("text\na\n", ["--top-k", "9"], "top k: 9; write a whole number from 1 to 3"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_predicted_is_one_line_and_nothing_is_written(make, tmp_path, case):
    content, options, message = CASES[case]
    name = "in.txt" if case == "lines have no columns" else "in.csv"
    if content is not None:
        content = content if isinstance(content, bytes) else content.encode()
        (tmp_path / name).write_bytes(content)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(SystemExit) as caught:
        run = str(make("tfidf")[0])
        main(["predict", run, str(tmp_path / name), str(tmp_path / "out.csv"), *options])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == before


def test_a_reading_error_names_what_was_read(tmp_path):
    name = "r" * 5000
    with pytest.raises(SystemExit) as caught:
        main(["predict", name, str(tmp_path / "in.csv"), str(tmp_path / "out.csv")])
    assert str(caught.value) == f"{name}: cannot be read: File name too long"


@pytest.mark.parametrize(
    ("file", "said"),
    [("out.csv", "out.csv: cannot be written"), ("out/metrics.json", "out: cannot be read"),
     ("in.csv", "in.csv: cannot be read"), (None, "out.csv: cannot be written")],
)  # fmt: skip
def test_an_error_of_a_file_names_the_one_that_failed(monkeypatch, file, said):
    def fail(*_, **__):
        raise PermissionError(13, "Permission denied", file)

    monkeypatch.setattr("lib.__main__.predict_file", fail)
    with pytest.raises(SystemExit) as caught:
        main(["predict", "out", "in.csv", "out.csv"])
    assert str(caught.value) == f"{said}: Permission denied"


def test_a_folder_above_a_run_names_it(make, tmp_path):
    folder, _ = make("tfidf")
    for above in (folder.parent, folder.parent.parent):
        with pytest.raises(
            InputError, match=r"no finished run .*; name a run in it, such as .*seed-0"
        ):
            predict.predict_file(above, tmp_path / "in.csv", tmp_path / "out.csv")


def test_an_output_is_replaced_only_where_that_is_asked_for(make, tmp_path, capsys):
    run, given = str(make("tfidf")[0]), tmp_path / "in.csv"
    given.write_text("label,text\nmetal,wheat\n")

    def refused(target):
        with pytest.raises(SystemExit) as caught:
            main(["predict", run, str(given), str(target)])
        return str(caught.value)

    out = tmp_path / "out.CSV"
    main(["predict", run, str(given), str(out)])
    assert "columns begin with predicted_, since the file has a 'label'" in capsys.readouterr().out
    assert read_table(out)["predicted_label"].tolist() == ["grain"]
    out.write_text("mine")
    assert "something is there already; write --overwrite" in refused(out)
    assert out.read_text() == "mine"
    main(["predict", run, str(given), str(out), "--overwrite"])
    assert read_table(out)["label"].tolist() == ["metal"]
    assert "is the input" in refused(given)
    assert "ending '.xlsx' is none of .csv .tsv .jsonl .parquet" in refused(tmp_path / "out.xlsx")
    assert "no such folder" in refused(tmp_path / "absent" / "out.csv")
    assert not (tmp_path / "absent").exists()
    (tmp_path / "kept.csv").mkdir()
    assert "something is there already; name a file" in refused(tmp_path / "kept.csv")


def test_a_run_without_its_model_is_refused(make, tmp_path):
    (tmp_path / "in.txt").write_text("wheat\n")
    whole, _ = make("tfidf")
    for what, message in (
        ("", "holds no finished run"),
        ("metrics.json", "holds no finished run"),
        ("model", "model/tfidf.json is missing; run the arm again"),
    ):
        run = tmp_path / f"run-{what}"
        if what:
            shutil.copytree(whole, run)
            (shutil.rmtree if what == "model" else os.remove)(run / what)
        with pytest.raises(InputError, match=message):
            predict.predict_file(run, tmp_path / "in.txt", tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_a_fault_in_the_middle_and_a_signal_leave_nothing_half_written(make, tmp_path):
    folder, _ = make("tfidf")
    lines = [f"wheat {i}\n" for i in range(400)]
    (tmp_path / "in.txt").write_text("".join(lines))
    answer = predict._Answers.of

    def fail_later(self, texts):
        return answer(self, texts) if self.total < 90 else 1 / 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predict._Answers, "of", fail_later)
        with pytest.raises(ZeroDivisionError):
            predict.predict_file(folder, tmp_path / "in.txt", tmp_path / "out.csv")
    assert os.listdir(tmp_path) == ["in.txt"]
    predict.predict_file(folder, tmp_path / "in.txt", tmp_path / "out.csv")
    assert [f"{text}\n" for text in read_table(tmp_path / "out.csv")["text"]] == lines


@pytest.mark.slow
def test_the_command_stops_on_sigterm_and_leaves_nothing(make, tmp_path):
    folder, _ = make("nearest")
    (tmp_path / "in.txt").write_text("wheat and maize of the season\n" * 20_000)
    command = [sys.executable, "-m", "lib", "predict", str(folder), str(tmp_path / "in.txt"),
               str(tmp_path / "out.csv")]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not list(tmp_path.glob(".unfinished-*/*")):
        time.sleep(0.2)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert said.strip().endswith("out.csv: stopped; nothing was written")
    assert os.listdir(tmp_path) == ["in.txt"]
