"""Every figure of the comparison, drawn from made-up tables: with one arm, with many, with gaps."""

import json
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seaborn.utils import relative_luminance
from sklearn.metrics import confusion_matrix, f1_score

from lib.evaluation.slices import f1_by_part, parts_by_length, parts_by_support
from lib.report import save_figure
from lib.report.calibration import read_scores
from lib.report.figures.confidence import plot_reliability, plot_risk_coverage
from lib.report.figures.cost import COSTS, pareto_front, plot_cost
from lib.report.figures.details import (
    plot_class_f1,
    plot_confusion,
    plot_history,
    plot_ladder,
    plot_search,
    plot_sweep,
)
from lib.report.figures.scores import choose_pairs, plot_forest, plot_pairwise
from lib.report.figures.slices import plot_slices
from lib.report.figures.style import lowest_shown, wrap

ARMS = ("embedding", "instruction", "encoder", "frozen", "tfidf", "zero_shot", "instruction@512",
        "head_mlp", "layers_8", "rank_64", "embedding_rank_64_all_linear_lr_1e-3_seeded",
        "budget_matched_instruction_with_a_name_that_goes_on_and_on")  # fmt: skip
NAMES = [f"label {i}, called by a rather long name that ends in {i}" for i in range(600)]


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


@pytest.fixture(params=[1, 12], ids=["one arm", "twelve arms"])
def arms(request):
    return ARMS[: request.param]


def make_comparison(arms):
    rng, f1 = np.random.default_rng(0), np.linspace(0.72, 0.6, len(arms))
    f1 = np.where(np.array(arms) == "zero_shot", 0.2, f1)
    table = pd.DataFrame({"arm": arms, "device": "cpu"})
    for average, lower in (("micro_f1", 0), ("macro_f1", 0.1)):
        table[average] = f1 - lower
        table[f"{average}_low"], table[f"{average}_high"] = f1 - lower - 0.03, f1 - lower + 0.03
    costs = {key: 10 ** rng.uniform(-2, 3, len(arms)) for key in COSTS}
    return table.assign(**costs)


def make_pairwise(comparison):
    rows = [
        (a.arm, b.arm, metric, a.micro_f1 - b.micro_f1, a.micro_f1 - b.micro_f1 - 0.02,
         a.micro_f1 - b.micro_f1 + 0.02, 0.04)
        for a, b in combinations(comparison.itertuples(), 2)
        for metric in ("micro_f1", "macro_f1")
    ]  # fmt: skip
    columns = ["arm_a", "arm_b", "metric", "delta", "low", "high", "p_holm"]
    return pd.DataFrame(rows, columns=columns)


def make_predictions(arms, num_labels):
    rng = np.random.default_rng(0)
    y_true = np.eye(num_labels, dtype=bool)[rng.zipf(1.5, 100) % num_labels]
    return y_true, {arm: y_true[None, rng.permutation(100)] for arm in arms}


def assert_legible(fig, most_inches=9.5):
    """All text is inside the figure, no tick label covers its neighbour, and it fits a page."""
    fig.draw_without_rendering()
    assert fig.get_size_inches()[0] <= most_inches
    frame = fig.bbox.padded(1)
    for ax in fig.axes:
        inside = [text for text in (ax.xaxis.label, ax.yaxis.label, *ax.texts) if text.get_text()]
        inside = [text.get_window_extent() for text in inside if ax.axison]
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            labels = [tick.label1 for tick in ticks if ax.axison and tick.label1.get_visible()]
            boxes = [label.get_window_extent() for label in labels if label.get_text()]
            for a, b in combinations(boxes, 2):
                x = min(a.x1, b.x1) - max(a.x0, b.x0)
                y = min(a.y1, b.y1) - max(a.y0, b.y0)
                assert min(x, y) < 2
            inside += boxes
        for box in inside:
            assert frame.x0 <= box.x0
            assert box.x1 <= frame.x1
            assert frame.y0 <= box.y0
            assert box.y1 <= frame.y1


def drawn(ax, markersize=7):
    """Points of this size, (P, 2), in the order in which they were drawn."""
    lines = [line for line in ax.lines if line.get_markersize() == markersize]
    points = [point for line in lines for point in zip(*line.get_data(), strict=True)]
    return np.array(points, dtype=float).reshape(-1, 2)


