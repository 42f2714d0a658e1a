"""F1 of each arm, and differences between pairs of arms."""

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lib.evaluation.resampling import AVERAGES
from lib.evaluation.significance import distinguishable
from lib.report.figures.style import arm_styles, call, on_scale, row_height, wrap
from lib.report.recommendation import QUESTION
from lib.report.wording import format_delta, format_f1, format_p

MAX_PAIRS = 20  # pairs of arms that one figure holds (our choice)


def plot_forest(comparison: pd.DataFrame, runs: pd.DataFrame | None = None) -> Figure:
    """Micro- and macro-F1 of every arm with 95 % intervals, best on top.

    An arm that is not `on_scale` is an arrow at the edge, with its F1 as a number, so that the
    other arms are not crowded. Where an arm has several seeds, each of its `runs` is a small
    circle.
    """
    table = comparison.iloc[::-1].reset_index(drop=True)
    names = [wrap(call(arm)) for arm in table["arm"]]
    size = (8, 0.9 + row_height(names, 0.38) * len(table))
    fig, axs = plt.subplots(1, 2, figsize=size, sharey=True)
    for ax, average in zip(axs, AVERAGES, strict=True):
        by_seed = {arm: [] for arm in table["arm"]}
        for arm, group in () if runs is None else runs.groupby("arm"):
            by_seed[arm] = list(group[average]) if len(group) > 1 else []
        _draw_scores(ax, table, average, by_seed)
        ax.set(xlabel=f"{average.replace('_f1', '-F1')} (test)", ylim=(-0.6, len(table) - 0.4))
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.set_yticks(range(len(table)), names)
        ax.grid(axis="y", visible=False)
    fig.tight_layout()
    return fig


def _draw_scores(
    ax: plt.Axes, table: pd.DataFrame, average: str, by_seed: dict[str, list[float]]
) -> None:
    """Draw one average of every arm: point, interval, number, and below them its seeds' scores."""
    styles = arm_styles(list(table["arm"]))
    # Limits: everything that is on the scale, and room for the numbers
    low, high = (table[f"{average}_{x}"].fillna(table[average]) for x in ("low", "high"))
    shown = on_scale(table[average])
    seen = [f1 for arm in table["arm"][shown] for f1 in by_seed[arm]]
    left, right = min([low[shown].min(), *seen]), max([high[shown].max(), *seen])
    width = max(right - left, 0.01)
    left, right = left - 0.1 * width, right + 0.3 * width
    ax.set_xlim(left, right)
    # A row per arm
    for y, row in table.iterrows():
        colour, f1 = styles[row.arm]["color"], row[average]
        if not shown[y]:
            ax.annotate(f"◀ {format_f1(f1)} (off the scale)", (left, y), (4, 0),
                        textcoords="offset points", va="center", color=colour)  # fmt: skip
            continue
        ax.hlines(y, low[y], high[y], color=colour, lw=2.2)
        ax.plot(f1, y, ms=7, mec="black", mew=0.6, **styles[row.arm])
        seeds = by_seed[row.arm]
        ax.plot(seeds, [y - 0.26] * len(seeds), "o", ms=3, mfc="none", mec="0.25", mew=0.7)
        ax.annotate(format_f1(f1), (high[y], y), (5, 0), textcoords="offset points", va="center")


def choose_pairs(pairwise: pd.DataFrame) -> pd.DataFrame:
    """The rows on micro-F1 that one figure can hold.

    Of more than `MAX_PAIRS` they are the pairs with the best arm, turned so that it comes first,
    and head and prompt. A comparison with one reference keeps all pairs.
    """
    table = pairwise[pairwise["metric"] == "micro_f1"].reset_index(drop=True)
    if len(table) <= MAX_PAIRS or table["arm_b"].nunique() == 1:
        return table
    # The best arm has the highest sum of differences
    gains = table.groupby("arm_a")["delta"].sum()
    best = gains.sub(table.groupby("arm_b")["delta"].sum(), fill_value=0).idxmax()
    # Pairs that name it second are turned
    turned = {"arm_a": table["arm_b"], "arm_b": table["arm_a"], "delta": -table["delta"]}
    turned |= {"low": -table["high"], "high": -table["low"]}
    table = table.mask(table["arm_b"] == best, table.assign(**turned))
    is_question = table[["arm_a", "arm_b"]].isin(QUESTION).all(axis=1)
    return table[(table["arm_a"] == best) | is_question].sort_values("delta", kind="stable")


def plot_pairwise(pairwise: pd.DataFrame) -> Figure:
    """Paired micro-F1 differences with 95 % intervals; hollow and grey if not `distinguishable`.

    The rows are those of `choose_pairs`. If all are differences from one arm, it is named once. A
    difference of more than four times the median is an arrow at the edge, if no interval of the
    others reaches as far.
    """
    table = choose_pairs(pairwise).iloc[::-1].reset_index(drop=True)
    certain = distinguishable(table)
    # Differences that are shown in place, and the limits that they need
    size = table["delta"].abs()
    near = size <= max(4 * size.median(), 0.01)
    shown = near | (size <= table.loc[near, ["low", "high"]].abs().max(axis=None))
    left, right = min(0, table["low"][shown].min()), max(0, table["high"][shown].max())
    margin = 0.06 * (right - left) or 0.01
    # Names of pairs, or of the first arms alone
    references = table["arm_b"].unique()
    one = len(references) == 1 and len(table) > 1
    first, second = (table[column].map(call) for column in ("arm_a", "arm_b"))
    names = [wrap(pair, 44) for pair in first + ("" if one else " − " + second)]
    fig, ax = plt.subplots(figsize=(8, 1.0 + row_height(names, 0.3) * len(table)))
    ax.set_xlim(left - margin, right + margin)
    # A row per pair
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
    compared = f"difference from {call(references[0])}" if one else "difference"
    ax.set(xlabel=f"{compared} in micro-F1 (test)", ylim=(-0.7, len(table) - 0.3))
    ax.xaxis.set_major_locator(MaxNLocator(6))
    ax.grid(axis="y", visible=False)
    fig.tight_layout()
    return fig
