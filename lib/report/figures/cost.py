"""F1 against costs: time, energy, memory, parameters, disk."""

import math
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from lib.report.figures.style import add_legend, arm_styles, call, on_scale
from lib.report.wording import format_f1

# By column: the cost's name, True if less of it is better, and True if it depends on the machine.
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
    """True for each of A arms, (A,), that no other beats.

    One arm beats another if it costs less at no lower F1, or has a higher F1 at no higher cost. An
    arm whose cost is NaN is not on the front. `cost` and `f1` are (A,) float.
    """
    cost, f1 = np.asarray(cost, float), np.asarray(f1, float)
    no_worse = (cost[:, None] <= cost) & (f1[:, None] >= f1)  # (A, A): row beats or equals column
    better = (cost[:, None] < cost) | (f1[:, None] > f1)
    return ~(no_worse & better).any(axis=0) & np.isfinite(cost)


def plot_cost(comparison: pd.DataFrame) -> Figure | None:
    """Micro-F1 with 95 % intervals against each cost of `COSTS`: time, energy, memory, size.

    A cost has a panel if any arm has it and arms differ in it; None without a panel. The dashed
    line is the Pareto front, the arms that no other beats in both. An arm that is not `on_scale` is
    at the bottom, with its F1 as a number and no interval, and not on the front. A hollow arm ran
    on another device than most arms, so that its time, energy and memory are not comparable: it is
    on no front of these.
    """
    # Costs that are known and differ; an infinite speed is a time that was not measured
    known = {key: comparison[key].astype(float) for key in COSTS if key in comparison}
    known = {key: cost.where(np.isfinite(cost)) for key, cost in known.items()}
    comparison = comparison.assign(**known)
    panels = [key for key, cost in known.items() if _differs(cost)]
    if not panels:
        return None
    columns = min(3, math.ceil(len(panels) / 2))
    rows = math.ceil(len(panels) / columns)
    fig, axs = plt.subplots(rows, columns, sharey=True, squeeze=False,
                            figsize=(max(5, 2.9 * columns), 2.7 * max(rows, 2)))  # fmt: skip
    for ax in axs.flat[len(panels) :]:
        ax.set_axis_off()
    # Shared by all panels: intervals, the lower end, and the arms on another device
    f1, shown = comparison["micro_f1"], on_scale(comparison["micro_f1"])
    lows, highs = (comparison[f"micro_f1_{x}"].fillna(f1) for x in ("low", "high"))
    table = comparison.assign(low=lows, high=highs, shown=shown)
    low, high = lows[shown].min(), highs[shown].max()
    span = max(high - low, 0.01)
    bottom = low - 0.25 * span
    devices = comparison["device"] if "device" in comparison else pd.Series("", comparison.index)
    elsewhere = devices.notna() & (devices != devices.value_counts().idxmax())
    styles = arm_styles(list(comparison["arm"]))
    for ax, key in zip(axs.flat, panels, strict=False):
        _draw_panel(ax, key, table.assign(hollow=elsewhere & COSTS[key][2]), bottom, styles)
        ax.set(xlabel=COSTS[key][0], ylim=(bottom - 0.05 * span, high + 0.1 * span))
    for ax in axs[:, 0]:
        ax.set(ylabel="micro-F1 (test)")
    if elsewhere.any():
        axs[0, 0].plot([], [], "o", mfc="w", mec="0.4", label="on another device")
    add_legend(fig, axs[0, 0])
    return fig


def _differs(values: pd.Series) -> bool:
    """True if arms differ in a cost by more than a hundredth, or a single arm has it."""
    known = values.dropna()
    return len(values) == len(known) == 1 or known.max() - known.min() > 0.01 * known.max()


def _draw_panel(
    ax: plt.Axes, key: str, table: pd.DataFrame, bottom: float, styles: Mapping[str, dict]
) -> None:
    """Draw every arm by one cost, and the Pareto front; arms below `bottom` are drawn there."""
    values = table[key] * (1024 if key == "model_disk_gib" else 1)
    values = _cost_axis(ax, values, linear=key == "peak_memory_gib")
    for i, row in table.iterrows():
        below = row.micro_f1 < bottom
        spread = np.abs([[row.micro_f1 - row.low], [row.high - row.micro_f1]])
        colour = styles[row.arm]["color"]
        hollow = {"mfc": "w", "mec": colour, "mew": 1.5}
        face = hollow if row.hollow else {"mec": "black", "mew": 0.6}
        ax.errorbar(values[i], max(row.micro_f1, bottom), yerr=None if below else spread,
                    ms=7, ls="", label=call(row.arm), **styles[row.arm] | face)  # fmt: skip
        if below:
            ax.annotate(format_f1(row.micro_f1), (values[i], bottom), (7, 1),
                        textcoords="offset points")  # fmt: skip
    rivals, cheap = table[table["shown"] & ~table["hollow"]], COSTS[key][1]
    front = pareto_front(rivals[key] * (1 if cheap else -1), rivals["micro_f1"])
    line = pd.DataFrame({"x": values[rivals.index], "y": rivals["micro_f1"]})[front]
    line = line.sort_values("x")
    ax.step(line["x"], line["y"], where="post" if cheap else "pre", color="0.3", lw=1, ls="--",
            zorder=1.5, label="Pareto front")  # fmt: skip


def _cost_axis(ax: plt.Axes, values: pd.Series, *, linear: bool) -> pd.Series:
    """The place of each value on the axis, which gets its scale and ticks; 0 is at the left."""
    positive = values[values > 0]
    if linear or not len(positive):
        ax.set_xlim(0, 1.1 * values.max() or 1)
        return values
    ax.set_xscale("log")
    smallest = 10 ** np.floor(np.log10(positive.min()))
    ratio = positive.max() / positive.min()
    if (values == 0).any():
        decades = np.arange(np.log10(smallest), np.ceil(np.log10(positive.max())) + 1)
        decades = decades[:: math.ceil(len(decades) / 5)]
        labels = [f"$10^{{{int(d)}}}$" for d in decades]
        ax.set_xticks([smallest / 10, *10**decades], ["0", *labels])
        ax.xaxis.set_minor_locator(NullLocator())
    elif ratio < 100:  # powers of ten would be one tick or two
        ax.xaxis.set_major_locator(MaxNLocator(4) if ratio < 10 else LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.xaxis.set_minor_locator(NullLocator())
    else:
        ax.xaxis.set_minor_formatter(NullFormatter())  # beside powers of ten they do not fit
    return values.replace(0, smallest / 10)