def test_the_forest_shows_every_arm_on_the_scale_with_its_interval(arms):
    comparison = make_comparison(arms)
    fig = plot_forest(comparison)
    assert_legible(fig)
    near = comparison[(comparison["arm"] != "zero_shot")][::-1]  # the best on top
    for ax, average in zip(fig.axes, ("micro_f1", "macro_f1"), strict=True):
        np.testing.assert_array_equal(drawn(ax)[:, 0], near[average])
        ends = [bar.get_segments()[0][:, 0] for bar in ax.collections]
        np.testing.assert_array_equal(ends, near[[f"{average}_low", f"{average}_high"]])
        off = [text.get_text() for text in ax.texts if "off the scale" in text.get_text()]
        assert len(off) == len(comparison) - len(near)


def test_each_seed_of_several_stands_in_the_forest():
    runs = pd.DataFrame({"arm": ["embedding"] * 3 + ["tfidf"], "seed": [0, 1, 2, 0],
                         "micro_f1": [0.7, 0.71, 0.95, 0.6], "macro_f1": 0.5})  # fmt: skip
    fig = plot_forest(make_comparison(["embedding", "tfidf"]), runs)
    drawn = [list(line.get_xdata()) for line in fig.axes[0].lines if line.get_mfc() == "none"]
    assert sorted(drawn, key=len) == [[], [0.7, 0.71, 0.95]]
    assert fig.axes[0].get_xlim()[1] > 0.95


def test_an_arm_without_interval_has_its_point():
    comparison = make_comparison(["embedding", "tfidf"])
    comparison.loc[0, ["micro_f1_low", "micro_f1_high"]] = np.nan
    forest, costs = plot_forest(comparison), plot_cost(comparison)
    assert_legible(forest)
    assert_legible(costs)
    assert drawn(forest.axes[0])[:, 0].tolist() == comparison["micro_f1"][::-1].tolist()
    assert drawn(costs.axes[0])[:, 1].tolist() == comparison["micro_f1"].tolist()
    ends = forest.axes[0].collections[1].get_segments()[0][:, 0]  # of the first arm, on top
    assert ends.tolist() == [comparison["micro_f1"][0]] * 2


def test_the_pairs_are_legible_and_of_many_those_with_the_best_arm_are_drawn():
    table = make_pairwise(make_comparison(ARMS))
    pairs = choose_pairs(table)
    assert len(pairs) == 11
    assert set(pairs["arm_a"]) == {"embedding"}
    fig = plot_pairwise(table)
    assert_legible(fig)
    shown = drawn(fig.axes[0], plt.rcParams["lines.markersize"])[:-2, 0]  # but the line at zero
    near = pairs[pairs["arm_b"] != "zero_shot"]["delta"][::-1]
    np.testing.assert_array_equal(np.sort(shown)[: len(near)], np.sort(near))
    assert_legible(plot_pairwise(make_pairwise(make_comparison(ARMS[:2]))))


def test_a_pair_that_names_the_best_arm_second_is_turned():
    table = make_pairwise(make_comparison(ARMS))
    turned = table.assign(arm_a=table["arm_b"], arm_b=table["arm_a"], delta=-table["delta"])
    turned = turned.assign(low=-table["high"], high=-table["low"])
    pd.testing.assert_frame_equal(choose_pairs(turned), choose_pairs(table))


def test_head_against_prompt_is_drawn_where_neither_is_best():
    arms = ["frozen", *[arm for arm in ARMS if arm != "frozen"]]
    pairs = choose_pairs(make_pairwise(make_comparison(arms)))
    assert len(pairs) == 12
    assert ("embedding", "instruction") in set(zip(pairs["arm_a"], pairs["arm_b"], strict=True))


@pytest.mark.parametrize(
    ("low", "p_holm", "certain"), [(0.01, 0.01, True), (0.01, 0.2, False), (-0.01, 0.01, False)]
)
def test_only_a_pair_of_which_interval_and_p_are_certain_is_filled(low, p_holm, certain):
    row = {"arm_a": "a", "arm_b": "b", "metric": "micro_f1", "delta": 0.02, "low": low}
    fig = plot_pairwise(pd.DataFrame([row | {"high": 0.05, "p_holm": p_holm}]))
    assert (fig.axes[0].lines[0].get_marker() == "o") is certain


def test_a_difference_within_the_reach_of_another_interval_keeps_its_place():
    rows = pd.DataFrame({
        "arm_a": list("xyz"), "arm_b": "o", "metric": "micro_f1", "delta": [0.001, 0.002, -0.06],
        "low": [-0.08, -0.01, -0.09], "high": [0.08, 0.01, -0.03], "p_holm": [1, 1, 0.001],
    })  # fmt: skip
    (ax,) = plot_pairwise(rows).axes
    assert ax.get_xlim()[0] < -0.09
    (ax,) = plot_pairwise(rows.assign(low=[-0.01, -0.01, -0.09], high=[0.01, 0.01, -0.03])).axes
    assert ax.get_xlim()[0] > -0.03  # an arrow


