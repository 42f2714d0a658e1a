"""Parts of the test split that a tokenizer cuts, and the figure of F1 by part."""

import textwrap
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from transformers import PreTrainedTokenizerBase

from lib.model.tokens import encode_documents
from lib.report.figures.scores import MOST_LINES, arm_styles, label_ends, lowest_shown


def parts_by_truncation(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, max_length: int
) -> pd.Categorical:
    """Whether each document, (N,), has more than `max_length` tokens, so that the end is not read.

    As this tokenizer counts; another arm's may count otherwise, and TF-IDF reads whole texts.
    """
    options = {"max_length": max_length + 1, "add_special_tokens": False}
    ids = encode_documents(tokenizer, texts, **options)
    names = [f"up to {max_length} tokens", "cut"]
    return pd.Categorical.from_codes(
        [int(len(row) > max_length) for row in ids], names, ordered=True
    )


def plot_slices(tables: Mapping[str, pd.DataFrame], *, most: int = MOST_LINES) -> Figure | None:
    """Micro-F1 with 95 % intervals by part, a panel for each way to cut the test split.

    None where no table has a part.

    Parameters
    ----------
    tables
        What a panel shows ("training documents of the label"): what `f1_by_part` returns. The first
        `most` arms are drawn; one with less than half the median F1 is off the scale.
    """
    tables = {what: table for what, table in tables.items() if len(table)}
    if not tables:
        return None
    arms = list(dict.fromkeys(arm for table in tables.values() for arm in table["arm"]))[:most]
    styles = arm_styles(arms)
    widths = [max(2, table["part"].nunique()) for table in tables.values()]
    size = (min(1.6 + 0.95 * sum(widths), 9.5), 3.6)  # a page's width at most
    fig, axs = plt.subplots(1, len(tables), figsize=size, sharey=True, squeeze=False,
                            width_ratios=widths, layout="constrained")  # fmt: skip
    for ax, (what, table) in zip(axs[0], tables.items(), strict=True):
        parts = [part for part in table["part"].cat.categories if part in set(table["part"])]
        for number, arm in enumerate(arms):
            rows = table[table["arm"] == arm].set_index("part").reindex(parts)
            x = np.arange(len(parts)) + 0.09 * (number - (len(arms) - 1) / 2)
            spread = np.abs([rows["micro_f1"] - rows["low"], rows["high"] - rows["micro_f1"]])
            ax.errorbar(x, rows["micro_f1"], yerr=spread, ms=5, mec="black", mew=0.5, lw=0.8,
                        elinewidth=0.9, **styles[arm])  # fmt: skip
        sizes = table.groupby("part", observed=True)["size"].first()
        ticks = [f"{textwrap.fill(part, 11)}\n({sizes[part]:,})" for part in parts]
        ax.set_xticks(range(len(parts)), ticks, size=7.5)
        ax.set(xlabel=what, xlim=(-0.5, max(len(parts), 2) - 0.5))
        ax.grid(axis="x", visible=False)
    axs[0, 0].set(ylabel="micro-F1 (test)")
    drawn = pd.concat(tables.values()).groupby("arm")[["micro_f1", "low"]]
    means, lows = drawn.mean()["micro_f1"], drawn.min()["low"]
    bottom = lowest_shown(means[arms].to_dict(), lows.to_dict())
    axs[0, 0].set_ylim(bottom=bottom)
    last, ends = len(parts) - 1, {}
    for number, arm in enumerate(arms):
        f1_last = table[(table["arm"] == arm) & (table["part"] == parts[-1])]["micro_f1"]
        x = last + 0.09 * (number - (len(arms) - 1) / 2)
        ends[arm] = (x, max(float(f1_last.iloc[0]), bottom))
    label_ends(axs[0, -1], ends, styles)
    return fig
