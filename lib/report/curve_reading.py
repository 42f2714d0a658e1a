"""What learning curves say, in sentences that are made from their numbers."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from lib.evaluation.curves import Curve
from lib.evaluation.intervals import ALPHA
from lib.report.wording import format_f1, format_p, join

NAMES = {"micro_f1": "micro-F1", "macro_f1": "macro-F1"}


def describe_curves(
    table: pd.DataFrame,
    curves: Mapping[str, Curve],
    crossed: pd.DataFrame,
    *,
    average: str = "micro_f1",
) -> str:
    """A Markdown list: who leads with few and with many documents, and crossings.

    Parameters
    ----------
    table, curves, crossed
        Of `learning_curves`, `resample_curves` and `crossings`, the last two of the same average.
    """
    sizes = np.unique(np.concatenate([c.sizes for c in curves.values() if c.taught]))
    ends = [int(size) for size in dict.fromkeys((sizes[0], sizes[-1]))]
    lines = [_describe_leader(table, curves, size, average) for size in ends]
    lines += _describe_crossings(crossed)
    num_seeds = table["num_seeds"][table["train_size"] > 0]
    few, many = int(num_seeds.min()), int(num_seeds.max())
    seeds = f"{many}" if few == many else f"{few} to {many}"
    lines.append(
        "Intervals are 95 %, over test documents"
        + (f" and {seeds} seeds" if many > 1 else " alone: each arm has one seed")
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
    level = [row["approach"] for row in others if row[average] == best[average]]
    has = "has the highest" if others else "reaches a"
    sentence = (
        f"With {size:,} training documents **{best['approach']}** {has} {NAMES[average]}"
        f"{f', as {join(level)},' if level else ','} {format_f1(best[average])} "
        f"({format_f1(best[f'{average}_low'])} to {format_f1(best[f'{average}_high'])})"
    )
    behind = [
        f"{row['approach']} {format_f1(row[average])}"
        for row in others
        if row["approach"] not in level
    ]
    return sentence + (f", before {join(behind)}." if behind else ".")


def _describe_crossings(crossed: pd.DataFrame) -> list[str]:
    """A sentence for each certain crossing, and one for the pairs of which none is certain."""
    lines = []
    for row in crossed[crossed["certain"]].itertuples():
        low = f"{row.low:,.0f}" if row.low > 0 else "fewer than the fewest"
        high = f"{row.high:,.0f}" if np.isfinite(row.high) else "more than the most"
        lines.append(
            f"**{row.ahead}** overtakes {row.behind} at about {row.train_size:,.0f} training "
            f"documents ({low} to {high}; Holm-adjusted {format_p(row.p_holm)})."
        )
    unclear = crossed[~crossed["certain"] & crossed["train_size"].notna()]
    if len(unclear):
        pairs = [
            f"{row.ahead} and {row.behind} ({format_p(row.p_holm)})" for row in unclear.itertuples()
        ]
        lines.append(
            "No certain crossing, although the curves meet (Holm-adjusted p of at least "
            f"{ALPHA:g}): {join(pairs)}."
        )
    if len(crossed) and not lines:
        lines.append(
            "No two curves cross: of no pair does one approach lead with the fewest documents and "
            "the other with the most."
        )
    return lines
