"""Figures of confidence: accuracy by confidence, and precision by the share of answers given."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from lib.evaluation.calibration import (
    MIN_ANSWERED,
    Calibrated,
    choose_threshold,
    coverage_curve,
    reliability,
)
from lib.report.calibration import WANTED, ScoredRun
from lib.report.figures.style import (
    MAX_LINES,
    arm_styles,
    call,
    label_ends,
    lowest_shown,
    panel_grid,
    wrap,
)


def plot_reliability(
    scored: Mapping[str, Sequence[ScoredRun]], arms: Sequence[str], *, multi_label: bool
) -> Figure | None:
    """Accuracy against confidence, a panel for each arm that has probabilities; None without any.

    Filled points are confidences as given, hollow ones after temperature scaling on validation. On
    the diagonal, confidence is the share of right answers; below it, the model is too sure.
    Intervals are 95 %, over documents. Of `arms`, the first six that have probabilities are drawn;
    `scored` is that of `lib.report.calibration.read_scores`.
    """
    panels = {}
    for arm in arms:
        if len(panels) < MAX_LINES and (tables := _pooled(scored[arm], multi_label)):
            panels[arm] = tables
    if not panels:
        return None
    fig, axs = panel_grid(len(panels), 3, inches=2.5, margin=0.5, sharex=True, sharey=True)
    styles = arm_styles(list(panels))
    for ax, (arm, tables) in zip(axs.flat, panels.items(), strict=False):
        ax.axline((0, 0), slope=1, color="0.5", lw=0.8, ls="--")
        for table, hollow in zip(tables, (False, True), strict=True):
            spread = [table["accuracy"] - table["low"], table["high"] - table["accuracy"]]
            style = styles[arm] | ({"mfc": "w", "lw": 0.8, "ls": ":"} if hollow else {"lw": 1.2})
            ax.errorbar(table["confidence"], table["accuracy"], yerr=np.abs(spread), ms=5,
                        mec=styles[arm]["color"], elinewidth=0.8, **style)  # fmt: skip
        ax.set_title(wrap(call(arm), 26), size=9)
        ax.set(xlim=(-0.04, 1.04), ylim=(-0.04, 1.04))
    ax.set_xticks(np.linspace(0, 1, 5), ["0", "", "0.5", "", "1"])
    said = "probability of a label" if multi_label else "confidence"
    came = "share of them that apply" if multi_label else "share that is right"
    fig.supxlabel(said, size=9)
    fig.supylabel(f"{came} (test)", size=9)
    return fig


def _pooled(runs: Sequence[ScoredRun], multi_label: bool) -> list[pd.DataFrame]:
    """`reliability` over all seeds, before and after scaling; empty without probabilities."""
    calibrated = [Calibrated.fit(*run, multi_label=multi_label) for run in runs]
    if None in calibrated:
        return []
    given = [run.answers(run.probs) for run in calibrated]
    scaled = [run.answers(run.scaled) for run in calibrated]
    together = [map(np.concatenate, zip(*x, strict=True)) for x in (given, scaled)]
    return [reliability(*answers, num_seeds=len(runs)) for answers in together]


def plot_risk_coverage(
    scored: Mapping[str, Sequence[ScoredRun]], arms: Sequence[str]
) -> Figure | None:
    """Precision against the share of test documents that are answered, the surest first.

    It is for single labels. Of `arms`, the first six that have a confidence are drawn, by their
    first seeds; None without any. Markers show the confidence that reached a precision of `WANTED`
    (dotted) on validation. An arm with less than half the median precision is off the scale.
    `scored` is that of `lib.report.calibration.read_scores`.
    """
    chosen = {}
    for arm in arms:
        run = scored[arm][0]
        if len(chosen) < MAX_LINES and all(split.confidence is not None for split in run):
            chosen[arm] = run
    if not chosen:
        return None
    fig, ax = plt.subplots(figsize=(7, 3.6), layout="constrained")
    styles, ends, lowest = arm_styles(list(chosen)), {}, {}
    for arm, (validation, test) in chosen.items():
        curve = coverage_curve(test.confidence, test.right)
        enough = (curve["share"] * len(test.right)).round() >= MIN_ANSWERED
        curve = curve[enough | (curve["share"] == 1)]
        ax.plot(curve["share"], curve["precision"], color=styles[arm]["color"], lw=1.4)
        for precision in WANTED:
            threshold = choose_threshold(validation.confidence, validation.right, precision)
            reached = curve[curve["threshold"] >= threshold].tail(1)
            ax.plot(reached["share"], reached["precision"], ms=6, mec="black", mew=0.6, ls="",
                    **styles[arm])  # fmt: skip
        ends[arm] = (1, curve["precision"].iloc[-1])
        lowest[arm] = curve["precision"].min()
    for precision in WANTED:
        ax.axhline(precision, color="0.4", lw=0.8, ls=":")
    bottom = lowest_shown({arm: y for arm, (_, y) in ends.items()}, lowest)
    ends = {arm: (x, max(y, bottom)) for arm, (x, y) in ends.items()}
    ax.set(xlim=(0, 1), xlabel="share of documents answered, the surest first (test)")
    ax.set(ylim=(bottom, 1.01), ylabel="precision of the answers")
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    label_ends(ax, ends, styles)
    return fig
