"""What to pick: a recommendation by stated rules, and the study's answer in three sentences."""

from typing import Any

import numpy as np
import pandas as pd

from lib.intervals import ALPHA
from lib.significance import distinguishable
from lib.wording import format_p

HEAD, PROMPT = "embedding", "instruction"  # the arms of the study's question
MARGIN = 0.05  # micro-F1 that one would mind losing (chosen here)
COST_FACTOR = 1.5  # what is less than so many times dearer counts as equally dear (chosen here)
NUM_DOCUMENTS = 10_000  # that a model is to classify after its training (chosen here)

RULES = f"""\
- Two arms are **distinguishable** where the paired 95 % interval of their difference in micro-F1
  excludes zero and Holm's adjusted p is below {ALPHA:g}.
- **Clear winner**: the arm of the highest micro-F1, if it is distinguishable from every other.
- Otherwise it is tied with those from which it is not distinguishable. The tie says something
  about an arm only where a difference of {MARGIN:g} could have been found (minimum detectable
  difference, 80 % power at 5 %). **Too little data**: it says nothing about any of them.
- **Cheaper tie**: an arm costs seconds of training and of classifying {NUM_DOCUMENTS:,} documents.
  Of the tied arms that the tie says something about, and whose interval excludes that they lose
  more than {MARGIN:g}, those that cost at most {COST_FACTOR:g} times what the cheapest costs are
  cheap. The best of the cheap is recommended, TF-IDF or a frozen embedding like any other, if
  there are dearer ones. Costs that are missing or were measured on another kind of device than
  the best arm's are not compared.
- **Tie**: none is clearly cheaper. Nothing is recommended.
"""


def verdict(comparison: pd.DataFrame, pairwise: pd.DataFrame) -> dict[str, Any]:
    """The recommendation by `RULES`, of plain values: what goes into `recommendation.json`.

    Parameters
    ----------
    comparison
        A row per arm: `arm num_seeds micro_f1 micro_f1_low micro_f1_high`, and of its costs
        `train_seconds infer_docs_per_second device`.
    pairwise
        As `compare_all` returns it for every pair.

    Returns
    -------
    dict
        `kind` ("clear_winner", "cheaper_tie", "tie" or "too_little_data"); `arm`, the recommended
        one or None; `best`, that of the highest micro-F1; `reason`; `micro_f1` of each arm with
        `low` and `high`; `cost_seconds` of each arm or None; `num_seeds`, the fewest and the most;
        `certain_against` and `not_distinguishable_from`, best minus each other arm;
        `head_or_prompt`, of `HEAD` and `PROMPT`, or None; `rules`, their thresholds.

    Raises
    ------
    ValueError
        A pair is missing: of a study with a reference, see `conclude_effects`.
    """
    ranked = comparison.sort_values("micro_f1", ascending=False, kind="stable").set_index("arm")
    best, *others = ranked.index
    pairs = [_difference(pairwise, best, arm) for arm in others]
    certain = [pair for pair in pairs if pair["distinguishable"]]
    tied = [pair for pair in pairs if not pair["distinguishable"]]
    costs = _costs(ranked)
    kind, arm, reason = _choose(best, pairs, tied, ranked, costs)
    both = {HEAD, PROMPT} <= set(ranked.index)
    return {
        "kind": kind,
        "arm": arm,
        "reason": reason,
        "best": best,
        "micro_f1": {
            name: {"f1": float(row.micro_f1), "low": float(row.micro_f1_low),
                   "high": float(row.micro_f1_high)}
            for name, row in ranked.iterrows()
        },
        "cost_seconds": {name: None if np.isnan(c) else float(c) for name, c in costs.items()},
        "num_seeds": [int(ranked["num_seeds"].min()), int(ranked["num_seeds"].max())],
        "certain_against": certain,
        "not_distinguishable_from": tied,
        "head_or_prompt": _head_or_prompt(pairwise) if both else None,
        "rules": {"alpha": ALPHA, "margin": MARGIN, "cost_factor": COST_FACTOR,
                  "num_documents": NUM_DOCUMENTS},
    }  # fmt: skip


