"""The comparison's figures. Colour and marker follow the arm through every one of them."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.isotonic import isotonic_regression

from lib.evaluation.significance import distinguishable
from lib.report.figures.fonts import cover, describe_missing
from lib.report.wording import format_delta, format_f1, format_p
from lib.storage import atomic_path

# Colour (of seaborn's "colorblind" palette) and marker of the arms that studies share.
KNOWN_ARMS = {
    "embedding": (0, "o"),
    "instruction": (3, "P"),
    "encoder": (2, "^"),
    "frozen": (9, "D"),
    "tfidf": (7, "s"),
    "zero_shot": (1, "v"),
}
OTHER_COLOURS, OTHER_MARKERS = (4, 5, 8, 6, 2, 3, 0, 9, 1, 7), "X<>*hpd8"
MOST_LINES = 6  # arms whose lines can be told apart in one panel (chosen here)
MOST_PAIRS = 20  # pairs of arms that one figure holds (chosen here)


def set_plot_style() -> None:
    """Seaborn's "paper" context with the colour-blind palette, for every figure of the study."""
    sns.set_theme(context="paper", style="whitegrid", palette="colorblind", font_scale=1.05)
    plt.rcParams |= {"figure.dpi": 84, "savefig.dpi": 200, "axes.titleweight": "bold"}
    plt.rcParams |= {"axes.titlelocation": "left", "pdf.fonttype": 42}


def arm_styles(arms: Sequence[str]) -> dict[str, dict]:
    """Colour and marker of each arm; the arms of the quick study keep theirs in every study.

    Others take colours that none of these has here; of more than there are, colours go round the
    circle of hues.
    """
    colours = sns.color_palette("colorblind", 10)
    others = sorted(set(arms) - set(KNOWN_ARMS))
    looks = {arm: (colours[colour], marker) for arm, (colour, marker) in KNOWN_ARMS.items()}
    taken = {KNOWN_ARMS[arm][0] for arm in arms if arm in KNOWN_ARMS}
    hues = [colours[colour] for colour in OTHER_COLOURS if colour not in taken]
    if len(others) > len(hues):
        hues = sns.husl_palette(len(others), l=0.55)
    looks |= {a: (h, m) for a, h, m in zip(others, hues, cycle(OTHER_MARKERS), strict=False)}
    return {arm: {"color": looks[arm][0], "marker": looks[arm][1]} for arm in arms}


def wrap(name: str, characters: int = 28) -> str:
    """The name in lines of about so many characters, cut behind "_" if it can be, nothing lost."""
    lines = textwrap.wrap(name.replace("_", "_ "), characters)
    return "\n".join(line.replace("_ ", "_") for line in lines)


def row_height(names: Sequence[str], single: float) -> float:
    """Inches of a row that holds any of the wrapped names, `single` if they take one line."""
    return max(single, 0.23 + 0.15 * max(name.count("\n") for name in names))


