"""What learning curves say, in sentences that are made from their numbers."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from lib.curves import LEVEL, Curve
from lib.power_law import FEWEST_SIZES

NAMES = {"micro_f1": "micro-F1", "macro_f1": "macro-F1"}


def describe_curves(
    table: pd.DataFrame,
    curves: Mapping[str, Curve],
    crossed: pd.DataFrame,
    forecast: pd.DataFrame,
    *,
    average: str = "micro_f1",
) -> str:
    """A Markdown list: who leads with few and with many documents, crossings, and twice the labels.

    Parameters
    ----------
    table, curves, crossed, forecast
        Of `learning_curves`, `resample_curves`, `crossings` and `forecasts`, the last three of the
        same average.
    """
    sizes = np.unique(np.concatenate([c.sizes for c in curves.values() if c.taught]))
    ends = [int(size) for size in dict.fromkeys((sizes[0], sizes[-1]))]
    lines = [_describe_leader(table, curves, size, average) for size in ends]
    lines += [*_describe_crossings(crossed), *_describe_forecasts(forecast, len(sizes))]
    fewest = int(table["num_seeds"][table["train_size"] > 0].min())
    lines.append(
        "Intervals are 95 %, over test documents"
        + (f" and {fewest} seeds" if fewest > 1 else " alone: each arm has one seed")
        + "; the differences at the largest size tell which leads are certain there."
    )
    return "\n".join(f"- {line}" for line in lines)


def _describe_leader(
    table: pd.DataFrame, curves: Mapping[str, Curve], size: int, average: str
) -> str:
    """Who leads at a size, and what the others reach; which lead is certain is not told here."""
    present = [name for name, curve in curves.items() if not curve.taught or size in curve.sizes]
    at_size = table[table["train_size"].isin([0, size]) & table["approach"].isin(present)]
    best, *others = at_size.sort_values(average, ascending=False).to_dict("records")
    sentence = (
        f"With {size:,} training documents **{best['approach']}** has the highest "
        f"{NAMES[average]}, {best[average]:.3f} "
        f"({best[f'{average}_low']:.3f} to {best[f'{average}_high']:.3f})"
    )
    behind = [f"{row['approach']} {row[average]:.3f}" for row in others]
    return sentence + (f", before {_join(behind)}." if behind else ".")


def _describe_crossings(crossed: pd.DataFrame) -> list[str]:
    """A sentence for each certain crossing, and one for the pairs of which none is certain."""
    lines = [
        f"**{row.ahead}** overtakes {row.behind} at about {row.train_size:,.0f} training documents "
        f"({row.low:,.0f} to {row.high:,.0f}; in {row.share:.0%} of resamples)."
        for row in crossed[crossed["certain"]].itertuples()
    ]
    unclear = crossed[~crossed["certain"] & crossed["train_size"].notna()]
    if len(unclear):
        pairs = [f"{row.ahead} and {row.behind} ({row.share:.0%})" for row in unclear.itertuples()]
        lines.append(
            f"No certain crossing, although the curves meet (share of resamples in which they do, "
            f"{LEVEL:.0%} needed): {_join(pairs)}."
        )
    if len(crossed) and not lines:
        lines.append(
            "No two curves cross: of each pair the same approach leads with the fewest documents "
            "and with the most."
        )
    return lines


def _describe_forecasts(forecast: pd.DataFrame, num_sizes: int) -> list[str]:
    """What more documents would bring, and whether the same law foretold the largest size."""
    if not len(forecast):
        return [
            f"Nothing is said of more labels: {num_sizes} training sizes are fewer than "
            f"{FEWEST_SIZES}."
        ]
    lines = []
    for size, rows in forecast.groupby("train_size"):
        ranked = list(rows.sort_values("f1", ascending=False).itertuples())
        largest = ranked[0].held_out_size
        reached = [
            f"**{row.approach}** {row.f1:.3f} ({row.low:.3f} to {row.high:.3f}), {row.gain:+.3f} "
            f"({row.gain_low:+.3f} to {row.gain_high:+.3f})"
            for row in ranked
        ]
        missed = [
            f"{row.approach} {row.miss:+.3f} ({row.miss_low:+.3f} to {row.miss_high:+.3f})"
            for row in ranked
        ]
        wrong = [
            row.approach for row in ranked if row.miss_low > 0 or row.miss_high < 0 or row.gain <= 0
        ]
        lines += [
            f"If error is a power of the number of documents, {size:,.0f} of them would "
            f"bring about, each with its gain over {largest:,}: {'; '.join(reached)}.",
            f"The same law, fitted without the {largest:,}, misses what they "
            f"reached by (predicted minus measured): {'; '.join(missed)}."
            + (
                f" **Do not rely on the forecast** for {_join(wrong)}: it misses, or sees no gain."
                if wrong
                else ""
            ),
        ]
    return lines


def _join(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
