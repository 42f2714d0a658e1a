"""The comparison's figures. Colour and marker follow the arm through every one of them."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter, ScalarFormatter
from sklearn.metrics import confusion_matrix, f1_score

from lib.results import atomic_path
from lib.significance import distinguishable, format_p

# Colour (of seaborn's "colorblind" palette) and marker of the arms that studies share.
KNOWN_ARMS = {
    "embedding": (0, "o"),
    "instruction": (3, "P"),
    "encoder": (2, "^"),
    "frozen": (9, "D"),
    "tfidf": (7, "s"),
    "zero_shot": (1, "v"),
}
OTHER_ARMS = [(4, "X"), (5, "<"), (8, ">"), (6, "*"), (4, "h"), (5, "p"), (8, "d"), (6, "8")]


def set_plot_style() -> None:
    """Seaborn's "paper" context with the colour-blind palette, for every figure of the study."""
    sns.set_theme(context="paper", style="whitegrid", palette="colorblind", font_scale=1.05)
    plt.rcParams |= {"figure.dpi": 110, "savefig.dpi": 200, "axes.titleweight": "bold"}
    plt.rcParams |= {"axes.titlelocation": "left", "pdf.fonttype": 42}


def arm_styles(arms: Sequence[str]) -> dict[str, dict]:
    """Colour and marker of each arm; the arms of the quick study keep theirs in every study.

    Of more others than the palette holds, colours go round the circle of hues.
    """
    colours = sns.color_palette("colorblind", 10)
    others = sorted(set(arms) - set(KNOWN_ARMS))
    looks = {arm: (colours[colour], marker) for arm, (colour, marker) in KNOWN_ARMS.items()}
    if len(others) <= len(OTHER_ARMS):
        hues = [colours[colour] for colour, _ in OTHER_ARMS]
    else:
        hues = sns.husl_palette(len(others), l=0.55)
    markers = cycle(marker for _, marker in OTHER_ARMS)
    looks |= {a: (h, m) for a, h, m in zip(others, hues, markers, strict=False)}
    return {arm: {"color": looks[arm][0], "marker": looks[arm][1]} for arm in arms}


