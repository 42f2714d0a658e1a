"""F1 against what it costs."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from lib.report.figures.scores import add_legend, arm_styles
from lib.report.wording import format_f1

# A cost's name, whether less of it is better, whether it depends on the machine.
COSTS = {
    "train_seconds": ("training (seconds)", True, True),
    "train_joules": ("training (joules)", True, True),
    "infer_docs_per_second": ("inference (documents/s)", False, True),
    "infer_joules_per_doc": ("inference (joules/document)", True, True),
    "peak_memory_gib": ("peak memory (GiB)", True, True),
    "trainable_params": ("trainable parameters", True, False),
    "model_disk_gib": ("what is saved (MiB)", True, False),
}


def pareto_front(cost: np.ndarray, f1: np.ndarray) -> np.ndarray:
    """Which arms no other one beats: none costs less at no lower F1, nor as much at a higher one.

    Parameters
    ----------
    cost, f1
        (A,) float; an arm whose cost is NaN is not on the front.
    """
    cost, f1 = np.asarray(cost, float), np.asarray(f1, float)
    no_worse = (cost[:, None] <= cost) & (f1[:, None] >= f1)  # (A, A): row beats or equals column
    better = (cost[:, None] < cost) | (f1[:, None] > f1)
    return ~(no_worse & better).any(axis=0) & np.isfinite(cost)


def plot_cost(comparison: pd.DataFrame) -> Figure | None:
    """Micro-F1 with 95 % intervals against what it cost: time, energy, memory, parameters, disk.

    A panel for each cost that any arm has, unless all have the same; None without any. The dashed
    line is the Pareto front: what no other arm beats in both. An arm with less than half the median
    F1 stands at the bottom, with its number, and off the front. Hollow: on another device than most
    arms, so that its time, speed and memory are not comparable; such an arm is on no front of
    these.
    """
    known = {key: comparison[key].astype(float) for key in COSTS if key in comparison}
    known = {key: cost.where(np.isfinite(cost)) for key, cost in known.items()}
    comparison = comparison.assign(**known)  # infinite: in no time at all, which tells nothing
    panels = [key for key, cost in known.items() if _tells(cost)]
    if not panels:
        return None
    low, high = (
        comparison[f"micro_f1_{x}"].fillna(comparison["micro_f1"]) for x in ("low", "high")
    )
    shown = comparison["micro_f1"] >= 0.5 * comparison["micro_f1"].median()
    span = max(high[shown].max() - low[shown].min(), 0.01)
    bottom = low[shown].min() - 0.25 * span
    devices = comparison["device"] if "device" in comparison else pd.Series("", comparison.index)
    elsewhere = devices.notna() & (devices != devices.value_counts().idxmax())
    columns = min(3, -(-len(panels) // 2))
    rows = -(-len(panels) // columns)
    fig, axs = plt.subplots(rows, columns, sharey=True, squeeze=False,
                            figsize=(max(5, 2.9 * columns), 2.7 * max(rows, 2)))  # fmt: skip
    for ax in axs.flat[len(panels) :]:
        ax.set_axis_off()
    styles = arm_styles(list(comparison["arm"]))
    for ax, key in zip(axs.flat, panels, strict=False):
        title, cheap, of_machine = COSTS[key]
        hollow = elsewhere & of_machine
        values = comparison[key] * (1024 if key == "model_disk_gib" else 1)
        values = _cost_axis(ax, values, linear=key == "peak_memory_gib")
        for i, row in comparison.iterrows():
            y = max(row.micro_f1, bottom)
            spread = [[row.micro_f1 - low[i]], [high[i] - row.micro_f1]]
            style = styles[row.arm] | ({"mfc": "w", "mec": styles[row.arm]["color"], "mew": 1.5}
                                       if hollow[i] else {"mec": "black", "mew": 0.6})  # fmt: skip
            ax.errorbar(values[i], y, yerr=np.abs(spread), ms=7, ls="", label=row.arm, **style)
            if row.micro_f1 < bottom:
                ax.annotate(format_f1(row.micro_f1), (values[i], y), (7, 1),
                            textcoords="offset points")  # fmt: skip
        rivals = comparison[shown & ~hollow]
        front = pareto_front(rivals[key] * (1 if cheap else -1), rivals["micro_f1"])
        line = pd.DataFrame({"x": values[rivals.index], "y": rivals["micro_f1"]})[front]
        line = line.sort_values("x")
        ax.step(line["x"], line["y"], where="post" if cheap else "pre", color="0.3", lw=1, ls="--",
                zorder=1.5, label="Pareto front")  # fmt: skip
        ax.set(xlabel=title, ylim=(bottom - 0.05 * span, high[shown].max() + 0.1 * span))
    for ax in axs[:, 0]:
        ax.set(ylabel="micro-F1 (test)")
    if elsewhere.any():
        axs[0, 0].plot([], [], "o", mfc="w", mec="0.4", label="on another device")
    add_legend(fig, axs[0, 0])
    return fig


def _tells(values: pd.Series) -> bool:
    """Whether arms differ in a cost, by more than a hundredth; of one arm, whether it has it."""
    known = values.dropna()
    return len(values) == len(known) == 1 or known.max() - known.min() > 0.01 * known.max()


def _cost_axis(ax: plt.Axes, values: pd.Series, *, linear: bool) -> pd.Series:
    """Scale and ticks of a cost; returns where each value stands, 0 left of all others."""
    positive = values[values > 0]
    if linear or not len(positive):
        ax.set_xlim(0, 1.1 * values.max() or 1)
        return values
    ax.set_xscale("log")
    smallest = 10 ** np.floor(np.log10(positive.min()))
    if (values == 0).any():
        decades = np.arange(np.log10(smallest), np.ceil(np.log10(positive.max())) + 1)
        decades = decades[:: -(-len(decades) // 5)]
        labels = [f"$10^{{{int(d)}}}$" for d in decades]
        ax.set_xticks([smallest / 10, *10**decades], ["0", *labels])
        ax.xaxis.set_minor_locator(NullLocator())
    elif positive.max() < 10 * positive.min():  # within a decade, powers of ten tell little
        ax.xaxis.set_major_locator(MaxNLocator(4))
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.xaxis.set_minor_locator(NullLocator())
    elif positive.max() < 100 * positive.min():
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.xaxis.set_minor_locator(NullLocator())
    else:
        ax.xaxis.set_minor_formatter(NullFormatter())  # beside powers of ten they do not fit
    return values.replace(0, smallest / 10)
