"""What to pick: a recommendation by stated rules, and the study's answer in three sentences."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from lib.evaluation.intervals import ALPHA
from lib.evaluation.significance import distinguishable
from lib.report.wording import format_delta, format_f1, format_money, format_p, format_time, join

HEAD, PROMPT = "embedding", "instruction"  # the arms of the study's question
MARGIN = 0.05  # micro-F1 that one would mind losing (chosen here)
COST_FACTOR = 1.5  # what is less than so many times dearer counts as equally dear (chosen here)
NUM_DOCUMENTS = 10_000  # that a model is to classify after its training (chosen here)
# Dollars of an hour: of a CPU core, and of a GPU with the machine around it. Chosen here, in the
# range of what clouds ask: it decides between a CPU and a GPU alone.
PRICES = {"cpu": 0.05, "cuda": 2.0}

RULES = f"""\
- Two arms are **distinguishable** where the paired 95 % interval of their difference in micro-F1
  excludes zero and Holm's adjusted p is below {ALPHA:g}.
- **Clear winner**: the arm of the highest micro-F1, if it is distinguishable from every other.
- Otherwise it is tied with those from which it is not distinguishable. The tie says something
  about an arm only where a difference of {MARGIN:g} could have been found (minimum detectable
  difference, 80 % power at 5 %). **Too little data**: it says nothing about any of them.
- **Cheaper tie**: an arm costs the money of its seconds of training and of classifying
  {NUM_DOCUMENTS:,} documents, at {PRICES["cpu"]:g} dollars an hour of each CPU core that it was
  given, or {PRICES["cuda"]:g} dollars an hour of a GPU. Candidates are the tied arms that the tie
  says something about, and whose interval excludes that they lose more than {MARGIN:g}. Cheaper is
  one of which the best arm costs at least {COST_FACTOR:g} times as much. Of the cheaper ones that
  cost at most {COST_FACTOR:g} times what the cheapest costs, that of the highest micro-F1 is
  recommended, TF-IDF or a frozen embedding like any other. Where none is cheaper, and a candidate
  costs at least {COST_FACTOR:g} times what the best arm does, the best arm is recommended. An arm
  with a cost that is missing is not compared.
