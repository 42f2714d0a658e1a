"""Figures of the details behind the comparison: labels, training, layers, decoding."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullLocator, PercentFormatter
from seaborn.utils import relative_luminance
from sklearn.metrics import confusion_matrix

from lib.evaluation.metrics import f1_by_label
from lib.report.figures.fonts import tick_labels
from lib.report.figures.style import (
    MAX_LINES,
    add_legend,
    arm_styles,
    call,
    label_ends,
    panel_grid,
    row_height,
    wrap,
)

# Our choices, in view of a page's width
MAX_NUMBERED = 14  # columns of a heat map up to which its cells have numbers
MAX_LABELS, MAX_CONFUSED = 52, 12  # labels of a heat map of F1, and of a confusion matrix


def plot_class_f1(
    y_true: np.ndarray, y_preds: Mapping[str, np.ndarray], names: Sequence[str]
) -> Figure:
    """Heat map of F1 by arm and label, the labels with most test documents first.

    `y_true` is (N, C) bool, each of `y_preds` (S, N, C) bool, of which the mean over seeds is
    shown; `names` are those of the C labels. More than `MAX_LABELS` labels are cut.
    """
    support = y_true.sum(axis=0)
    order = np.argsort(-support, kind="stable")[:MAX_LABELS]
    scores = pd.DataFrame({arm: f1_by_label(y_true, ps) for arm, ps in y_preds.items()})
    scores = scores.iloc[order].T
    ticks = tick_labels(names[i] for i in order)
    scores.columns = [f"{name} ({support[i]})" for name, i in zip(ticks, order, strict=True)]
    scores.index = [wrap(call(arm)) for arm in scores.index]
    readable = len(order) <= MAX_NUMBERED
    width = max(5.0, 2.2 + (0.45 if readable else 0.185) * len(order))
    rows = row_height(scores.index, 0.3) * len(scores)
    fig, ax = plt.subplots(figsize=(width, 0.7 + rows + 0.065 * max(map(len, scores.columns))))
    _heat_map(ax, scores, vmax=1, linewidths=0.3, xticklabels=True, annot=readable, fmt=".2f",
              cbar_kws={"label": "F1 (test)", "pad": 0.01})  # fmt: skip
    if len(order) < len(names):
        ax.set_xlabel(f"the {len(order)} most frequent of {len(names)} labels")
    ax.tick_params(axis="x", labelrotation=90, labelsize=7)
    fig.tight_layout()
    return fig


def _heat_map(ax: Axes, table: pd.DataFrame | np.ndarray, **options: Any) -> None:
    """Draw a heat map whose numbers are white or dark grey, for contrast as by WCAG 2."""
    usual = {"vmin": 0, "cmap": "cividis", "annot_kws": {"size": 8}}
    sns.heatmap(table, ax=ax, **usual | options)
    ax.tick_params(axis="y", labelrotation=0)
    for text, color in zip(ax.texts, ax.collections[0].get_facecolors(), strict=False):
        text.set_color("white" if relative_luminance(color) < 0.2 else "0.1")


def plot_confusion(
    y_true: np.ndarray, y_preds: Mapping[str, np.ndarray], names: Sequence[str]
) -> Figure:
    """Confusion of the first seed of each arm, in % of a row, over the most frequent labels.

    Labels behind the first `MAX_CONFUSED` share "other"; "none" are answers outside the label set.
    For parameters see `plot_class_f1`.
    """
    frequent = np.argsort(-y_true.sum(axis=0), kind="stable")[:MAX_CONFUSED]
    index = {label: i for i, label in enumerate(frequent)}
    ticks = tick_labels((names[i] for i in frequent), 20)
    ticks += (["other"] if len(names) > MAX_CONFUSED else []) + ["none"]
    last = len(ticks) - 1

    def column(multi_hot: np.ndarray) -> np.ndarray:
        best = [index.get(c, last - 1) for c in multi_hot.argmax(axis=1)]
        return np.where(multi_hot.any(axis=1), best, last)

    fig, axs = panel_grid(len(y_preds), 2, inches=4.4)
    for ax, (arm, preds) in zip(axs.flat, y_preds.items(), strict=False):
        counts = confusion_matrix(column(y_true), column(preds[0]), labels=range(len(ticks)))
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        percents = 100 * shares[:last]
        texts = np.where(percents < 0.5, "", np.char.mod("%.0f", percents))
        _heat_map(ax, percents, vmax=100, cbar=False, square=True, annot=texts, fmt="",
                  annot_kws={"size": 7}, xticklabels=ticks, yticklabels=ticks[:last],
                  linewidths=0.3)  # fmt: skip
        ax.set_title(wrap(call(arm), 32), size=9)
        ax.set(xlabel="predicted", ylabel="true")
        ax.tick_params(axis="x", labelrotation=90)
        ax.tick_params(labelsize=8)
    fig.colorbar(axs[0, 0].collections[0], ax=axs, shrink=0.7, pad=0.01,
                 label="% of the true label's documents")  # fmt: skip
    return fig


def plot_history(histories: Mapping[str, Sequence[pd.DataFrame]]) -> Figure:
    """Training loss and validation micro-F1 against epochs, a line for each run of each arm.

    Of more than six arms only the first seeds are drawn; the six that are best on validation are
    named, the others grey. The history of a run has `epoch loss eval_micro_f1`.
    """
    few = len(histories) <= MAX_LINES
    best = {arm: runs[0]["eval_micro_f1"].max() for arm, runs in histories.items()}
    named = sorted(best, key=best.get, reverse=True)[:MAX_LINES]
    styles, ends = arm_styles(list(histories)), {}
    fig, axs = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for arm in sorted(histories, key=lambda arm: arm in named):
        style = {"color": styles[arm]["color"], "lw": 1.3, "ms": 4}
        style |= {"marker": styles[arm]["marker"]} if arm in named else {"color": "0.8"}
        for history in histories[arm] if few else histories[arm][:1]:
            loss, f1 = history.dropna(subset="loss"), history.dropna(subset="eval_micro_f1")
            axs[0].plot(loss["epoch"], loss["loss"], markevery=6, **style)
            axs[1].plot(f1["epoch"], f1["eval_micro_f1"], **style)
            if arm in named and len(f1):
                ends.setdefault(arm, tuple(f1[["epoch", "eval_micro_f1"]].iloc[-1]))
    axs[0].set(xlabel="epoch", ylabel="training loss (nats per document)", yscale="log")
    axs[1].set(xlabel="epoch", ylabel="micro-F1 (validation)")
    for ax in axs:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    label_ends(axs[1], ends, styles)
    return fig


def plot_sweep(sweep: pd.DataFrame) -> Figure:
    """Heat maps of frozen embeddings' validation micro-F1 by pooling and layer, one per arm.

    `sweep` has `arm seed`, `features` ("<pooling> of layer -<layer>"), `C`, the inverse of the
    regularization, and `micro_f1`. Shown is the F1 of the best C, mean over seeds.
    """
    parts = sweep["features"].str.extract(r"(?P<pooling>\w+) of layer -(?P<layer>\d+)")
    table = pd.concat([sweep[["arm", "seed", "micro_f1"]], parts.astype({"layer": int})], axis=1)
    best = table.groupby(["arm", "seed", "pooling", "layer"], as_index=False)["micro_f1"].max()
    cells = {"index": "pooling", "columns": "layer", "values": "micro_f1"}  # means over seeds
    grids = {arm: rows.pivot_table(**cells) for arm, rows in best.groupby("arm", sort=False)}
    most = max(grid.shape[1] for grid in grids.values())
    readable = most <= MAX_NUMBERED
    heights = [max(2.2, 1.2 + 0.4 * len(grid)) for grid in grids.values()]
    size = (max(4, 1.8 + (0.62 if readable else 0.25) * most), sum(heights))
    fig, axs = plt.subplots(len(grids), figsize=size, squeeze=False, height_ratios=heights)
    for ax, (arm, grid) in zip(axs.flat, grids.items(), strict=True):
        grid = grid[sorted(grid.columns, reverse=True)]  # deep in the model on the left
        _heat_map(ax, grid, vmin=None, cmap="viridis", annot=readable, fmt=".3f",
                  cbar_kws={"label": "micro-F1 (validation)"})  # fmt: skip
        ax.set(xlabel="hidden layer, counted from the end (1: the last)", ylabel="")
        ax.set_title(call(arm) if len(grids) > 1 else "")
    fig.tight_layout()
    return fig


def plot_ladder(rungs: pd.DataFrame) -> Figure:
    """Micro-F1, share of answers outside the label set, and speed, by the decoding of answers.

    `rungs` has `arm decoding micro_f1 out_of_set_rate docs_per_second`, its rows sorted from free
    generation to answers that must be labels. Several seeds of an arm are several points.
    """
    order = list(dict.fromkeys(rungs["decoding"]))[::-1]
    styles = arm_styles(list(rungs["arm"].unique()))
    panels = {"micro_f1": "micro-F1 (validation)", "out_of_set_rate": "answers outside the set"}
    panels["docs_per_second"] = "documents/s"
    fig, axs = plt.subplots(1, 3, figsize=(8, 1.3 + 0.3 * len(order)), sharey=True)
    for ax, (column, label) in zip(axs, panels.items(), strict=True):
        for arm, table in rungs.groupby("arm", sort=False):
            y = [order.index(name) for name in table["decoding"]]
            style = styles[arm] | {"ls": "", "ms": 7, "mec": "black", "mew": 0.6}
            ax.plot(table[column], y, label=call(arm), **style)
        ax.set(xlabel=label, ylim=(-0.6, len(order) - 0.4))
        ax.margins(x=0.12)
    axs[0].set_yticks(range(len(order)), map(wrap, order))
    axs[1].xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    most = max(0.05, 1.12 * rungs["out_of_set_rate"].max())  # often no answer is outside at all
    axs[1].set_xlim(-0.05 * most, most)
    axs[2].set_xlim(left=0)
    add_legend(fig, axs[0])
    return fig


def plot_search(tries: pd.DataFrame) -> Figure:
    """Validation micro-F1 against the learning rate: a line per arm and other searched values.

    A candidate that was stopped early is hollow, the chosen one has a black edge. With several
    seeds the points are means over those in which the loss was finite. `tries` is the table of
    `lib.report.search.read_tries`, with a column `learning_rate`; arms without a rate have no line.
    """
    known = ["arm", "seed", "epochs", "micro_f1", "train_seconds", "chosen", "learning_rate"]
    others = [name for name in tries if name not in known]
    named = tries[others].astype(object).where(tries[others].notna(), None)
    lines = []
    for arm, values in zip(tries["arm"], named.to_numpy(), strict=True):
        searched = (pair for pair in zip(others, values, strict=True) if pair[1] is not None)
        lines.append(", ".join([call(arm), *(f"{name} {x}" for name, x in searched)]))
    table = tries.assign(line=lines)
    table = table[table["micro_f1"] >= 0]  # a loss that was not finite has no score
    table = table.groupby(["arm", "line", "learning_rate"], sort=False)
    table = table.agg({"micro_f1": "mean", "epochs": "max", "chosen": "max"}).reset_index()
    styles = arm_styles(sorted(table["arm"].unique()))
    longest = table.groupby("arm")["epochs"].transform("max")
    fig, ax = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
    dashes = cycle(("-", "--", ":", "-."))
    for (arm, line), rows in table.groupby(["arm", "line"], sort=False):
        rows = rows.sort_values("learning_rate")
        style = styles[arm]
        ax.plot(rows["learning_rate"], rows["micro_f1"], ls=next(dashes), marker=style["marker"],
                color=style["color"], label=line, ms=5)  # fmt: skip
        for row, most in zip(rows.itertuples(), longest[rows.index], strict=True):
            face = style["color"] if row.epochs == most else "white"
            edge = "black" if row.chosen else style["color"]
            ax.plot(row.learning_rate, row.micro_f1, ls="", marker=style["marker"], mfc=face,
                    mec=edge, ms=9 if row.chosen else 6, zorder=3)  # fmt: skip
    ax.set_xscale("log")
    ticks = sorted(table["learning_rate"].unique())
    ax.set_xticks(ticks, [f"{rate:g}" for rate in ticks])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set(xlabel="learning rate (logarithmic)", ylabel="micro-F1 (validation)")
    ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return fig