def _choose(
    best: str, pairs: list[dict], tied: list[dict], ranked: pd.DataFrame, costs: pd.Series
) -> tuple[str, str | None, str]:
    """`kind`, `arm` and `reason` by `RULES`."""
    if not pairs:
        return "too_little_data", None, f"{best} alone has run: there is nothing to compare it with"
    if not tied:
        return "clear_winner", best, f"{best} is distinguishably better than every other arm"
    told = [pair for pair in tied if pair["min_detectable"] <= MARGIN]
    if not told:
        needed = sorted(tied, key=lambda pair: pair["min_detectable"])
        first, last = (pair["min_detectable"] for pair in (needed[0], needed[-1]))
        most = f" ({last:.3f} against {needed[-1]['arm']})" if len(needed) > 1 else ""
        return "too_little_data", None, (
            f"a difference in micro-F1 below {first:.3f}{most} could hardly have been found, and "
            f"{MARGIN:g} would matter; more test documents or seeds would tell"
        )  # fmt: skip
    safe = [best, *(pair["arm"] for pair in told if pair["high"] <= MARGIN)]
    comparable = costs[safe][ranked.loc[safe, "device"] == ranked.loc[best, "device"]].dropna()
    if best not in comparable or len(comparable) < 2:
        return "tie", None, "none of the tied arms is known to be cheaper at little loss"
    cheap = comparable[comparable <= COST_FACTOR * comparable.min()]
    if len(cheap) == len(comparable):
        return "tie", None, f"tied arms cost the same within a factor of {COST_FACTOR:g}"
    arm = ranked.loc[list(cheap.index), "micro_f1"].idxmax()
    if arm == best:
        return "cheaper_tie", best, f"{best} has the highest micro-F1 and tied arms cost more"
    loss = next(pair["high"] for pair in told if pair["arm"] == arm)
    return "cheaper_tie", arm, (
        f"{arm} is not distinguishable from {best}, loses {max(loss, 0):.3f} at most (95 %) and "
        f"costs {_times(costs[best] / costs[arm])} less"
    )  # fmt: skip


def _costs(ranked: pd.DataFrame) -> pd.Series:
    """Seconds of training and of classifying `NUM_DOCUMENTS`; NaN where one was not measured."""
    speed = ranked["infer_docs_per_second"].astype(float)
    seconds = ranked["train_seconds"].astype(float) + NUM_DOCUMENTS / speed.where(speed > 0)
    return seconds


def _head_or_prompt(pairwise: pd.DataFrame) -> dict[str, Any]:
    """The pair's difference, head minus prompt, and which of both is certain to be better."""
    pair = _difference(pairwise, HEAD, PROMPT)
    better = HEAD if pair["delta"] > 0 else PROMPT
    names = {"head": HEAD, "prompt": PROMPT, "arm": better if pair["distinguishable"] else None}
    return names | {k: v for k, v in pair.items() if k not in ("arm", "distinguishable")}


def _difference(pairwise: pd.DataFrame, a: str, b: str) -> dict[str, Any]:
    """The pair's difference in micro-F1, turned so that it reads a minus b."""
    micro = pairwise[pairwise["metric"] == "micro_f1"]
    for x, y, sign in ((a, b, 1), (b, a, -1)):
        found = micro[(micro["arm_a"] == x) & (micro["arm_b"] == y)]
        if len(found):
            row = found.iloc[0]
            low, high = sorted((float(sign * row["low"]), float(sign * row["high"])))
            return {"arm": b, "delta": float(sign * row["delta"]), "low": low, "high": high,
                    "p_holm": float(row["p_holm"]), "test": row["test"],
                    "min_detectable": float(row["min_detectable"]),
                    "distinguishable": bool(distinguishable(row))}  # fmt: skip
    raise ValueError(
        f'pairwise: no row for {a!r} and {b!r}; compare every pair (reference: ""), or read a '
        "study with a reference by conclude_effects"
    )


def three_sentences(recommendation: dict[str, Any]) -> str:
    """The answer in three sentences of Markdown: what is best, head or prompt, and what to pick."""
    return " ".join([_best(recommendation), _question(recommendation), _pick(recommendation)])


