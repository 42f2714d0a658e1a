"""Learning curves, on simulated predictions with known accuracies and crossings."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from sklearn.metrics import f1_score

from lib.evaluation.curves import (
    Curve,
    crossings,
    learning_curves,
    resample_curves,
    seed_points,
    split_arm,
)
from lib.evaluation.intervals import f1_intervals
from lib.report import describe_curves
from lib.report.figures.curves import plot_learning_curves

NUM_DOCUMENTS, NUM_LABELS = 800, 4
SIZES = (64, 128, 256, 512)
TRUTH = np.random.default_rng(0).integers(0, NUM_LABELS, NUM_DOCUMENTS)
Y_TRUE = np.eye(NUM_LABELS, dtype=bool)[TRUTH]


def answers(accuracy, *, num_seeds=3, hard=0.5):
    """(S, N, C) predictions of an accuracy; documents are as hard for all, but for some luck."""
    generator = np.random.default_rng(round(1e6 * accuracy))
    ranks = np.linspace(0, 1, NUM_DOCUMENTS)[np.random.default_rng(1).permutation(NUM_DOCUMENTS)]
    luck = generator.random((num_seeds, NUM_DOCUMENTS))
    order = (hard * ranks + (1 - hard) * luck).argsort(axis=1).argsort(axis=1)
    right = order < round(accuracy * NUM_DOCUMENTS)
    wrong = (TRUTH + generator.integers(1, NUM_LABELS, right.shape)) % NUM_LABELS
    return np.eye(NUM_LABELS, dtype=bool)[np.where(right, TRUTH, wrong)]


@pytest.fixture(scope="module")
def y_preds():
    """A head that starts low and rises fast, a slower TF-IDF that it overtakes at 160, an untaught.

    Errors: 3 n^-0.4 and 3 * 160^-0.3 n^-0.1, which meet at 160 documents.
    """
    laws = {"embedding": (3, 0.4), "tfidf": (3 * 160**-0.3, 0.1)}
    preds = {f"{arm}@{n}": answers(1 - b * n**-c) for arm, (b, c) in laws.items() for n in SIZES}
    return preds | {"zero_shot": answers(0.3, num_seeds=1)}


@pytest.fixture(scope="module")
def curves(y_preds):
    return resample_curves(Y_TRUE, y_preds, num_resamples=1000)


def curve(sizes, f1, *, spread=0.0, num_resamples=400):
    """A curve whose resamples lie around it, moved together."""
    noise = np.random.default_rng(2).standard_normal((num_resamples, 1))
    return Curve(np.array(sizes), np.array(f1), np.array(f1) + spread * noise)


def test_an_arms_name_holds_its_training_documents():
    assert split_arm("embedding_r64@256") == ("embedding_r64", 256)
    assert split_arm("zero_shot") == ("zero_shot", 0)


def test_the_table_has_scikit_learns_f1_and_the_intervals_of_significance(y_preds):
    table = learning_curves(Y_TRUE, y_preds)
    assert len(table) == len(y_preds)
    row = table.set_index(["approach", "train_size"]).loc["embedding", 256]
    for average in ("micro", "macro"):
        expected = [f1_score(Y_TRUE, p, average=average) for p in y_preds["embedding@256"]]
        assert row[f"{average}_f1"] == pytest.approx(np.mean(expected))
    alone = f1_intervals(Y_TRUE, {"": y_preds["embedding@256"]}).iloc[0]
    for column in ("macro_f1_low", "macro_f1_high"):
        assert row[column] == alone[column]
    assert table["num_seeds"].tolist() == [3] * 8 + [1]
    assert table["train_size"].iloc[-1] == 0


def test_one_seed_is_resampled_as_significance_does(y_preds):
    one = {"embedding@64": y_preds["embedding@64"][:1]}
    curve = resample_curves(Y_TRUE, one, num_resamples=3000)["embedding"]
    alone = f1_intervals(Y_TRUE, one).iloc[0]
    expected = [alone["micro_f1_low"], alone["micro_f1_high"]]
    assert np.quantile(curve.samples, [0.025, 0.975]) == pytest.approx(expected, abs=0.004)


def test_seeds_that_differ_widen_a_curve_by_the_standard_error_of_their_mean():
    apart = np.concatenate([answers(a, num_seeds=1) for a in (0.3, 0.5, 0.7, 0.4, 0.6)])
    samples = resample_curves(Y_TRUE, {"a@8": apart}, num_resamples=4000)["a"].samples[:, 0]
    error = np.std([0.3, 0.4, 0.5, 0.6, 0.7], ddof=1) / np.sqrt(5)
    half = (np.quantile(samples, 0.975) - np.quantile(samples, 0.025)) / 2
    assert half == pytest.approx(2.776 * error, rel=0.1)  # Student's t with 4 degrees of freedom


def test_a_known_crossing_lies_in_its_interval(curves):
    crossed = crossings(curves).set_index(["ahead", "behind"])
    row = crossed.loc["embedding", "tfidf"]
    assert row.certain
    assert row.low < 160 < row.high
    assert row.low < row.train_size < row.high
    assert row.train_size == pytest.approx(160, rel=0.1)
    never = crossed.loc["tfidf", "zero_shot"]
    assert np.isnan(never.train_size)
    assert not never.certain


def test_curves_that_lie_in_each_others_noise_have_no_certain_crossing():
    level = {f"a@{n}": answers(0.5 + 1e-3 * i) for i, n in enumerate(SIZES)}
    level |= {f"b@{n}": answers(0.502 - 1e-3 * i) for i, n in enumerate(SIZES)}
    crossed = crossings(resample_curves(Y_TRUE, level, num_resamples=500)).iloc[0]
    assert not crossed.certain
    assert 0 < crossed.share < 0.95


@pytest.mark.parametrize("alike", [1, 3])
def test_seeds_that_share_their_luck_move_a_difference_by_no_more_than_they_differ(alike):
    """Seed s of every arm learns from the same documents, so what all gain by them cancels."""
    lucky = np.concatenate([answers(a, num_seeds=1, hard=1.0) for a in (0.3, 0.5, 0.7)])
    preds = {"a@8": lucky, "b@8": lucky[:alike] if alike == 1 else lucky}
    curves = resample_curves(Y_TRUE, preds, num_resamples=500)
    apart = curves["a"].samples - curves["b"].samples
    assert (np.abs(apart).max() < 1e-9) == (alike == 3)


def test_an_arm_never_crosses_itself(y_preds):
    twice = {f"{name}@{n}": y_preds[f"tfidf@{n}"] for name in ("a", "b") for n in SIZES}
    crossed = crossings(resample_curves(Y_TRUE, twice, num_resamples=100)).iloc[0]
    assert crossed.share == 0
    assert not crossed.certain


def test_of_several_crossings_the_last_counts_and_only_common_sizes():
    a = curve([8, 16, 32, 64], [0.1, 0.5, 0.3, 0.6])
    b = curve([8, 16, 32, 64, 128], [0.2, 0.4, 0.4, 0.5, 0.9])
    row = crossings({"a": a, "b": b}).iloc[0]
    assert (row.ahead, row.behind) == ("a", "b")
    assert row.train_size == pytest.approx(2**5.5)
    assert len(crossings({"a": curve([0], [0.5]), "b": curve([0], [0.4])})) == 0


@pytest.mark.parametrize(
    ("ahead", "size"),
    [
        ([0, 0.1, 0.2, 0.3], np.nan),  # the other never led
        ([0, 0.1, -0.1, 0.1], np.nan),  # led again, as without the tie
        ([0, -0.1, 0.1, 0.2], 2**4.5),
        ([-0.1, 0.1, 0, 0.1], 2**3.5),  # a tie gives no lead away
        ([-0.1, 0, 0, 0.1], 32),
    ],
)
def test_a_crossing_takes_a_lead_from_the_other(ahead, size):
    a, untaught = curve([8, 16, 32, 64], 0.5 + np.array(ahead)), curve([0], [0.5])
    row = crossings({"a": a, "untaught": untaught}).iloc[0]
    assert row.train_size == pytest.approx(size, nan_ok=True)
    assert row.certain == row.share == (size > 0)


def reading(curves, *, num_seeds=3):
    rows = [
        (name, n, f1) for name, c in curves.items() for n, f1 in zip(c.sizes, c.f1, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["approach", "train_size", "micro_f1"])
    table = table.assign(micro_f1_low=table.micro_f1, micro_f1_high=table.micro_f1)
    table["num_seeds"] = num_seeds
    return describe_curves(table, curves, crossings(curves))


def test_curves_of_one_approach_at_one_size_and_of_equal_ones_are_read_truly():
    text = reading({"a": curve([64], [0.9996])})
    assert "With 64 training documents **a** reaches a micro-F1, 0.9996" in text
    assert "over test documents alone: each arm has one seed" in reading(
        {"a": curve([64], [0.5])}, num_seeds=1
    )
    level = curve(SIZES, [0.0, 0.0, 0.0, 0.0])
    text = reading({"a": level, "b": level})
    assert "**a** has the highest micro-F1, as b, 0.000 (0.000 to 0.000)." in text
    assert "No two curves cross: of no pair does one approach lead" in text


def test_approaches_with_other_sizes_and_seeds_are_counted_as_they_are():
    text = reading({"a": curve([8, 16], [0.1, 0.2]), "b": curve([32, 64], [0.3, 0.4])})
    assert "With 8 training documents **a** reaches a micro-F1, 0.1" in text
    assert "With 64 training documents **b** reaches a micro-F1, 0.4" in text
    text = reading({"a": curve([8, 16], [0.1, 0.2])}, num_seeds=[1, 3])
    assert "over test documents and 1 to 3 seeds" in text


def test_a_crossing_that_may_lie_before_the_fewest_documents_says_so():
    samples = np.tile([-0.1, 0.1, 0.2], (1000, 1))
    samples[:26, 0] = 0.05  # leads from the start in 2.6 of a hundred resamples
    a = Curve(np.array([8, 16, 32]), np.array([0.4, 0.6, 0.7]), 0.5 + samples)
    b = curve([8, 16, 32], [0.5, 0.5, 0.5], num_resamples=1000)
    text = reading({"a": a, "b": b})
    assert "overtakes b at about 11 training documents (fewer than the fewest to 11; " in text
    assert "Holm-adjusted p = 0.027)" in text


def test_many_pairs_need_more_certainty_than_one():
    generator, sizes = np.random.default_rng(0), np.array([8, 16])
    names = {"b": 0.0, "c": 0.001, "d": 0.002, "e": 0.003}
    samples = 0.5 + 0.1 * generator.standard_normal((1000, 2))
    steep = Curve(sizes, np.array([0.305, 0.7]), samples + np.array([-0.195, 0.2]))
    pair = {"a": steep, "b": curve(sizes, [0.5, 0.5], num_resamples=1000)}
    assert crossings(pair)["certain"].all()
    many = pair | {
        x: curve(sizes, [0.5 - d, 0.5 - d], num_resamples=1000) for x, d in names.items()
    }
    table = crossings(many)
    assert (table["p_holm"] >= 1 - table["share"]).all()
    assert not table["certain"].any()


def test_the_reading_names_leaders_and_crossing_from_the_numbers(y_preds, curves):
    table = learning_curves(Y_TRUE, y_preds)
    text = describe_curves(table, curves, crossings(curves))
    first, second, crossing, about = text.splitlines()
    assert first.startswith("- With 64 training documents **tfidf** has the highest micro-F1, 0.5")
    assert second.startswith("- With 512 training documents **embedding** has the highest micro-F1")
    assert "before tfidf 0." in second
    assert crossing.startswith("- **embedding** overtakes tfidf at about 1")
    assert "test documents and 3 seeds" in about


def test_a_reading_without_crossing_and_with_two_sizes_says_so(y_preds):
    few = {arm: p for arm, p in y_preds.items() if split_arm(arm)[1] in (0, 256, 512)}
    curves = resample_curves(Y_TRUE, few, num_resamples=200)
    table = learning_curves(Y_TRUE, few)
    text = describe_curves(table, curves, crossings(curves))
    assert "No two curves cross: of no pair does one approach lead with the fewest" in text


@pytest.fixture
def runs(y_preds):
    rows = [
        {"arm": arm, "seed": seed, "micro_f1": f1_score(Y_TRUE, p, average="micro")}
        for arm, preds in y_preds.items()
        for seed, p in enumerate(preds)
    ]
    return pd.DataFrame(rows).assign(macro_f1=0.5)


def test_the_figure_shows_every_curve_and_seed_and_its_labels_do_not_overlap(y_preds, runs):
    points = seed_points(runs)
    assert points.columns.tolist() == ["approach", "train_size", "seed", "micro_f1", "macro_f1"]
    assert len(points) == len(runs)
    close = {f"{arm}@{n}": y_preds[f"tfidf@{n}"] for arm in "abcde" for n in SIZES}
    table = learning_curves(Y_TRUE, y_preds | close)
    fig = plot_learning_curves(table, runs)
    fig.canvas.draw()
    (ax,) = fig.axes
    assert [x.get_text() for x in ax.get_xticklabels()] == ["64", "128", "256", "512"]
    names = {t.get_text(): t for t in ax.texts}
    assert set(names) == {"embedding", "tfidf", "zero_shot", *"abcde"}
    boxes = [Text.get_window_extent(t) for t in names.values()]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    plt.close(fig)


def test_the_figure_draws_means_at_their_sizes_with_their_intervals_and_seeds(y_preds, runs):
    table = learning_curves(Y_TRUE, y_preds)
    (ax,) = plot_learning_curves(table, runs).axes
    means = [line for line in ax.lines if line.get_markersize() == 6.5]
    rings = [line for line in ax.lines if line.get_markersize() == 3]
    trained = table[table["train_size"] > 0].set_index("approach")
    for approach, mean, ring, bars in zip(
        ("tfidf", "embedding"), means, rings, ax.containers, strict=True
    ):
        rows = trained.loc[approach]
        np.testing.assert_array_equal(mean.get_ydata(), rows["micro_f1"])
        np.testing.assert_allclose(mean.get_xdata(), rows["train_size"], rtol=0.02)
        ends = np.array(bars[2][0].get_segments())[:, :, 1]  # low and high of each size
        np.testing.assert_allclose(ends, rows[["micro_f1_low", "micro_f1_high"]])
        seeds = runs[runs["arm"].str.startswith(f"{approach}@")]
        assert sorted(ring.get_ydata()) == sorted(seeds["micro_f1"])
    plt.close("all")