def test_costs_are_legible(arms):
    fig = plot_cost(make_comparison(arms))
    assert len([ax for ax in fig.axes if ax.axison]) == len(COSTS)
    assert_legible(fig)
    comparison = make_comparison(arms)
    seconds = drawn(fig.axes[0])
    np.testing.assert_array_equal(seconds[:, 0], comparison["train_seconds"])
    near = (comparison["arm"] != "zero_shot").to_numpy()  # the other one is at the bottom
    np.testing.assert_array_equal(seconds[near, 1], comparison["micro_f1"][near])
    assert [bool(arm[2]) for arm in fig.axes[0].containers] == near.tolist()  # with intervals


def test_an_arm_without_costs_or_on_another_device_hides_no_other():
    comparison = make_comparison(ARMS)
    comparison.loc[2, list(COSTS)] = np.nan
    comparison["model_disk_gib"] = np.nan
    comparison.loc[5, "train_seconds"] = 0.0
    comparison.loc[4, "device"] = "cuda"
    fig = plot_cost(comparison)
    assert_legible(fig)
    panels = [ax for ax in fig.axes if ax.axison]
    assert len(panels) == len(COSTS) - 1
    places = [container[0].get_xdata()[0] for container in panels[0].containers]
    assert np.isfinite(np.array(places, dtype=float)).sum() == 11
    assert plot_cost(comparison.drop(columns=list(COSTS))) is None
    assert plot_cost(comparison.assign(**dict.fromkeys(COSTS, 2.0))) is None  # all the same


@pytest.mark.parametrize("value", [np.inf, np.nan, 0.0])
def test_a_cost_that_is_infinite_or_missing_in_every_arm_has_no_panel(value):
    comparison = make_comparison(ARMS[:2])
    comparison["infer_docs_per_second"] = value
    fig = plot_cost(comparison)
    assert "inference (documents/s)" not in [ax.get_xlabel() for ax in fig.axes]
    assert_legible(fig)
    assert plot_cost(comparison.assign(**dict.fromkeys(COSTS, np.inf))) is None


@pytest.mark.parametrize("f1", [0.0, 1.0, 0.9996])
def test_equal_arms_at_the_ends_of_the_scale_are_drawn_and_numbered_truly(f1):
    comparison = make_comparison(ARMS[:2])
    columns = [f"{a}_f1{x}" for a in ("micro", "macro") for x in ("", "_low", "_high")]
    comparison[columns] = f1
    fig = plot_forest(comparison)
    assert_legible(fig)
    texts = {text.get_text() for text in fig.axes[0].texts}
    assert texts == {"0.9996" if f1 == 0.9996 else f"{f1:.3f}"}
    row = {"arm_a": "a", "arm_b": "b", "metric": "micro_f1", "delta": f1 - 0.9992}
    (ax,) = plot_pairwise(pd.DataFrame([row | {"low": 0, "high": 0, "p_holm": 0.0499}])).axes
    assert "0.000 " not in ax.texts[0].get_text()
    assert "p = 0.0499" in ax.texts[0].get_text()


def test_parts_without_a_true_label_are_not_drawn():
    truth, parts = np.zeros((3, 2), dtype=bool), parts_by_length([1, 2, 3])
    table = f1_by_part(truth, {"tfidf": truth[None]}, documents=parts)
    assert len(table) == 0
    assert plot_slices({"length": table}) is None
    y_true, y_preds = make_predictions(["tfidf"], 2)
    parts = parts_by_length([1] * len(y_true))
    drawn = f1_by_part(y_true, y_preds, documents=parts)
    assert_legible(plot_slices({"length": table, "words": drawn}))


def test_a_run_that_was_never_evaluated_has_its_loss():
    history = pd.DataFrame({"epoch": [1.0], "loss": [1.0], "eval_micro_f1": [np.nan]})
    fig = plot_history({"embedding": [history]})
    fig.draw_without_rendering()
    assert drawn(fig.axes[0], 4).tolist() == [[1.0, 1.0]]
    assert not len(drawn(fig.axes[1], 4))


costs_and_f1 = st.lists(st.tuples(st.sampled_from([1.0, 2.0, 3.0, np.nan]), st.integers(0, 3)))


@given(costs_and_f1)
def test_the_pareto_front_holds_what_nothing_beats(arms):
    cost, f1 = np.array(arms, dtype=float).reshape(-1, 2).T
    front = pareto_front(cost, f1)
    for i, (c, f) in enumerate(arms):
        beaten = any((a <= c and b >= f) and (a < c or b > f) for a, b in arms)
        assert front[i] == (not beaten and np.isfinite(c))


