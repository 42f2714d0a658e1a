"""Style of every figure: colours and markers by arm, legends, scales, and how a figure is saved.

Limits without a source are our choices.
"""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import PIL.Image
import seaborn as sns
from IPython.display import Image, Markdown, display
from matplotlib.figure import Figure
from sklearn.isotonic import isotonic_regression

from lib.report.figures.fonts import cover, describe_missing
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
INCH = 96  # pixels of a page per inch of a figure
FINE = 1.5  # pixels of a shown picture per pixel of the page; the saved file has 200 / 96
NAMES: dict[str, str] = {}  # arms in words, for all figures of the process, like rcParams
MAX_LINES = 6  # arms whose lines a reader can distinguish in one panel


def set_plot_style(names: Mapping[str, str] | None = None) -> None:
    """Set seaborn's "paper" context with the colour-blind palette, and the `names` of arms.

    Without names, arms are called by their keys.
    """
    NAMES.clear()
    NAMES.update(names or {})
    sns.set_theme(context="paper", style="whitegrid", palette="colorblind", font_scale=1.05)
    plt.rcParams |= {"figure.dpi": 84, "savefig.dpi": 200, "axes.titleweight": "bold"}
    plt.rcParams |= {"axes.titlelocation": "left", "pdf.fonttype": 42}


