"""The figure of learning curves."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from lib.evaluation.curves import seed_points
from lib.report.figures.style import arm_styles, label_ends

LINES = ("-", (0, (5, 1.5)), (0, (6, 1.5, 1, 1.5)), (0, (2, 1)))  # dashes, for print in grey
# Doublings of the size between neighbouring intervals, and at most between the outer (our choice)
BESIDE, WIDEST = 0.035, 0.3


def plot_learning_curves(table: pd.DataFrame, runs: pd.DataFrame) -> Figure:
    """Micro-F1 against training documents: a line per approach, its intervals and its seeds.

    Points are means over seeds with 95 % intervals, those of two approaches a little apart so that
    none hides the other; seeds are small rings. An approach that is not trained is a level line.
    Names are at the ends of lines. `table` is that of `learning_curves`; `runs` has `arm seed
    micro_f1 macro_f1`.
    """
    # Approaches from the worst at the largest size to the best
    trained, level = table[table["train_size"] > 0], table[table["train_size"] == 0]
    last = trained[trained["train_size"] == trained["train_size"].max()]
    ranked = last.sort_values("micro_f1")["approach"].tolist()
    ranked += sorted(set(trained["approach"]) - set(ranked))
    points, styles = seed_points(runs), arm_styles(sorted(table["approach"].unique()))
    # Lines, each a little beside the others
    fig, ax = plt.subplots(figsize=(7.2, 4.4), layout="constrained")
    ends, beside = {}, min(BESIDE, WIDEST / len(ranked))
    for i, approach in enumerate(ranked):
        curve = trained[trained["approach"] == approach].sort_values("train_size")
        shift = 2 ** (beside * (i - (len(ranked) - 1) / 2))
        style = styles[approach] | {"ls": LINES[i % len(LINES)]}
        _draw_curve(ax, curve, points[points["approach"] == approach], shift, style)
        ends[approach] = (curve["train_size"].iloc[-1] * shift, curve["micro_f1"].iloc[-1])
    # A logarithmic axis with a tick at each size, which level lines cross
    sizes = sorted(trained["train_size"].unique())
    right = sizes[-1] * 2**0.3
    ax.set_xscale("log", base=2)
    ax.set_xlim(sizes[0] * 2**-0.3, right)
    for row in level.itertuples():
        colour = styles[row.approach]["color"]
        ax.axhspan(row.micro_f1_low, row.micro_f1_high, color=colour, alpha=0.15, lw=0, zorder=0)
        ax.axhline(row.micro_f1, color=colour, ls=(0, (1, 1)), lw=1.4, zorder=1)
        ends[row.approach] = (right, row.micro_f1)
    ax.xaxis.set_major_locator(FixedLocator(sizes))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:,.0f}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set(xlabel="training documents (logarithmic)", ylabel="micro-F1 (test)")
    label_ends(ax, ends, styles)
    return fig


def _draw_curve(
    ax: plt.Axes, curve: pd.DataFrame, points: pd.DataFrame, shift: float, style: Mapping
) -> None:
    """Draw a line through means, their intervals, and a ring per seed.

    Training sizes are multiplied by `shift`, which puts the curve beside the others.
    """
    x, f1, colour = curve["train_size"] * shift, curve["micro_f1"], style["color"]
    spread = np.abs([f1 - curve["micro_f1_low"], curve["micro_f1_high"] - f1])
    ax.errorbar(x, f1, yerr=spread, lw=1.6, elinewidth=1.2, capsize=2, color=colour,
                ls=style["ls"], zorder=2)  # fmt: skip
    ax.plot(points["train_size"] * shift, points["micro_f1"], ls="", marker="o", ms=3,
            mfc="white", mec=colour, mew=0.9, zorder=3)  # fmt: skip
    ax.plot(x, f1, ls="", marker=style["marker"], ms=6.5, color=colour, mec="black", mew=0.6,
            zorder=4)  # fmt: skip
