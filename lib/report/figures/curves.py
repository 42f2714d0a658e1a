"""The figure of learning curves."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lib.report.figures.scores import arm_styles, label_ends

NAMES = {"micro_f1": "micro-F1", "macro_f1": "macro-F1"}
LINES = ("-", (0, (5, 1.5)), (0, (6, 1.5, 1, 1.5)), (0, (2, 1)))  # for a reader in grey
BESIDE, WIDEST = 0.035, 0.3  # of a doubling: between two intervals, in all (chosen here)


def plot_learning_curves(
    table: pd.DataFrame,
    points: pd.DataFrame,
    *,
    average: str = "micro_f1",
) -> Figure:
    """F1 against training documents: a line for each approach, its intervals and its seeds.

    Means over seeds with 95 % intervals, a little apart so that they can be told from each other;
    seeds are small rings. An approach that learns from nothing is a level line. Names stand at
    the ends of lines.

    Parameters
    ----------
    table, points
        Of `learning_curves` and `seed_points`.
    """
    taught = table[table["train_size"] > 0]
    last = taught[taught["train_size"] == taught["train_size"].max()]
    ranked = last.sort_values(average)["approach"].tolist()
    ranked += sorted(set(taught["approach"]) - set(ranked))
    level = table[table["train_size"] == 0]
    styles = arm_styles(sorted(table["approach"].unique()))
    sizes = sorted(taught["train_size"].unique())
    fig, ax = plt.subplots(figsize=(7.2, 4.4), layout="constrained")
    ends, beside = {}, min(BESIDE, WIDEST / len(ranked))
    for i, approach in enumerate(ranked):
        curve = taught[taught["approach"] == approach].sort_values("train_size")
        shift = 2 ** (beside * (i - (len(ranked) - 1) / 2))
        style = styles[approach] | {"ls": LINES[i % len(LINES)]}
        _draw_curve(ax, curve, points[points["approach"] == approach], shift, style, average)
        ends[approach] = (curve["train_size"].iloc[-1] * shift, curve[average].iloc[-1])
    right = sizes[-1] * 2**0.3
    ax.set_xscale("log", base=2)
    ax.set_xlim(sizes[0] * 2**-0.3, right)
    for row in level.itertuples():
        _draw_level(ax, row, styles[row.approach], average)
        ends[row.approach] = (right, getattr(row, average))
    ax.xaxis.set_major_locator(FixedLocator(sizes))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set(xlabel="training documents (logarithmic)", ylabel=f"{NAMES[average]} (test)")
    label_ends(ax, ends, styles)
    return fig


def _draw_curve(
    ax: plt.Axes,
    curve: pd.DataFrame,
    points: pd.DataFrame,
    shift: float,
    style: Mapping,
    average: str,
) -> None:
    f1 = curve[average]
    spread = [f1 - curve[f"{average}_low"], curve[f"{average}_high"] - f1]
    x = curve["train_size"] * shift
    colour, marker = style["color"], style["marker"]
    ax.errorbar(x, f1, yerr=np.abs(spread), lw=1.6, elinewidth=1.2, capsize=2, color=colour,
                ls=style["ls"], zorder=2)  # fmt: skip
    ax.plot(points["train_size"] * shift, points[average], ls="", marker="o", ms=3, mfc="white",
            mec=colour, mew=0.9, zorder=3)  # fmt: skip
    ax.plot(x, f1, ls="", marker=marker, ms=6.5, color=colour, mec="black", mew=0.6, zorder=4)


def _draw_level(ax: plt.Axes, row: tuple, style: Mapping, average: str) -> None:
    """An approach that learns from nothing: a level line within its interval."""
    low, high = getattr(row, f"{average}_low"), getattr(row, f"{average}_high")
    ax.axhspan(low, high, color=style["color"], alpha=0.15, lw=0, zorder=0)
    ax.axhline(getattr(row, average), color=style["color"], ls=(0, (1, 1)), lw=1.4, zorder=1)