- **Tie**: none is clearly cheaper. Nothing is recommended, and never an arm with a micro-F1 of 0.
"""


def verdict(comparison: pd.DataFrame, pairwise: pd.DataFrame) -> dict[str, Any]:
    """The recommendation by `RULES`, of plain values: what goes into `recommendation.json`.

    Parameters
    ----------
    comparison
        A row per arm: `arm num_seeds micro_f1 micro_f1_low micro_f1_high`, and of its costs
        `train_seconds infer_docs_per_second device num_threads` (without the last: one thread).
    pairwise
        As `compare_all` returns it for every pair.

    Returns
    -------
    dict
        `kind` ("clear_winner", "cheaper_tie", "tie" or "too_little_data"); `arm`, the recommended
        one or None; `best`, that of the highest micro-F1; `reason`; `micro_f1` of each arm with
        `low` and `high`; `cost_seconds` and `cost_dollars` of each arm; `num_seeds`, the fewest and
        the most; `certain_against` and `not_distinguishable_from`, best minus each other arm;
        `head_or_prompt`, of `HEAD` and `PROMPT`, or None; `rules`, their thresholds. Numbers that
        are not known are None.

    Raises
    ------
    ValueError
        A pair is missing: of a study with a reference, see `conclude_effects`.
    """
    ranked = comparison.sort_values(["micro_f1", "arm"], ascending=[False, True]).set_index("arm")
    best, *others = ranked.index
    pairs = [_difference(pairwise, best, arm) for arm in others]
    certain = [pair for pair in pairs if pair["distinguishable"]]
    tied = [pair for pair in pairs if not pair["distinguishable"]]
    seconds = _seconds(ranked)
    dollars = _dollars(ranked, seconds)
    micro_f1 = {
        name: {"f1": _number(row.micro_f1), "low": _number(row.micro_f1_low),
               "high": _number(row.micro_f1_high)}
        for name, row in ranked.iterrows()
    }  # fmt: skip
    kind, arm, reason = _choose(micro_f1, pairs, tied, dollars)
    return {
        "kind": kind,
        "arm": arm,
        "reason": reason,
        "best": best,
        "micro_f1": micro_f1,
        "cost_seconds": {name: _number(cost) for name, cost in seconds.items()},
        "cost_dollars": {name: _number(cost) for name, cost in dollars.items()},
        "num_seeds": [int(ranked["num_seeds"].min()), int(ranked["num_seeds"].max())],
        "certain_against": certain,
        "not_distinguishable_from": tied,
        "head_or_prompt": _head_or_prompt(pairwise) if {HEAD, PROMPT} <= set(micro_f1) else None,
        "rules": {"alpha": ALPHA, "margin": MARGIN, "cost_factor": COST_FACTOR,
                  "num_documents": NUM_DOCUMENTS, "dollars_per_core_hour": PRICES["cpu"],
                  "dollars_per_gpu_hour": PRICES["cuda"]},
    }  # fmt: skip


def _choose(
    micro_f1: Mapping[str, Mapping], pairs: list[dict], tied: list[dict], dollars: pd.Series
) -> tuple[str, str | None, str]:
    """`kind`, `arm` and `reason` by `RULES`; arms in `micro_f1` from the best on."""
    best = next(iter(micro_f1))
    if not pairs:
        return "too_little_data", None, f"{best} alone has run: there is nothing to compare it with"
    if not micro_f1[best]["f1"]:
        return "tie", None, "no arm has got a single label right"
    if not tied:
        return "clear_winner", best, f"{best} is distinguishably better than every other arm"
    told = [pair for pair in tied if _findable(pair) <= MARGIN]
    if not told:
        return "too_little_data", None, _too_little(tied)
    loss = {p["arm"]: p["high"] for p in told if p["high"] is not None and p["high"] <= MARGIN}
    costs = dollars[[best, *loss]].dropna()
    if best not in costs or len(costs) < 2:
        return "tie", None, "none of the tied arms is known to be cheaper at little loss"
    cheaper = costs[(costs < costs[best]) & (COST_FACTOR * costs <= costs[best])]
    if len(cheaper):
        cheap = set(cheaper[cheaper <= COST_FACTOR * cheaper.min()].index)
        arm = next(arm for arm in micro_f1 if arm in cheap)
        lost = f"loses {format_f1(loss[arm])} at most (95 %)" if loss[arm] > 0 else "loses nothing"
        return "cheaper_tie", arm, (
            f"{arm} is not distinguishable from {best}, {lost} and costs "
            f"{_times(costs[best], costs[arm])}"
        )  # fmt: skip
    dearer = costs[(costs > costs[best]) & (costs >= COST_FACTOR * costs[best])]
    if len(dearer):
        than = "than" if costs[best] else "beside"
        less = [f"{_times(costs[best], cost)} {than} {arm}" for arm, cost in dearer.items()]
        return "cheaper_tie", best, (
            f"{best} has the highest micro-F1, no tied arm is known to be {COST_FACTOR:g} times "
            f"cheaper at little loss, and it costs {join(less)}"
        )  # fmt: skip
    return "tie", None, f"tied arms cost the same within a factor of {COST_FACTOR:g}"


def _too_little(tied: list[dict]) -> str:
    """The differences that would have been found, the least and the most."""
    needed = sorted(tied, key=_findable)
    first, last = _findable(needed[0]), _findable(needed[-1])
    remedy = f"and {MARGIN:g} would matter; more test documents or seeds would tell"
    if first >= 1:
        return f"no difference in micro-F1, however large, could be relied on to be found, {remedy}"
    most = f"{format_f1(last, MARGIN)} against" if last < 1 else "of any size against"
    most = f" ({most} {needed[-1]['arm']})" if len(needed) > 1 else ""
    return (
        f"a difference in micro-F1 below {format_f1(first, MARGIN)}{most} could hardly have been "
        f"found, {remedy}"
    )


def _findable(pair: Mapping[str, Any]) -> float:
    """The least difference that would have been found; 1, the largest there is, if none."""
    found = pair["min_detectable"]
    return 1.0 if found is None else min(found, 1.0)


def _number(value: float) -> float | None:
    """A plain number without the noise of rounding, None of what is missing or infinite."""
    return round(float(value), 12) if np.isfinite(value) else None


def _seconds(ranked: pd.DataFrame) -> pd.Series:
    """Seconds of training and of classifying `NUM_DOCUMENTS`; NaN where one was not measured."""
    speed, seconds = (ranked[x].astype(float) for x in ("infer_docs_per_second", "train_seconds"))
    seconds = seconds.where(seconds >= 0) + NUM_DOCUMENTS / speed.where(speed > 0)
    return seconds.where(np.isfinite(seconds))


def _dollars(ranked: pd.DataFrame, seconds: pd.Series) -> pd.Series:
    """Dollars of those seconds by `PRICES`; NaN where they are not known."""
    threads = ranked.get("num_threads", pd.Series(1, ranked.index)).astype(float)
    units = threads.where(threads > 0).where(ranked["device"] == "cpu", 1)
    return seconds / 3600 * units * ranked["device"].map(PRICES).astype(float)


def _head_or_prompt(pairwise: pd.DataFrame) -> dict[str, Any]:
    """The pair's difference, head minus prompt, and which of both is certain to be better."""
    pair = _difference(pairwise, HEAD, PROMPT)
    better = HEAD if (pair["delta"] or 0) > 0 else PROMPT
    names = {"head": HEAD, "prompt": PROMPT, "arm": better if pair["distinguishable"] else None}
    return names | {k: v for k, v in pair.items() if k not in ("arm", "distinguishable")}


