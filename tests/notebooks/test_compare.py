"""05_compare on studies of made-up predictions: few and many arms, missing seeds, label sets."""

import json

import pandas as pd
import pytest
from made_study import compare, make_study


@pytest.mark.slow
def test_one_arm_alone_has_a_report(tmp_path):
    figures, _ = compare(make_study(tmp_path, ["embedding"]))
    assert pd.read_csv(figures / "pairwise.csv").empty
    assert json.loads((figures / "recommendation.json").read_text())
    assert not (figures / "pairwise.png").exists()


@pytest.mark.slow
def test_twelve_arms_have_a_report_that_names_missing_seeds_and_escapes_documents(tmp_path):
    arms = ["embedding", "tfidf", *(f"arm_{i}" for i in range(9)), "instruction"]
    folder = make_study(tmp_path, arms, seeds=(0, 1), missing={("instruction", 1)})
    figures, notebook = compare(folder, arms=[*arms, "frozen"])
    assert len(pd.read_csv(figures / "comparison.csv")) == 12
    assert len(pd.read_csv(figures / "pairwise.csv")) == 2 * 66
    assert "instruction: seed 1; frozen: seeds 0, 1" in notebook
    comparison = pd.read_csv(figures / "comparison.csv").set_index("arm")
    assert comparison["num_seeds"].drop("instruction").eq(2).all()
    assert comparison.loc["instruction", "num_seeds"] == 1
    assert "&lt;b&gt;" in notebook
    assert "<b>" not in notebook


@pytest.mark.slow
def test_label_sets_have_a_report(tmp_path):
    figures, _ = compare(
        make_study(tmp_path, ["embedding", "instruction"], multi_label=True, seeds=(0, 1))
    )
    assert pd.read_csv(figures / "comparison.csv")["precision_at_1"].notna().all()
    assert not (figures / "confusion.png").exists()


def test_training_sizes_have_curves_and_a_comparison_at_the_largest(tmp_path):
    sizes = [16, 24, 32, 40]
    folder = make_study(tmp_path, ["embedding", "instruction"], seeds=(0, 1), sizes=sizes)
    arms = [f"{arm}@{size}" for arm in ("embedding", "instruction") for size in sizes]
    figures, _ = compare(folder, arms=arms)
    curves = pd.read_csv(figures / "curves.csv")
    assert len(curves) == 8
    assert sorted(pd.read_csv(figures / "comparison.csv")["arm"]) == ["embedding", "instruction"]
    assert (figures / "curves.png").exists()