def add_legend(fig: Figure, ax: plt.Axes) -> None:
    """Names above the panels, in as many rows as they need; the figure grows by them."""
    handles, labels = ax.get_legend_handles_labels()
    labels = list(map(wrap, labels))
    width, panels = fig.get_size_inches()
    longest = max(len(line) for name in labels for line in name.split("\n"))
    columns = int(np.clip(width / (0.5 + 0.075 * longest), 1, min(6, len(labels))))
    rows = -(-len(labels) // columns)
    columns = -(-len(labels) // rows)  # rows of about one length
    height = 0.05 + row_height(labels, 0.22) * rows
    fig.set_size_inches(width, panels + height)
    fig.legend(handles, labels, loc="upper center", ncols=columns, frameon=False)
    fig.tight_layout(rect=(0, 0, 1, panels / (panels + height)))


def lowest_shown(f1: Mapping[str, float], lows: Mapping[str, float]) -> float:
    """Where a panel ends below: under the lowest value of all arms but those far behind.

    Those have less than half the median F1; panels that reach down to them show little else.

    Parameters
    ----------
    f1, lows
        Each arm's score, and the lowest value that is drawn of it.
    """
    least = 0.5 * np.median(list(f1.values()))
    return max(min(lows[arm] for arm in f1 if f1[arm] >= least) - 0.02, 0.0)


def label_ends(
    ax: plt.Axes, ends: Mapping[str, tuple[float, float]], styles: Mapping[str, dict]
) -> None:
    """Names right of the panel, each joined to the end of its line, none over another.

    A line that ends in the left half is not joined: that would look as if it went on.

    Parameters
    ----------
    ends
        Where each arm's line ends, (x, y) in data coordinates, with the panel's limits set.
    styles
        See `arm_styles`.
    """
    if not ends:
        return
    fig = ax.get_figure()
    ax.autoscale_view()
    fig.draw_without_rendering()  # places the panel
    panel = ax.get_window_extent()
    width, points = panel.width * 72 / fig.dpi, panel.height * 72 / fig.dpi
    arms = sorted(ends, key=lambda arm: ends[arm][1])
    lines = np.array([wrap(arm).count("\n") + 1 for arm in arms])
    gaps = 5.5 * (lines[1:] + lines[:-1]) / points  # between the middles of neighbours
    steps = np.concatenate([[0], np.cumsum(gaps)])
    to_panel = ax.transData + ax.transAxes.inverted()
    reached, heights = np.array([to_panel.transform(ends[arm]) for arm in arms]).reshape(-1, 2).T
    heights = isotonic_regression(heights - steps) + steps
    heights = np.minimum(heights, 1 - steps[-1] + steps)
    leader = {"arrowstyle": "-", "color": "0.5", "lw": 0.8, "ls": ":", "shrinkB": 0}
    leader["relpos"] = (0, 0.5)
    for arm, far, height in zip(arms, reached, heights, strict=True):
        ax.annotate(wrap(arm), ends[arm], (1 + 22 / width, height), textcoords="axes fraction",
                    va="center", size=8.5, arrowprops=leader if far > 0.5 else None)  # fmt: skip
        ax.plot(1 + 16 / width, height, ms=5, mec="black", mew=0.5, clip_on=False,
                transform=ax.transAxes, **styles[arm])  # fmt: skip


def save_figure(fig: Figure, folder: Path, name: str, caption: str) -> None:
    """Write `<name>.png` (200 dpi), `.pdf` and `.caption.md` into the folder.

    The caption names characters that no installed font has.
    """
    if missing := cover(fig):
        caption += f" {describe_missing(missing)}"
    for ending, metadata in (("png", None), ("pdf", {"CreationDate": None})):
        with atomic_path(folder / f"{name}.{ending}") as path:
            fig.savefig(path, bbox_inches="tight", metadata=metadata)
    with atomic_path(folder / f"{name}.caption.md") as path:
        path.write_text(caption + "\n", encoding="utf-8")


def plot_forest(comparison: pd.DataFrame, runs: pd.DataFrame | None = None) -> Figure:
    """Micro- and macro-F1 of every arm with 95 % intervals, best on top.

    An arm with less than half the median F1 stands as an arrow at the edge, with its number, so
    that the others can be told apart.

    Parameters
    ----------
    runs
        `arm seed micro_f1 macro_f1`: of arms with several seeds, each stands as a small circle.
    """
    table = comparison.iloc[::-1].reset_index(drop=True)
    styles = arm_styles(list(table["arm"]))
    names = list(map(wrap, table["arm"]))
    size = (8, 0.9 + row_height(names, 0.38) * len(table))
    fig, axs = plt.subplots(1, 2, figsize=size, sharey=True)
    for ax, average in zip(axs, ("micro_f1", "macro_f1"), strict=True):
        low, high = (table[f"{average}_{x}"].fillna(table[average]) for x in ("low", "high"))
        shown = table[average] >= 0.5 * table[average].median()
        by_seed = {arm: [] for arm in table["arm"]}
        for arm, group in () if runs is None else runs.groupby("arm"):
            by_seed[arm] = list(group[average]) if len(group) > 1 else []
        seen = [f1 for arm in table["arm"][shown] for f1 in by_seed.get(arm, ())]
        left, right = min([low[shown].min(), *seen]), max([high[shown].max(), *seen])
        width = max(right - left, 0.01)
        left, right = left - 0.1 * width, right + 0.3 * width  # for the numbers
        ax.set_xlim(left, right)
        for y, row in table.iterrows():
            if not shown[y]:
                note = f"◀ {format_f1(row[average])} (off the scale)"
                ax.annotate(note, (left, y), (4, 0), textcoords="offset points", va="center",
                            color=styles[row.arm]["color"])  # fmt: skip
                continue
            ax.hlines(y, low[y], high[y], color=styles[row.arm]["color"], lw=2.2)
            ax.plot(row[average], y, ms=7, mec="black", mew=0.6, **styles[row.arm])
            seeds = by_seed[row.arm]
            ax.plot(seeds, [y - 0.26] * len(seeds), "o", ms=3, mfc="none", mec="0.25", mew=0.7)
            ax.annotate(format_f1(row[average]), (high[y], y), (5, 0), textcoords="offset points",
                        va="center")  # fmt: skip
        ax.set(xlabel=f"{average.replace('_f1', '-F1')} (test)", ylim=(-0.6, len(table) - 0.4))
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.set_yticks(range(len(table)), names)
        ax.grid(axis="y", visible=False)
    fig.tight_layout()
    return fig


def choose_pairs(pairwise: pd.DataFrame) -> pd.DataFrame:
    """The micro-F1 rows that one figure can hold.

    Of more than 20 pairs, those with the best arm, turned so that it stands first, and the head
    against the prompt.
    """
    table = pairwise[pairwise["metric"] == "micro_f1"].reset_index(drop=True)
    if len(table) <= MOST_PAIRS or table["arm_b"].nunique() == 1:
        return table
    ahead = table.groupby("arm_a")["delta"].sum().sub(
        table.groupby("arm_b")["delta"].sum(), fill_value=0
    )  # fmt: skip
    best = ahead.idxmax()
    second = table["arm_b"] == best
    turned = {"arm_a": table["arm_b"], "arm_b": table["arm_a"], "delta": -table["delta"]}
    turned |= {"low": -table["high"], "high": -table["low"]}
    table = table.mask(second, table.assign(**turned))
    main = table[["arm_a", "arm_b"]].isin(["embedding", "instruction"]).all(axis=1)
    return table[(table["arm_a"] == best) | main].sort_values("delta", kind="stable")


def plot_pairwise(pairwise: pd.DataFrame) -> Figure:
    """Paired micro-F1 differences with 95 % intervals; hollow and grey where nothing is certain.

    Where all are differences from one arm, it is named once. Those of more than four times the
    median difference stand as an arrow at the edge, if no other interval reaches as far. See
    `choose_pairs`.
    """
    table = choose_pairs(pairwise).iloc[::-1].reset_index(drop=True)
    certain = distinguishable(table)
    size = table["delta"].abs()
    near = size <= max(4 * size.median(), 0.01)
    shown = near | (size <= table.loc[near, ["low", "high"]].abs().max(axis=None))
    left, right = min(0, table["low"][shown].min()), max(0, table["high"][shown].max())
    margin = 0.06 * (right - left) or 0.01
    references = table["arm_b"].unique()
    one = len(references) == 1 and len(table) > 1
    pairs = table["arm_a"] + ("" if one else " − " + table["arm_b"])
    names = [wrap(pair, 44) for pair in pairs]
    fig, ax = plt.subplots(figsize=(8, 1.0 + row_height(names, 0.3) * len(table)))
    ax.set_xlim(left - margin, right + margin)
    for y, row in table.iterrows():
        colour = sns.color_palette("colorblind")[0] if certain[y] else "0.55"
        if shown[y]:
            ax.hlines(y, row.low, row.high, color=colour, lw=2)
            face = colour if certain[y] else "w"
            ax.plot(row.delta, y, "o" if certain[y] else "s", color=colour, mfc=face)
        else:
            edge = right + 0.5 * margin if row.delta > 0 else left - 0.5 * margin
            ax.plot(edge, y, ">" if row.delta > 0 else "<", color=colour)
        ax.annotate(f"{format_delta(row.delta)}   {format_p(row.p_holm)}", (1.01, y), va="center",
                    xycoords=ax.get_yaxis_transform())  # fmt: skip
    ax.axvline(0, color="black", lw=0.8)
    ax.set_yticks(range(len(table)), names)
    compared = f"difference from {references[0]}" if one else "difference"
    ax.set(xlabel=f"{compared} in micro-F1 (test)", ylim=(-0.7, len(table) - 0.3))
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.grid(axis="y", visible=False)
    fig.tight_layout()
    return fig