def _add_legend(fig: Figure, ax: plt.Axes) -> None:
    """Names above the panels, in as many rows as they need; the figure grows by them."""
    handles, labels = ax.get_legend_handles_labels()
    columns = min(6, len(labels))
    height = 0.05 + 0.22 * -(-len(labels) // columns)  # inches
    width, panels = fig.get_size_inches()
    fig.set_size_inches(width, panels + height)
    fig.legend(handles, labels, loc="upper center", ncols=columns, frameon=False)
    fig.tight_layout(rect=(0, 0, 1, panels / (panels + height)))


def save_figure(fig: Figure, folder: Path, name: str, caption: str) -> None:
    """Write `<name>.png` (200 dpi), `.pdf` and `.caption.md` into the folder."""
    for ending, metadata in (("png", None), ("pdf", {"CreationDate": None})):
        with atomic_path(folder / f"{name}.{ending}") as path:
            fig.savefig(path, bbox_inches="tight", metadata=metadata)
    with atomic_path(folder / f"{name}.caption.md") as path:
        path.write_text(caption + "\n", encoding="utf-8")


def plot_forest(comparison: pd.DataFrame) -> Figure:
    """Micro- and macro-F1 of every arm with 95 % intervals, best on top.

    An arm with less than half the median F1 stands as an arrow at the edge, with its number, so
    that the others can be told apart.
    """
    table = comparison.iloc[::-1].reset_index(drop=True)
    styles = arm_styles(list(table["arm"]))
    fig, axs = plt.subplots(1, 2, figsize=(8, 0.9 + 0.38 * len(table)), sharey=True)
    for ax, average in zip(axs, ("micro_f1", "macro_f1"), strict=True):
        shown = table[average] >= 0.5 * table[average].median()
        left, right = table[f"{average}_low"][shown].min(), table[f"{average}_high"][shown].max()
        left, right = left - 0.1 * (right - left), right + 0.25 * (right - left)  # for the numbers
        ax.set_xlim(left, right)
        for y, row in table.iterrows():
            if not shown[y]:
                note = f"◀ {row[average]:.3f} (off the scale)"
                ax.annotate(note, (left, y), (4, 0), textcoords="offset points", va="center",
                            color=styles[row.arm]["color"])  # fmt: skip
                continue
            low, high = row[f"{average}_low"], row[f"{average}_high"]
            ax.hlines(y, low, high, color=styles[row.arm]["color"], lw=2.2)
            ax.plot(row[average], y, ms=7, mec="black", mew=0.6, **styles[row.arm])
            ax.annotate(f"{row[average]:.3f}", (high, y), (5, 0), textcoords="offset points",
                        va="center")  # fmt: skip
        ax.set(xlabel=f"{average.replace('_f1', '-F1')} (test)", ylim=(-0.6, len(table) - 0.4))
        ax.set_yticks(range(len(table)), table["arm"])
        ax.grid(axis="y", visible=False)
    fig.tight_layout()
    return fig


def plot_pairwise(pairwise: pd.DataFrame) -> Figure:
    """Paired micro-F1 differences with 95 % intervals; grey where nothing is certain.

    Where all are differences from one arm, it is named once. Those of more than four times the
    median difference stand as an arrow at the edge.
    """
    table = pairwise[pairwise["metric"] == "micro_f1"].iloc[::-1].reset_index(drop=True)
    shown = table["delta"].abs() <= 4 * table["delta"].abs().median()
    left, right = min(0, table["low"][shown].min()), max(0, table["high"][shown].max())
    margin = 0.06 * (right - left) or 0.01
    fig, ax = plt.subplots(figsize=(8, 1.0 + 0.3 * len(table)))
    ax.set_xlim(left - margin, right + margin)
    for y, row in table.iterrows():
        certain = distinguishable(row)
        colour = sns.color_palette("colorblind")[0] if certain else "0.55"
        if shown[y]:
            ax.hlines(y, row.low, row.high, color=colour, lw=2)
            face = colour if certain else "w"
            ax.plot(row.delta, y, "o" if certain else "s", color=colour, mfc=face)
        else:
            edge = right + 0.5 * margin if row.delta > 0 else left - 0.5 * margin
            ax.plot(edge, y, ">" if row.delta > 0 else "<", color=colour)
        ax.annotate(f"{row.delta:+.3f}   {format_p(row.p_holm)}", (1.01, y), va="center",
                    xycoords=ax.get_yaxis_transform())  # fmt: skip
    ax.axvline(0, color="black", lw=0.8)
    references = table["arm_b"].unique()
    one = len(references) == 1 and len(table) > 1
    ax.set_yticks(range(len(table)), table["arm_a"] + ("" if one else " − " + table["arm_b"]))
    compared = f"difference from {references[0]}" if one else "difference"
    ax.set(xlabel=f"{compared} in micro-F1 (test)", ylim=(-0.7, len(table) - 0.3))
    ax.grid(axis="y", visible=False)
    fig.tight_layout()
    return fig


def plot_class_f1(
    y_true: np.ndarray, y_preds: Mapping[str, np.ndarray], names: Sequence[str], *, most: int = 52
) -> Figure:
    """Heat map of F1 by arm and label, the labels with most test documents first.

    `y_true` is (N, C) bool, each of `y_preds` (S, N, C) bool: the mean over seeds is shown.
    """
    support = y_true.sum(axis=0)
    order = np.argsort(-support, kind="stable")[:most]
    options = {"average": None, "zero_division": 0}
    scores = pd.DataFrame(
        {arm: np.mean([f1_score(y_true, p, **options) for p in ps], axis=0)
         for arm, ps in y_preds.items()}
    ).iloc[order].T  # fmt: skip
    scores.columns = [f"{names[i]} ({support[i]})" for i in order]
    width = max(5.0, 2.2 + 0.185 * len(order))
    fig, ax = plt.subplots(figsize=(width, 2.0 + 0.3 * len(scores)))
    sns.heatmap(scores, ax=ax, vmin=0, vmax=1, cmap="cividis", linewidths=0.3, xticklabels=True,
                cbar_kws={"label": "F1 (test)", "pad": 0.01})  # fmt: skip
    ax.tick_params(axis="x", labelrotation=90, labelsize=7)
    ax.tick_params(axis="y", labelrotation=0)
    fig.tight_layout()
    return fig


def plot_confusion(
    y_true: np.ndarray, y_preds: Mapping[str, np.ndarray], names: Sequence[str], *, most: int = 12
) -> Figure:
    """Row-normalised confusion of each given arm's first seed, over the most frequent labels.

    Rarer labels share "other"; "none" are answers outside the label set.
    """
    frequent = np.argsort(-y_true.sum(axis=0), kind="stable")[:most]
    index = {label: i for i, label in enumerate(frequent)}
    ticks = [names[i] for i in frequent] + (["other"] if len(names) > most else []) + ["none"]
    last = len(ticks) - 1

    def column(multi_hot: np.ndarray) -> np.ndarray:
        best = [index.get(c, last - 1) for c in multi_hot.argmax(axis=1)]
        return np.where(multi_hot.any(axis=1), best, last)

    fig, axs = plt.subplots(1, len(y_preds), figsize=(5.2 * len(y_preds), 4.8), squeeze=False)
    for ax, (arm, preds) in zip(axs[0], y_preds.items(), strict=True):
        counts = confusion_matrix(column(y_true), column(preds[0]), labels=range(len(ticks)))
        shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        sns.heatmap(shares[:last], ax=ax, vmin=0, vmax=1, cmap="cividis", cbar=ax is axs[0, -1],
                    xticklabels=ticks, yticklabels=ticks[:last], linewidths=0.3,
                    cbar_kws={"label": "share of the true label's documents"})  # fmt: skip
        ax.set(title=arm, xlabel="predicted", ylabel="true")
        ax.tick_params(axis="x", labelrotation=90)
        ax.tick_params(axis="y", labelrotation=0)
    fig.tight_layout()
    return fig


def plot_history(histories: Mapping[str, Sequence[pd.DataFrame]]) -> Figure:
    """Training loss and validation micro-F1 against epochs, a line for each run of each arm.

    Of more than six arms, the first seed alone.
    """
    styles = arm_styles(list(histories))
    fig, axs = plt.subplots(1, 2, figsize=(8, 3))
    for arm, runs in histories.items():
        for number, history in enumerate(runs if len(histories) <= 6 else runs[:1]):
            label = arm if number == 0 else None
            loss, f1 = history.dropna(subset="loss"), history.dropna(subset="eval_micro_f1")
            colour, marker = styles[arm]["color"], styles[arm]["marker"]
            axs[0].plot(loss["epoch"], loss["loss"], color=colour, lw=1.3, marker=marker,
                        markevery=6, ms=4, label=label)  # fmt: skip
            axs[1].plot(f1["epoch"], f1["eval_micro_f1"], color=colour, marker=marker, label=label)
    axs[0].set(xlabel="epoch", ylabel="training loss (nats a document)", yscale="log")
    axs[1].set(xlabel="epoch", ylabel="micro-F1 (validation)")
    for ax in axs:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    _add_legend(fig, axs[1])
    return fig


def plot_cost(comparison: pd.DataFrame) -> Figure:
    """Micro-F1 with 95 % intervals against what it cost: time, parameters, memory, throughput.

    An arm with less than half the median F1 stands at the bottom, with its number.
    """
    shown = comparison[comparison["micro_f1"] >= 0.5 * comparison["micro_f1"].median()]
    low, high = shown["micro_f1_low"].min(), shown["micro_f1_high"].max()
    bottom, top = low - 0.25 * (high - low), high + 0.1 * (high - low)
    panels = {
        "train_seconds": "training (seconds)",
        "trainable_params": "trainable parameters",
        "peak_memory_gib": "peak memory (GiB)",
        "infer_docs_per_second": "inference (documents/s)",
    }
    styles = arm_styles(list(comparison["arm"]))
    fig, axs = plt.subplots(2, 2, figsize=(8, 5.6), sharey=True)
    for ax, (key, label) in zip(axs.flat, panels.items(), strict=True):
        values = comparison[key].astype(float)
        smallest = 10 ** np.floor(np.log10(values[values > 0].min())) if (values > 0).any() else 1
        zero = smallest / 10  # where a cost of nothing stands on a logarithmic axis
        for (_, row), value in zip(comparison.iterrows(), values.replace(0, zero), strict=True):
            spread = [[row.micro_f1 - row.micro_f1_low], [row.micro_f1_high - row.micro_f1]]
            y = max(row.micro_f1, bottom)
            ax.errorbar(value, y, yerr=np.abs(spread), ms=7, mec="black", mew=0.6, ls="",
                        label=row.arm, **styles[row.arm])  # fmt: skip
            if row.micro_f1 < bottom:
                ax.annotate(f"{row.micro_f1:.3f}", (value, y), (7, 1), textcoords="offset points")
        if key == "peak_memory_gib":
            ax.set_xlim(0, 1.1 * values.max())
        else:
            ax.set_xscale("log")
            if (values == 0).any():
                decades = np.arange(np.log10(smallest), np.ceil(np.log10(values.max())) + 1)
                labels = [f"$10^{{{int(d)}}}$" for d in decades]
                ax.set_xticks([zero, *10**decades], ["0", *labels])
                ax.minorticks_off()
            elif values.max() < 10 * values.min():  # within a decade, powers of ten tell little
                ax.xaxis.set_major_locator(MaxNLocator(5))
                ax.xaxis.set_major_formatter(ScalarFormatter())
                ax.minorticks_off()
        ax.set(xlabel=label, ylim=(bottom - 0.05 * (high - low), top))
    for ax in axs[:, 0]:
        ax.set(ylabel="micro-F1 (test)")
    _add_legend(fig, axs[0, 0])
    return fig


def plot_sweep(sweep: pd.DataFrame) -> Figure:
    """Heat map of a frozen embedding's validation micro-F1 by pooling and layer.

    Parameters
    ----------
    sweep
        `features` ("<pooling> of layer -<layer>"), `C` and `micro_f1`; the best C is shown.
    """
    parts = sweep["features"].str.extract(r"(?P<pooling>\w+) of layer -(?P<layer>\d+)")
    table = pd.concat([parts.astype({"layer": int}), sweep["micro_f1"]], axis=1)
    grid = table.pivot_table(index="pooling", columns="layer", values="micro_f1", aggfunc="max")
    grid = grid[sorted(grid.columns, reverse=True)]  # deep in the model on the left
    fig, ax = plt.subplots(figsize=(1.8 + 0.62 * grid.shape[1], 1.2 + 0.4 * len(grid)))
    sns.heatmap(grid, annot=True, fmt=".3f", cmap="viridis", ax=ax, annot_kws={"size": 8},
                cbar_kws={"label": "micro-F1 (validation)"})  # fmt: skip
    ax.set(xlabel="hidden layer, counted from the end (1: the last)", ylabel="")
    ax.tick_params(axis="y", rotation=0)
    fig.tight_layout()
    return fig


def plot_ladder(rungs: pd.DataFrame) -> Figure:
    """Micro-F1, share of answers outside the label set, and speed, by how an answer is decoded.

    Parameters
    ----------
    rungs
        `arm`, `decoding` (from free to forced, in that order), `micro_f1`, `out_of_set_rate` and
        `docs_per_second`; several seeds of an arm stand as several points.
    """
    order = list(dict.fromkeys(rungs["decoding"]))[::-1]
    styles = arm_styles(list(rungs["arm"].unique()))
    panels = {"micro_f1": "micro-F1 (validation)", "out_of_set_rate": "answers outside the set"}
    panels["docs_per_second"] = "documents/s"
    fig, axs = plt.subplots(1, 3, figsize=(8, 1.3 + 0.3 * len(order)), sharey=True)
    for ax, (column, label) in zip(axs, panels.items(), strict=True):
        for arm, table in rungs.groupby("arm", sort=False):
            y = [order.index(name) for name in table["decoding"]]
            ax.plot(table[column], y, ls="", ms=7, mec="black", mew=0.6, label=arm, **styles[arm])
        ax.set(xlabel=label, ylim=(-0.6, len(order) - 0.4))
        ax.margins(x=0.12)
    axs[0].set_yticks(range(len(order)), order)
    axs[1].xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axs[2].set_xlim(left=0)
    _add_legend(fig, axs[0])
    return fig
