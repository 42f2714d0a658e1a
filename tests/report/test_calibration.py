import json

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, softmax

from lib.report.calibration import calibration_table, read_scores
from lib.report.figures.confidence import plot_reliability, plot_risk_coverage

RNG = np.random.default_rng(0)


def draw(logits, *, multi_label=False):
    """Truth, (N, C) bool, as these logits say it."""
    if multi_label:
        return RNG.random(logits.shape) < expit(logits)
    return (logits + RNG.gumbel(size=logits.shape)).argmax(axis=1)[:, None] == np.arange(
        logits.shape[1]
    )


@pytest.fixture
def write(tmp_path):
    """Writes a run's predictions of so many documents a split; returns its row of `runs`."""

    def write(arm, scores, truth, preds=None, seed=0, groups=None):
        folder = tmp_path / f"{arm}-{seed}"
        folder.mkdir()
        names = [f"label {i}" for i in range(truth.shape[1])]
        labels = {name: name for name in names}
        (folder / "labels.json").write_text(json.dumps(labels))
        preds = scores == scores.max(axis=1, keepdims=True) if preds is None else preds
        table = pd.DataFrame({"id": range(len(truth)), "scores": list(scores.astype(np.float32))})
        for column, rows in (("y_true", truth), ("y_pred", preds)):
            table[column] = [[names[i] for i in np.flatnonzero(row)] for row in rows]
        table["split"] = np.where(np.arange(len(truth)) % 2, "test", "validation")
        if groups is not None:
            table["group"] = groups
        table.to_parquet(folder / "predictions.parquet")
        return {"arm": arm, "seed": seed, "folder": folder}

    return write


@pytest.fixture
def runs(write):
    """One arm twice too sure of itself, one that decides by a margin, one that generates."""
    logits = RNG.normal(size=(4000, 4)) * 2
    truth = draw(logits)
    best = logits == logits.max(axis=1, keepdims=True)
    return pd.DataFrame([
        write("sure", softmax(2 * logits, axis=1), truth),
        write("margin", logits, truth),
        write("generated", best.astype(float), truth),
    ])  # fmt: skip


def test_each_arm_is_judged_by_what_its_scores_allow(runs):
    table = calibration_table(read_scores(runs), multi_label=False).set_index("arm")
    sure = table.loc["sure"]
    assert sure["temperature"] == pytest.approx(2, rel=0.15)
    assert sure["ece_scaled"] < 0.04 < sure["ece"]
    assert sure["brier_scaled"] < sure["brier"]
    assert sure["reached_at_90"] == pytest.approx(0.9, abs=0.05)
    assert sure["share_at_90_low"] < sure["share_at_90"] < sure["share_at_90_high"]
    assert sure["share_at_95"] < sure["share_at_90"]
    margin = table.loc["margin"]
    assert np.isnan(margin["ece"])
    assert 0 < margin["share_at_90"] < 1
    assert table.loc["generated"].drop("num_seeds").isna().all()


def test_documents_of_a_group_and_answers_of_seeds_count_as_one(write):
    """Each answer is given ten times, in a group, or by a second seed as by the first."""
    scores = np.repeat(softmax(RNG.normal(size=(200, 4)) * 3, axis=1), 20, axis=0)
    truth = np.repeat(draw(np.log(scores[::20])), 20, axis=0)
    groups = np.repeat(np.arange(200), 20).astype(str)
    widths = []
    for arm, of_documents, seeds in (("a", None, 1), ("b", groups, 1), ("c", None, 2)):
        rows = [write(arm, scores, truth, seed=seed, groups=of_documents) for seed in range(seeds)]
        row = calibration_table(read_scores(pd.DataFrame(rows)), multi_label=False).iloc[0]
        widths.append(row["reached_at_90_high"] - row["reached_at_90_low"])
    assert widths[1] == pytest.approx(10**0.5 * widths[0], rel=0.2)
    assert widths[2] == pytest.approx(widths[0], rel=0.05)


def test_label_sets_are_judged_pair_by_pair(write):
    logits = RNG.normal(size=(2000, 6)) - 2
    truth = draw(logits, multi_label=True)
    runs = pd.DataFrame([write("head", expit(3 * logits), truth, preds=logits > 0, seed=seed)
                         for seed in (0, 1)])  # fmt: skip
    table = calibration_table(read_scores(runs), multi_label=True)
    assert list(table.columns) == [
        "arm", "num_seeds", "ece", "ece_scaled", "temperature", "brier", "brier_scaled",
    ]  # fmt: skip
    row = table.iloc[0]
    assert row["num_seeds"] == 2
    assert row["temperature"] == pytest.approx(3, rel=0.15)
    assert row["ece_scaled"] < row["ece"]
    assert plot_reliability(read_scores(runs), ["head"], multi_label=True) is not None


def test_arms_without_confidence_have_no_figure(runs):
    scored = read_scores(runs)
    fig = plot_reliability(scored, list(scored), multi_label=False)
    assert [ax.get_title() for ax in fig.axes] == ["sure"]
    assert plot_reliability(scored, ["generated"], multi_label=False) is None
    assert plot_risk_coverage(scored, ["generated"]) is None
    names = {text.get_text() for text in plot_risk_coverage(scored, list(scored)).axes[0].texts}
    assert names == {"sure", "margin"}