def _best(recommendation: dict[str, Any]) -> str:
    best, (few, many) = recommendation["best"], recommendation["num_seeds"]
    f1 = recommendation["micro_f1"][best]
    over = f"{many} seeds" if few == many else f"{few} to {many} seeds"
    over = "one seed, so without the luck of training" if many == 1 else over
    parts = [
        f"**{best}** has the highest micro-F1, {f1['f1']:.3f} (95 % interval {f1['low']:.3f} to "
        f"{f1['high']:.3f}, over test documents and {over})"
    ]
    if certain := recommendation["certain_against"]:
        parts.append(f"is distinguishably better than {_arms(certain)}")
    if tied := recommendation["not_distinguishable_from"]:
        parts.append(f"is **not distinguishable** from {_arms(tied)}")
    return _join(parts) + "."


def _question(recommendation: dict[str, Any]) -> str:
    pair = recommendation["head_or_prompt"]
    if pair is None:
        return "Head against prompt: not both have run, so this study does not tell."
    numbers = (
        f"{pair['head']} minus {pair['prompt']} {pair['delta']:+.3f}, {pair['low']:+.3f} to "
        f"{pair['high']:+.3f}, Holm-adjusted {format_p(pair['p_holm'])}"
    )
    if pair["arm"]:
        side = "head" if pair["arm"] == pair["head"] else "prompt"
        return f"Head against prompt: the {side} is better ({numbers})."
    return (
        f"Head against prompt: neither is shown to be better ({numbers}), where a true difference "
        f"of {pair['min_detectable']:.3f} would have been found in four studies of five, were this "
        "the only pair."
    )


def _pick(recommendation: dict[str, Any]) -> str:
    arm, reason = recommendation["arm"], recommendation["reason"]
    if arm is None:
        return f"No arm is recommended: {reason}."
    cost = recommendation["cost_seconds"][arm]
    documents = f"{recommendation['rules']['num_documents']:,} documents"
    if cost is None:
        return f"Pick **{arm}**: {reason}; what it costs was not measured."
    return f"Pick **{arm}**: {reason}; training and classifying {documents} take {_time(cost)}."


def conclude_effects(pairwise: pd.DataFrame, reference: str) -> str:
    """A paragraph, in Markdown, on which arms differ from the reference in micro-F1.

    Parameters
    ----------
    pairwise
        As `compare_all` returns it with a `reference`.
    """
    micro = pairwise[pairwise["metric"] == "micro_f1"].sort_values("delta", ascending=False)
    if micro.empty:
        return f"{reference} alone has run: there is nothing to compare it with."
    sentences = []
    for verb, chosen in (
        ("above", micro[micro["low"] > 0]),
        ("below", micro[micro["high"] < 0].iloc[::-1]),
    ):
        if len(chosen):
            arms = [f"{row.arm_a} ({row.delta:+.3f})" for row in chosen.itertuples()]
            sentences.append(f"In micro-F1, {verb} **{reference}**: {_join(arms)}.")
    unclear = micro[(micro["low"] <= 0) & (micro["high"] >= 0)]
    if len(unclear):
        sentences.append(
            f"The paired 95 % interval of {_join(list(unclear['arm_a']))} includes zero: not "
            f"distinguishable from {reference} here; differences below "
            f"{unclear['min_detectable'].median():.3f} (median) are found in fewer than four "
            "studies of five."
        )
    firm = list(micro[distinguishable(micro)]["arm_a"]) or ["none"]
    sentences.append(
        f"Intervals are not adjusted: of {len(micro)} changes without any effect, about "
        f"{ALPHA * len(micro):.1f} would be expected to exclude zero. Distinguishable by interval "
        f"and Holm-adjusted test: {_join(firm)}."
    )
    return " ".join(sentences)


def _arms(pairs: list[dict[str, Any]]) -> str:
    return _join([f"{pair['arm']} ({pair['delta']:+.3f})" for pair in pairs])


def _times(ratio: float) -> str:
    return f"{ratio:.1f} times" if ratio < 10 else f"{ratio:,.0f} times"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _join(items: list[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
