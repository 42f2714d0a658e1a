"""Tables of the report that need no run."""

import numpy as np
import pandas as pd

from lib.config.study import load_study
from lib.report import StudyResults, show_table
from lib.report.tables import (
    changed_params,
    compare_with_teachers,
    drop_unsized,
    paper_context,
)
from lib.storage import ROOT


def test_the_papers_rows_are_below_ours_and_are_called_context():
    ours = {"arm": "embedding", "micro_f1": 0.7, "micro_f1_low": 0.68, "micro_f1_high": 0.72}
    table = paper_context(pd.DataFrame([ours | {"trainable_params": 1e6}]), data="patents")
    paper = pd.read_csv(ROOT / "figures" / "paper.csv")
    assert table["source"].tolist() == ["this study", *["context: other data"] * len(paper)]
    assert table.loc[0, ["system", "data", "f1"]].tolist() == ["embedding", "patents", 0.7]
    assert not set(table["data"][1:]) & {"patents"}
    assert table["f1"][1:].tolist() == paper["f1"].tolist()


def test_each_row_of_the_paper_names_its_source():
    paper = pd.read_csv(ROOT / "figures" / "paper.csv")
    assert paper["source"].str.contains("arXiv 2512.12677").all()
    assert paper["f1"].between(0, 1).all()
    assert not paper.duplicated(["system", "data"]).any()


def test_a_table_has_spaces_in_its_names_and_a_dash_for_what_is_missing():
    table = pd.DataFrame({"arm": ["a", "b"], "micro_f1": [0.12345, np.nan], "params": [1e6, 2.0]})
    page = show_table(table, {"params": "{:,.0f}"}).to_html()
    assert "micro f1" in page
    for text in ("0.123", "–", "1,000,000"):
        assert f">{text}</td>" in page
    plain = show_table(
        table, {"micro_f1": lambda x: "none" if np.isnan(x) else "some"}, na_rep=None
    )
    assert ">none</td>" in plain.to_html()


def test_a_length_that_a_run_has_found_is_what_its_file_asks_for(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "common.yaml").write_text('study: "mine"\nmax_length: "auto"\n')
    arm = 'notebook: "03_finetune_embedding"\narm: "embedding"\n'
    (folder / "embedding.yaml").write_text(arm)
    asked = load_study(folder)["embedding"].model_dump()
    ran = pd.DataFrame([{"arm": "embedding", "params": asked | {"max_length": 112}}])
    assert changed_params(ran, folder) == ""
    ran["params"] = [asked | {"max_length": 112, "windows": 2}]
    assert changed_params(ran, folder) == "embedding: windows is 2, in its file 1"


def test_all_training_documents_are_as_many_as_the_runs_have_counted():
    results = StudyResults.__new__(StudyResults)
    for counted, number in (([None, None], 0), ([None, 812], 812), ([812, 812], 812)):
        results.shared, results.runs = {"num_train": 0}, pd.DataFrame({"train_documents": counted})
        assert results.num_train == number
    results.shared = {"num_train": 0, "train_size": 64}
    assert results.num_train == 64


def test_runs_from_before_a_study_had_sizes_are_left_out(caplog):
    arms = ["head", "head@64", "tfidf"]
    runs = pd.DataFrame({"arm": arms, "folder": [f"runs/{arm}" for arm in arms]})
    assert drop_unsized(runs)["arm"].tolist() == ["head@64", "tfidf"]
    assert "runs/head: left out, for the study has training sizes now" in caplog.text
    assert drop_unsized(runs.iloc[[0, 2]])["arm"].tolist() == ["head", "tfidf"]


def test_the_f1_that_students_keep_holds_on_few_groups_of_documents():
    """Five groups of 20 documents; percentiles of resamples as they are held 0.81 of the truth."""
    generator, groups, values, limits = np.random.default_rng(0), np.repeat(range(5), 20), [], []
    costs = dict.fromkeys(("infer_docs_per_second", "total_params", "train_seconds"), 1.0)
    eye = np.eye(4, dtype=bool)
    for _ in range(150):
        truth, hard = generator.integers(0, 4, 100), generator.normal(0, 1, 5)[groups]
        preds, rows = {}, []
        for arm, level in (("teacher", 1.0), ("student", 0.7)):
            of_arm = hard + generator.normal(0, 0.5, 5)[groups]
            right = level + of_arm + generator.standard_normal(100) > 0
            preds[arm] = eye[np.where(right, truth, (truth + 1) % 4)][None]
            params = {"teacher": "teacher"} if arm == "student" else {}
            rows.append({"arm": arm, "params": params, "micro_f1": right.mean(), "macro_f1": 0.5})
        row = compare_with_teachers(
            pd.DataFrame(rows).assign(**costs), eye[truth], preds, groups=groups, num_resamples=200
        ).iloc[0]
        values.append([run["micro_f1"] for run in rows])
        limits.append([row["micro_f1_kept_low"], row["micro_f1_kept_high"]])
    teacher, student = np.mean(values, axis=0)
    low, high = np.transpose(limits)
    assert 0.88 < ((low <= student / teacher) & (student / teacher <= high)).mean() < 0.99