def test_labels_show_f1_and_confusion(arms):
    y_true, y_preds = make_predictions(arms, 600)
    assert_legible(plot_class_f1(y_true, y_preds, NAMES), most_inches=13)
    chosen = {arm: y_preds[arm] for arm in arms[-3:]}
    assert_legible(plot_confusion(y_true, chosen, NAMES))
    few, few_preds = make_predictions(arms[-2:], 3)
    classes, confusion = (f(few, few_preds, NAMES[:3]) for f in (plot_class_f1, plot_confusion))
    assert_legible(classes)
    assert_legible(confusion)
    order = np.argsort(-few.sum(axis=0), kind="stable")
    expected = [f1_score(few, preds[0], average=None)[order] for preds in few_preds.values()]
    np.testing.assert_allclose(classes.axes[0].collections[0].get_array(), expected)
    preds = few_preds[arms[-1]][0][:, order].argmax(axis=1)
    counts = confusion_matrix(few[:, order].argmax(axis=1), preds)
    percents = confusion.axes[len(arms[-2:]) - 1].collections[0].get_array()
    np.testing.assert_allclose(percents[:, :3], 100 * counts / counts.sum(axis=1, keepdims=True))
    assert not percents[:, 3].any()  # no answer outside the label set


def test_dollars_in_labels_are_no_mathematics():
    y_true, y_preds = make_predictions(["tfidf"], 3)
    names = ["$5% - $9%", "under $5", "$9 and more"]
    for plot in (plot_class_f1, plot_confusion):
        plot(y_true, y_preds, names).draw_without_rendering()


def test_parts_are_legible(arms):
    y_true, y_preds = make_predictions(arms, 600)
    lengths = parts_by_length(range(100))
    tables = {
        "training documents of the label": f1_by_part(
            y_true, y_preds, labels=parts_by_support(y_true.sum(axis=0))
        ),
        "length": f1_by_part(y_true, y_preds, documents=lengths),
    }
    fig = plot_slices(tables)
    assert_legible(fig, most_inches=12)
    for ax, table in zip(fig.axes, tables.values(), strict=True):
        first = table[table["arm"] == arms[0]]
        means = ax.containers[0][0].get_ydata().astype(float)
        np.testing.assert_allclose(means, first["micro_f1"].astype(float))
        ends = np.array(ax.containers[0][2][0].get_segments(), dtype=float)[:, :, 1]
        np.testing.assert_allclose(ends, first[["low", "high"]].astype(float))


def test_training_shows_loss_and_f1_of_every_epoch(arms):
    rows = [{"epoch": e / 4, "loss": 2 / e} for e in range(1, 13)]
    rows += [{"epoch": e, "eval_micro_f1": 0.6 + e / 100} for e in (1, 2, 3)]
    fig = plot_history({arm: [pd.DataFrame(rows)] * 2 for arm in arms})
    assert_legible(fig)
    assert len(fig.axes[1].texts) == min(len(arms), 6)
    runs = 2 * len(arms) if len(arms) <= 6 else len(arms)  # of many arms the first seed alone
    assert drawn(fig.axes[1], 4).tolist() == [[1, 0.61], [2, 0.62], [3, 0.63]] * runs
    assert drawn(fig.axes[0], 4)[:12, 1].tolist() == [2 / e for e in range(1, 13)]


def test_decoding_and_layers_are_legible(arms):
    decodings = pd.DataFrame({"decoding": ["generate", "score"], "docs_per_second": [3.0, 7.0]})
    rungs = decodings.merge(pd.DataFrame({"arm": arms}), how="cross")
    rungs = rungs.assign(micro_f1=0.5, out_of_set_rate=0.1)
    fig = plot_ladder(rungs)
    assert_legible(fig)
    assert drawn(fig.axes[2]).tolist() == [[3.0, 1.0], [7.0, 0.0]] * len(arms)  # free on top
    for num_layers in (1, 30):
        sweep = [(f"mean of layer -{n}", n / 100) for n in range(1, num_layers + 1)]
        sweep = pd.DataFrame(sweep, columns=["features", "micro_f1"]).assign(arm="frozen", seed=0)
        fig = plot_sweep(sweep)
        assert_legible(fig, 10)
        shown = np.ravel(fig.axes[0].collections[0].get_array())
        np.testing.assert_allclose(shown, [n / 100 for n in range(num_layers, 0, -1)])


