"""07_try_it on runs of TF-IDF: answers, words, errors, and corrections that nothing overwrites."""

import nbformat
import numpy as np
import pandas as pd
import pytest

from lib.config.study import load_params
from lib.errors import DataError, InputError
from lib.report import try_it_widgets
from lib.report.corrections import read_corrections, write_correction
from lib.report.try_it import TryIt, describe, words_html
from lib.runs.attribution import TOLERANCE, Attribution
from lib.storage import ROOT


def run_cells(monkeypatch, notebook, **values):
    """A notebook's code in this process; its names."""
    params = load_params(notebook=notebook, **values)
    monkeypatch.setattr("lib.config.notebook_params", lambda name: params)
    namespace = {}
    for cell in nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", 4).cells:
        if cell.cell_type == "code":
            exec(cell.source, namespace)
    return namespace


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Parameters of a study on disk, two arms of which have run."""
    folder = tmp_path_factory.mktemp("study")
    rows = [
        (f"{'cocoa beans' if i % 3 else 'steel <b>mills</b>'} number {i}", i) for i in range(60)
    ]
    table = pd.DataFrame(rows, columns=["text", "label"])
    table["label"] = np.where(table["label"] % 3, "food", "metal")
    table.loc[table.index % 10 == 3, "label"] = "metal"  # errors to find
    table.to_csv(folder / "all.csv", index=False)
    values = {
        "study": "s", "dataset": str(folder / "all.csv"), "text_columns": ["text"],
        "label_column": "label", "num_train": 24, "num_validation": 12, "num_test": 24,
        "runs_dir": str(folder / "runs"), "figures_dir": str(folder / "figures"), "num_threads": 1,
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as monkeypatch:
        for arm, penalty in {"tfidf": 1.0, "loose": 0.01}.items():
            options = {"arm": arm, "penalty_grid": [penalty]}
            run_cells(monkeypatch, "02_baselines", **values, **options)
    return values


@pytest.fixture
def trial(study):
    return TryIt(load_params(notebook="07_try_it", **study))


def test_the_notebook_shows_a_table_a_figure_and_errors_of_a_test_document(study, monkeypatch):
    names = run_cells(monkeypatch, "07_try_it", **study)
    text, trial = names["text"], names["trial"]
    assert text in trial.documents["text"]
    answers = trial.answers(text)
    assert sorted(answers["arm"]) == ["loose", "tfidf"]
    assert set(answers["answer"]) <= {"food", "metal"}
    assert trial.figure(text).count("<figure") == 2


def test_a_text_of_ones_own_is_answered_and_explained(study):
    given = {"arms": ["tfidf"], "text": " <script>cocoa</script> beans $x$ "}
    trial = TryIt(load_params(notebook="07_try_it", **study, **given))
    name, text = trial.example()
    assert (name, text) == ("", given["text"].strip())
    assert trial.answers(text)["answer"].tolist() == ["food"]
    page = trial.figure(text)
    assert "&lt;script&gt;cocoa" in page
    assert "<script" not in page
    assert "mathjax_ignore" in page


def test_every_word_has_a_shade_a_line_and_a_number_that_grey_print_shows():
    found = Attribution(
        "a", [(0, 3), (4, 7), (8, 12)], np.array([2.0, -1.0, np.nan]), "logit", 1.0, 0.01
    )
    page = words_html("for not none", found, title="<head>")
    assert "+2.00" in page
    assert "−1.00" in page
    assert "solid black" in page
    assert "dotted black" in page
    assert "opacity" in page
    assert "&lt;head&gt;" in page
    assert "within 1.0%" in describe(found)
    loose = Attribution("a", [], np.array([]), "logit", 1.0, TOLERANCE * 2)
    assert "do not trust them" in describe(loose)


def test_errors_are_chosen_by_approach_label_and_score(trial):
    errors = trial.errors_of("tfidf")
    assert len(errors)
    assert errors["tfidf score"].is_monotonic_decreasing
    assert not errors["tfidf right"].any()
    for label in ("food", "metal"):
        assert set(trial.errors_of("tfidf", label=label)["true"]) <= {label}
    least = errors["tfidf score"].iloc[0]
    assert (trial.errors_of("tfidf", least=least)["tfidf score"] >= least).all()
    assert f"Errors of tfidf: {len(errors)} document" in trial.errors_html()
    assert "<b>mills" not in trial.errors_html()


def press(widget, description):
    """Press the button of that description anywhere in the widget."""
    for child in getattr(widget, "children", ()):
        if getattr(child, "description", "") == description:
            child.click()
        press(child, description)


def find(widget, description):
    found = list(getattr(widget, "children", ()))
    return next(
        (x for x in found if getattr(x, "description", "") == description),
        None,
    ) or next((y for x in found if (y := find(x, description))), None)


def test_controls_answer_a_text_and_say_in_one_line_what_is_wrong(trial):
    controls = try_it_widgets.ask(trial, "cocoa beans")
    press(controls, "answer")
    assert "food" in controls.children[-1].value
    assert "<figure" in controls.children[-1].value
    controls.children[0].value = "  "
    press(controls, "answer")
    assert "is empty" in controls.children[1].children[1].value
    assert "make lab" in controls._repr_mimebundle_()["text/html"]


def test_an_error_is_relabelled_into_a_file(trial):
    trial.corrections_file.unlink(missing_ok=True)
    controls = try_it_widgets.review(trial)
    first = trial.errors_of(trial.runs.index[0]).iloc[0]
    other = {"food": "metal", "metal": "food"}[first["true"]]
    find(controls, "label is").value = "fod"
    press(controls, "save")
    assert "did you mean &#x27;food&#x27;" in controls.children[-1].value
    assert not trial.corrections_file.exists()
    find(controls, "label is").value = other
    press(controls, "save")
    saved = read_corrections(trial.corrections_file)
    assert saved[["id", "old_label", "new_label"]].values.tolist() == [
        [first["id"], first["true"], other]
    ]


@pytest.fixture
def correct(tmp_path):
    file = tmp_path / "new" / "corrections.csv"

    def correct(document="d1", new=("b",), text='NA,\n"quoted"', **options):
        values = {"old": ["a"], "known": ["a", "b", "c"]} | options
        return write_correction(file, document=document, text=text, new=list(new), **values)

    correct.file = file
    return correct


def test_corrections_come_back_as_they_were_written(correct):
    correct(new=["NA"], allow_new=True)
    correct("d2", ["b", "c", "b"])
    table = read_corrections(correct.file)
    assert table.to_dict("list") == {
        "id": ["d1", "d2"], "text": ["NA,\n\"quoted\""] * 2, "old_label": ["a", "a"],
        "new_label": ["NA", "b;c"],
    }  # fmt: skip


def test_a_text_with_returns_and_a_set_without_labels_come_back(correct):
    correct(text="one\rtwo\r\nthree", new=[], may_be_empty=True)
    for _ in range(2):  # what is read is written again
        correct("d2", text="\r")
    table = read_corrections(correct.file)
    assert table["text"].tolist() == ["one\rtwo\r\nthree", "\r"]
    assert table["new_label"].tolist() == ["", "b"]


def test_nothing_is_overwritten_silently(correct):
    correct()
    correct()  # the same again
    assert len(read_corrections(correct.file)) == 1
    with pytest.raises(InputError, match="d1 is corrected to 'b' already; choose to replace it"):
        correct(new=["c"])
    assert read_corrections(correct.file)["new_label"].tolist() == ["b"]
    correct(new=["c"], replace=True)
    assert read_corrections(correct.file)["new_label"].tolist() == ["c"]
    correct("", text="one")
    assert len(correct("", text="two", new=["c"])) == 3  # texts of one's own are told apart


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (["d"], "label: 'd' is not a label of the study"),
        (["a"], "label: 'a' changes nothing"),
        (["a", "a"], "label: 'a' changes nothing"),
        ([], "label: none is given"),  # unless a document may have none
    ],
)
def test_labels_that_correct_nothing_are_refused_and_leave_no_file(correct, new, message):
    with pytest.raises(InputError, match=message):
        correct(new=new)
    assert not correct.file.exists()


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"\xff\xfe", b'id,text,old_label,new_label\n"'])
def test_another_file_of_that_name_is_left_alone(correct, content):
    correct.file.parent.mkdir()
    correct.file.write_bytes(content)
    with pytest.raises(DataError, match="move it away"):
        correct()
    assert correct.file.read_bytes() == content