def arm_styles(arms: Sequence[str]) -> dict[str, dict]:
    """`color` and `marker` of each arm; those of `KNOWN_ARMS` are the same in every study.

    Other arms get colours that no known arm among `arms` has. If the palette has too few, their
    colours are evenly spaced hues.
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


def call(arm: str) -> str:
    """The name of an arm in figures: in words if `set_plot_style` got some, else its key."""
    return NAMES.get(arm, arm)


def wrap(name: str, characters: int = 28) -> str:
    """The whole name in lines of about so many `characters`, broken at spaces or behind "_"."""
    lines = textwrap.wrap(name.replace("_", "_ "), characters)
    return "\n".join(line.replace("_ ", "_") for line in lines)


def row_height(names: Sequence[str], single: float) -> float:
    """The height in inches of a row for any of the wrapped names, at least `single`."""
    return max(single, 0.23 + 0.15 * max(name.count("\n") for name in names))


def panel_grid(
    count: int, max_columns: int, *, inches: float, margin: float = 0.0, **options: Any
) -> tuple[Figure, np.ndarray]:
    """A figure and its axes, (rows, columns), for `count` square panels; spare axes are empty.

    A panel has a side of `inches`; `margin`, in inches, is added to the figure's width and height.
    `options` are those of `plt.subplots`.
    """
    columns = min(max_columns, count)
    rows = math.ceil(count / columns)
    options |= {"figsize": (margin + inches * columns, margin + inches * rows)}
    fig, axs = plt.subplots(rows, columns, squeeze=False, layout="constrained", **options)
    for ax in axs.flat[count:]:
        ax.set_axis_off()
    return fig, axs


def add_legend(fig: Figure, ax: plt.Axes) -> None:
    """Add the legend of `ax` above all panels; the figure grows by its height."""
    handles, labels = ax.get_legend_handles_labels()
    labels = list(map(wrap, labels))
    width, panels = fig.get_size_inches()
    longest = max(len(line) for name in labels for line in name.split("\n"))
    columns = int(np.clip(width / (0.5 + 0.075 * longest), 1, min(6, len(labels))))
    rows = math.ceil(len(labels) / columns)
    columns = math.ceil(len(labels) / rows)  # rows of about one length
    lines = [sum(0.07 + 0.15 * (name.count("\n") + 1) for name in column)
             for column in np.array_split(labels, columns)]  # fmt: skip
    height = 0.05 + max(lines)
    fig.set_size_inches(width, panels + height)
    fig.legend(handles, labels, loc="upper center", ncols=columns, frameon=False)
    fig.tight_layout(rect=(0, 0, 1, panels / (panels + height)))


def on_scale(f1: pd.Series) -> pd.Series:
    """True for each arm with at least half the median F1.

    A panel that went down to lower ones would crowd all others.
    """
    return f1 >= 0.5 * f1.median()


def lowest_shown(f1: Mapping[str, float], lows: Mapping[str, float]) -> float:
    """The lower end of a panel: 0.02 below the least of `lows` of arms that are `on_scale`.

    `f1` and `lows` are by arm: the F1, and the lowest value that is drawn.
    """
    f1 = pd.Series(f1)
    return max(min(lows[arm] for arm in f1.index[on_scale(f1)]) - 0.02, 0.0)


def label_ends(
    ax: plt.Axes, ends: Mapping[str, tuple[float, float]], styles: Mapping[str, dict]
) -> None:
    """Add names right of the panel, each joined to the end of its line, without overlap.

    A line that ends in the left half of the panel is not joined to its name, because the connection
    would look like a part of it. `ends` are the (x, y) of each arm's line in data coordinates;
    `styles` are those of `arm_styles`. The limits of the panel must be set before.
    """
    if not ends:
        return
    # The panel's place and size
    fig = ax.get_figure()
    ax.autoscale_view()
    fig.draw_without_rendering()
    panel = ax.get_window_extent()
    width, points = panel.width * 72 / fig.dpi, panel.height * 72 / fig.dpi
    # Names from the bottom up, and the least distances between their middles
    arms = sorted(ends, key=lambda arm: ends[arm][1])
    lines = np.array([wrap(call(arm)).count("\n") + 1 for arm in arms])
    gaps = 5.5 * (lines[1:] + lines[:-1]) / points
    steps = np.concatenate([[0], np.cumsum(gaps)])
    # Heights as near to the ends of the lines as these distances allow: least squares, in order
    to_panel = ax.transData + ax.transAxes.inverted()
    reached, heights = np.array([to_panel.transform(ends[arm]) for arm in arms]).reshape(-1, 2).T
    heights = isotonic_regression(heights - steps) + steps
    heights = np.minimum(heights, 1 - steps[-1] + steps)
    leader = {"arrowstyle": "-", "color": "0.5", "lw": 0.8, "ls": ":", "shrinkB": 0}
    leader["relpos"] = (0, 0.5)
    for arm, far, height in zip(arms, reached, heights, strict=True):
        name, arrow = wrap(call(arm)), leader if far > 0.5 else None
        ax.annotate(name, ends[arm], (1 + 22 / width, height), textcoords="axes fraction",
                    va="center", size=8.5, arrowprops=arrow)  # fmt: skip
        ax.plot(1 + 16 / width, height, ms=5, mec="black", mew=0.5, clip_on=False,
                transform=ax.transAxes, **styles[arm])  # fmt: skip


def save_figure(fig: Figure, folder: Path, name: str, caption: str) -> None:
    """Write `<name>.png` (200 dpi, 256 colours), `.pdf` and `.caption.md` into the folder.

    The caption names characters that no installed font has.
    """
    if missing := cover(fig):
        caption += f" {describe_missing(missing)}"
    for ending, metadata in (("png", None), ("pdf", {"CreationDate": None})):
        with atomic_path(folder / f"{name}.{ending}") as path:
            fig.savefig(path, bbox_inches="tight", metadata=metadata)
            if ending == "png":
                _in_few_colours(PIL.Image.open(path)).save(path, dpi=(200, 200))
    with atomic_path(folder / f"{name}.caption.md") as path:
        path.write_text(caption + "\n", encoding="utf-8")


def _in_few_colours(picture: PIL.Image.Image) -> PIL.Image.Image:
    """The picture in 256 colours: a third of the bytes, which each report and notebook contains."""
    return picture.convert("RGB").quantize(256, dither=PIL.Image.Dither.NONE)


def show_figure(fig: Figure, folder: Path, name: str, caption: str, *, about: str = "") -> None:
    """Save a figure and show it with its caption below; the saved caption ends with `about`."""
    save_figure(fig, folder, name, f"{caption} {about}".strip())
    width = round(INCH * fig.get_size_inches()[0])
    plt.close(fig)  # otherwise the notebook shows the figure twice
    picture = PIL.Image.open(folder / f"{name}.png").convert("RGB")
    picture.thumbnail((round(FINE * width), picture.height))
    shown = io.BytesIO()
    _in_few_colours(picture).save(shown, "png")
    image = Image(shown.getvalue(), width=width, alt=caption)
    display(image, Markdown(f"*{caption}*"))