def test_a_sweep_is_the_mean_over_seeds_of_each_arm():
    rows = [("a", 0, 0.1, 0.4), ("a", 0, 1.0, 0.5), ("a", 1, 1.0, 0.7), ("b", 0, 1.0, 0.9)]
    sweep = pd.DataFrame(rows, columns=["arm", "seed", "C", "micro_f1"])
    fig = plot_sweep(sweep.assign(features="mean of layer -1"))
    assert_legible(fig, 10)
    shown = [float(ax.collections[0].get_array().ravel()[0]) for ax in fig.axes[:2]]
    assert shown == pytest.approx([0.6, 0.9])
    assert [ax.get_title() for ax in fig.axes[:2]] == ["a", "b"]


def test_a_search_shows_the_candidates_whose_loss_was_finite():
    rows = [(0, 1e-3, 0.80), (1, 1e-3, 0.81), (2, 1e-3, -1.0), (0, 2e-4, 0.7)]
    tries = pd.DataFrame(rows, columns=["seed", "learning_rate", "micro_f1"])
    fig = plot_search(tries.assign(arm="a", epochs=1, chosen=False, train_seconds=1.0))
    line = fig.axes[0].lines[0]
    assert line.get_xdata().tolist() == [2e-4, 1e-3]
    assert line.get_ydata().tolist() == pytest.approx([0.7, 0.805])


def test_confidence_is_legible(arms, tmp_path):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"id": range(200), "split": ["validation", "test"] * 100})
    table["scores"] = list(rng.dirichlet([0.3] * 3, 200).astype(np.float32))
    table["y_pred"] = [["abc"[scores.argmax()]] for scores in table["scores"]]
    table["y_true"] = [pred if rng.random() < 0.8 else ["a"] for pred in table["y_pred"]]
    table.to_parquet(tmp_path / "predictions.parquet")
    (tmp_path / "labels.json").write_text(json.dumps({"a": "a", "b": "b", "c": "c"}))
    runs = pd.DataFrame({"arm": arms, "seed": 0, "folder": tmp_path})
    scored = read_scores(runs)
    bins = plot_reliability(scored, arms, multi_label=False)
    coverage = plot_risk_coverage(scored, arms)
    for fig in (bins, coverage):
        assert_legible(fig)
    test = table[table["split"] == "test"]
    right = np.array([a == b for a, b in zip(test["y_true"], test["y_pred"], strict=True)])
    confidence, accuracy = bins.axes[0].containers[0][0].get_data()
    assert accuracy.mean() == pytest.approx(right.mean())  # bins of equally many answers
    assert confidence.mean() == pytest.approx(np.stack(test["scores"]).max(axis=1).mean())
    share, precision = coverage.axes[0].lines[0].get_data()
    assert (share[-1], precision[-1]) == (1, pytest.approx(right.mean()))


def test_long_names_break_behind_underscores_and_lose_nothing():
    for name in ARMS:
        assert wrap(name, 28).replace("\n", "") == name
        assert max(map(len, wrap(name, 28).split("\n"))) <= 30


def test_a_figure_is_saved_with_its_caption(tmp_path):
    fig, _ = plt.subplots()
    save_figure(fig, tmp_path, "name", "What it shows.")
    assert {file.name for file in tmp_path.iterdir()} == {
        "name.png", "name.pdf", "name.caption.md",
    }  # fmt: skip
    assert (tmp_path / "name.caption.md").read_text() == "What it shows.\n"


def test_numbers_in_a_heat_map_stand_out_from_their_cells():
    y_true = np.eye(3, dtype=bool)[[0, 0, 1, 1, 2]]
    y_preds = {"right": y_true[None], "half": np.eye(3, dtype=bool)[[0, 1, 1, 0, 2]][None]}
    axes = plot_class_f1(y_true, y_preds, NAMES[:3]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["1.00"] * 3 + ["0.50", "0.50", "1.00"]
    for text, cell in zip(axes.texts, axes.collections[0].get_facecolors(), strict=True):
        dark, light = sorted(map(relative_luminance, (text.get_color(), cell)))
        assert (light + 0.05) / (dark + 0.05) >= 4.0  # WCAG 2 asks 3 of large text, 4.5 of small


def test_a_panel_does_not_reach_down_to_an_arm_far_behind():
    f1 = {"head": 0.9, "prompt": 0.8, "untaught": 0.1}
    lows = {"head": 0.7, "prompt": 0.6, "untaught": 0.0}
    assert lowest_shown(f1, lows) == pytest.approx(0.58)
    assert lowest_shown({"untaught": 0.1}, {"untaught": 0.01}) == 0.0