def _difference(pairwise: pd.DataFrame, a: str, b: str) -> dict[str, Any]:
    """The pair's difference in micro-F1, turned so that it reads a minus b."""
    micro = pairwise[pairwise["metric"] == "micro_f1"]
    for x, y, sign in ((a, b, 1), (b, a, -1)):
        found = micro[(micro["arm_a"] == x) & (micro["arm_b"] == y)]
        if len(found):
            row = found.iloc[0]
            bounds = sorted((sign * row["low"], sign * row["high"]))
            low, high = map(_number, bounds)
            return {"arm": b, "delta": _number(sign * row["delta"]), "low": low, "high": high,
                    "p_holm": _number(row["p_holm"]), "test": row["test"],
                    "min_detectable": _number(row["min_detectable"]),
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
    level = [arm for arm, x in recommendation["micro_f1"].items() if arm != best and x == f1]
    over = f"{many} seeds" if few == many else f"{few} to {many} seeds"
    over = "one seed, so without the luck of training" if many == 1 else over
    has = (
        "has a micro-F1 of" if len(recommendation["micro_f1"]) == 1 else "has the highest micro-F1,"
    )
    parts = [
        f"**{best}** {has}{f' as {join(level)},' if level else ''} {format_f1(f1['f1'])} (95 % "
        f"interval {format_f1(f1['low'])} to {format_f1(f1['high'])}, over test documents and "
        f"{over})"
    ]
    if certain := recommendation["certain_against"]:
        parts.append(f"is distinguishably better than {_arms(certain)}")
    if tied := recommendation["not_distinguishable_from"]:
        parts.append(f"is **not distinguishable** from {_arms(tied)}")
    return join(parts) + "."


def _question(recommendation: dict[str, Any]) -> str:
    pair = recommendation["head_or_prompt"]
    if pair is None:
        return "Head against prompt: not both have run, so this study does not tell."
    low, high = (format_delta(pair[bound]) for bound in ("low", "high"))
    numbers = (
        f"{pair['head']} minus {pair['prompt']} {format_delta(pair['delta'])}, {low} to {high}, "
        f"Holm-adjusted {format_p(pair['p_holm'])}"
    )
    if pair["arm"]:
        side = "head" if pair["arm"] == pair["head"] else "prompt"
        return f"Head against prompt: the {side} is better ({numbers})."
    found = _findable(pair)
    found = (
        f"a true difference of {format_f1(found)} would have been found in four studies of five, "
        "were this the only pair"
        if found < 1
        else "no difference, however large, would have been found in four studies of five"
    )
    return f"Head against prompt: neither is shown to be better ({numbers}), where {found}."


def _pick(recommendation: dict[str, Any]) -> str:
    arm, reason = recommendation["arm"], recommendation["reason"]
    if arm is None:
        return f"No arm is recommended: {reason}."
    seconds, dollars = (recommendation[f"cost_{unit}"][arm] for unit in ("seconds", "dollars"))
    documents = f"{recommendation['rules']['num_documents']:,} documents"
    if seconds is None:
        return f"Pick **{arm}**: {reason}; what it costs was not measured."
    money = "" if dollars is None else f", {format_money(dollars)}"
    return (
        f"Pick **{arm}**: {reason}; training and classifying {documents} take "
        f"{format_time(seconds)}{money}."
    )


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
            arms = [f"{row.arm_a} ({format_delta(row.delta)})" for row in chosen.itertuples()]
            sentences.append(f"In micro-F1, {verb} **{reference}**: {join(arms)}.")
    unclear = micro[(micro["low"] <= 0) & (micro["high"] >= 0)]
    if len(unclear):
        found = unclear["min_detectable"].fillna(1).median()
        smaller = (
            f"differences below {format_f1(found)}" if found < 1 else "differences of any size"
        )
        sentences.append(
            f"The paired 95 % interval of {join(list(unclear['arm_a']))} includes zero: not "
            f"distinguishable from {reference} here; {smaller} (median) are found in fewer than "
            "four studies of five."
        )
    unknown = micro[micro[["low", "high"]].isna().any(axis=1)]
    if len(unknown):
        sentences.append(f"Of {join(list(unknown['arm_a']))} no interval is known.")
    firm = list(micro[distinguishable(micro)]["arm_a"]) or ["none"]
    changes = f"{len(micro)} changes" if len(micro) > 1 else "one change"
    sentences.append(
        f"Intervals are not adjusted: of {changes} without any effect, about "
        f"{ALPHA * len(micro):.2g} would be expected to exclude zero. Distinguishable by interval "
        f"and Holm-adjusted test: {join(firm)}."
    )
    return " ".join(sentences)


def _arms(pairs: list[dict[str, Any]]) -> str:
    deltas = ["no difference" if p["delta"] == 0 else format_delta(p["delta"]) for p in pairs]
    return join([f"{pair['arm']} ({delta})" for pair, delta in zip(pairs, deltas, strict=True)])


def _times(dear: float, cheap: float) -> str:
    """The ratio of two costs in words, in either order."""
    dear, cheap = max(dear, cheap), min(dear, cheap)
    if cheap == 0:
        return "next to nothing"
    ratio = dear / cheap
    return f"{ratio:.1f} times less" if ratio < 10 else f"{ratio:,.0f} times less"
