"""Figures of the answer over many tasks."""

from itertools import cycle

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lib.evaluation.pooled import Pooled
from lib.report.figures.style import arm_styles
from lib.report.wording import format_delta

MARKERS = "osD^vP"


def plot_tasks(cells: pd.DataFrame, pooled: Pooled | None) -> Figure:
    """Head minus prompt, in micro-F1: a row per task, a point per cell, and the mean over tasks.

    `cells`, `task model train_size effect low high`, are points with 95 % intervals. Colours are
    models; points of the largest training size are filled. Below are, unless `pooled` is None, the
    mean over tasks with its interval, and the prediction interval of a new task.
    """
    order = cells.groupby("task")["effect"].mean().sort_values().index
    models, sizes = list(cells["model"].unique()), sorted(cells["train_size"].unique())
    fig, ax = plt.subplots(figsize=(7.2, 1.3 + 0.42 * len(order)), layout="constrained")
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.8, len(models)))
    looks = dict(zip(models, zip(colours, cycle(MARKERS), strict=False), strict=True))
    rows = [(model, size) for model in models for size in sizes]
    for y, task in enumerate(order):
        for cell in cells[cells["task"] == task].itertuples():
            place = rows.index((cell.model, cell.train_size)) + 0.5
            beside = y + 0.35 - 0.7 * place / len(rows)
            colour, marker = looks[cell.model]
            ax.hlines(beside, cell.low, cell.high, color=colour, lw=1.2)
            face = colour if cell.train_size == sizes[-1] else "white"
            ax.plot(cell.effect, beside, marker, ms=5, mfc=face, mec=colour)
    for model, (colour, marker) in looks.items() if len(models) > 1 else ():
        ax.plot([], [], marker, color=colour, label=model)
    for size in sizes if len(sizes) > 1 else ():
        face = "0.3" if size == sizes[-1] else "white"
        ax.plot([], [], "o", mfc=face, mec="0.3", label=f"{size:,} documents")
    labels, bottom = list(order), 0
    if pooled is not None:
        ax.hlines(-1, pooled.new_low, pooled.new_high, color="0.75", lw=7)
        ax.hlines(-1, pooled.low, pooled.high, color="black", lw=2.5)
        ax.plot(pooled.mean, -1, "D", color="black", ms=7)
        ax.annotate(format_delta(pooled.mean), (pooled.mean, -1), (0, 9), ha="center",
                    textcoords="offset points",
                    bbox={"fc": "white", "ec": "none", "pad": 0})  # fmt: skip
        ax.axhline(-0.5, color="0.6", lw=0.8)
        labels = ["mean" if np.isnan(pooled.new_low) else "mean (grey: a new task)", *labels]
        bottom = -1
    ax.set_yticks(range(bottom, len(order)), labels)
    ax.set_ylim(bottom - 0.6, len(order) - 0.4)
    ax.axvline(0, color="black", lw=0.8)
    ax.set_xlabel(
        "◀ prompt better     micro-F1 of the head minus that of the prompt     head better ▶"
    )
    if len(models) > 1 or len(sizes) > 1:
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return fig


def plot_ranks(ranks: pd.Series, critical: float) -> Figure:
    """Mean rank of each arm over tasks, the best first, with the critical difference from the best.

    Arms within this distance of each other are not distinguishable (Demšar 2006). The parameters
    are results of `lib.evaluation.pooled.compare_ranks`.
    """
    styles = arm_styles(list(ranks.index))
    fig, ax = plt.subplots(figsize=(7.2, 0.9 + 0.3 * len(ranks)), layout="constrained")
    best = ranks.iloc[0]
    ax.axvspan(best, best + critical, color="0.9", lw=0)
    for y, (arm, rank) in enumerate(ranks.items()):
        ax.plot(rank, -y, ms=8, mec="black", mew=0.6, **styles[arm])
        ax.annotate(f"{arm}  {rank:.2f}", (rank, -y), (9, 0), textcoords="offset points",
                    va="center")  # fmt: skip
    ax.set_yticks([])
    ax.set_ylim(-len(ranks) + 0.4, 0.6)
    ax.set_xlim(0.9, max(len(ranks), best + critical) + 0.6)
    ax.set_xlabel("mean rank over tasks (1: best); grey: not distinguishable from the best")
    return fig
