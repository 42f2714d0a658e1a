"""F1 over parts of the test split."""

import textwrap
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.report.figures.style import MAX_LINES, arm_styles, label_ends, lowest_shown

BESIDE = 0.09  # distance of two arms' points; two parts are 1 apart (our choice)


def plot_slices(tables: Mapping[str, pd.DataFrame]) -> Figure | None:
    """Micro-F1 with 95 % intervals by part, a panel for each way to cut the test split.

    `tables` are those of `f1_by_part`, by the panel's title, such as "training documents of a
    label". None if all are empty. The first six arms are drawn; the scale leaves out an arm with
    less than half the median F1.
    """
    tables = {what: table for what, table in tables.items() if len(table)}
    if not tables:
        return None
    arms = list(dict.fromkeys(arm for table in tables.values() for arm in table["arm"]))[:MAX_LINES]
    styles = arm_styles(arms)
    aside = {arm: BESIDE * (i - (len(arms) - 1) / 2) for i, arm in enumerate(arms)}
    # Panels as wide as their parts, within a page
    widths = [max(2, table["part"].nunique()) for table in tables.values()]
    size = (min(1.6 + 0.95 * sum(widths), 9.5), 3.6)
    fig, axs = plt.subplots(1, len(tables), figsize=size, sharey=True, squeeze=False,
                            width_ratios=widths, layout="constrained")  # fmt: skip
    for ax, (what, table) in zip(axs[0], tables.items(), strict=True):
        parts = list(table["part"].cat.categories)
        for arm in arms:
            rows = table[table["arm"] == arm].set_index("part").reindex(parts)
            spread = np.abs([rows["micro_f1"] - rows["low"], rows["high"] - rows["micro_f1"]])
            ax.errorbar(np.arange(len(parts)) + aside[arm], rows["micro_f1"], yerr=spread, ms=5,
                        mec="black", mew=0.5, lw=0.8, elinewidth=0.9, **styles[arm])  # fmt: skip
        sizes = table.groupby("part", observed=True)["size"].first()
        ticks = [f"{textwrap.fill(part, 9)}\n({sizes[part]:,})" for part in parts]
        ax.set_xticks(range(len(parts)), ticks, size=7.5)
        ax.set(xlabel=what, xlim=(-0.5, max(len(parts), 2) - 0.5))
        ax.grid(axis="x", visible=False)
    axs[0, 0].set(ylabel="micro-F1 (test)")
    # The lower end of all panels
    drawn = pd.concat(tables.values()).groupby("arm")[["micro_f1", "low"]]
    means, lows = drawn.mean()["micro_f1"], drawn.min()["low"]
    bottom = lowest_shown(means[arms].to_dict(), lows.to_dict())
    axs[0, 0].set_ylim(bottom=bottom)
    # Names at the ends of the last panel's lines
    last = table[table["part"] == parts[-1]].set_index("arm")["micro_f1"]
    place = len(parts) - 1
    ends = {arm: (place + aside[arm], max(float(last[arm]), bottom)) for arm in arms}
    label_ends(axs[0, -1], ends, styles)
    return fig
