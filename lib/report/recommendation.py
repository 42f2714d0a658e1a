"""The arm to pick: a recommendation by rules, which `sentences.RULES` states.

Limits without a source are our choices.
"""

from collections.abc import Mapping
from itertools import permutations
from typing import Any

import numpy as np
import pandas as pd

from lib.evaluation.intervals import ALPHA
from lib.evaluation.significance import distinguishable
from lib.report.sentences import describe_rules, give_reason
from lib.report.wording import format_saving

HEAD, PROMPT = QUESTION = ("embedding", "instruction")  # the arms of the study's question
MARGIN = 0.05  # the least loss in micro-F1 that matters to a user
COST_FACTOR = 1.5  # costs within this factor of each other count as equal
NUM_DOCUMENTS = 10_000  # documents that a model is to classify after its training
# Dollars per hour of a CPU core, and of a GPU with the machine around it, in the range of clouds'
# prices. Between arms on the same kind of device they cancel out.
PRICES = {"cpu": 0.05, "cuda": 2.0}
THRESHOLDS = {
    "alpha": ALPHA, "margin": MARGIN, "cost_factor": COST_FACTOR, "num_documents": NUM_DOCUMENTS,
    "dollars_per_core_hour": PRICES["cpu"], "dollars_per_gpu_hour": PRICES["cuda"],
}  # fmt: skip
RULES = describe_rules(THRESHOLDS)


def recommend(
    comparison: pd.DataFrame, pairwise: pd.DataFrame, names: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """The recommendation by `RULES`, in plain values: the content of `recommendation.json`.

    Parameters
    ----------
    comparison
        A row per arm: `arm num_seeds micro_f1 micro_f1_low micro_f1_high`, and for its costs
        `train_seconds infer_docs_per_second device num_threads num_processes`. The last two are 1
        if they are missing.
    pairwise
        The table of `compare_all` for every pair.
    names
        The arms' names in `reason`; None: their keys.

    Returns
    -------
    dict
        `kind`: "clear_winner", "cheaper_tie", "tie" or "too_little_data"; `arm`, the recommended
        one or None; `reason`, in words; `best`, the arm of the highest micro-F1. By arm: `micro_f1`
        (`f1 low high`), `cost_seconds` and `cost_dollars` of training and of classifying
        `NUM_DOCUMENTS`, `num_seeds`. Lists of `difference`, best minus each other arm:
        `certain_against` and `not_distinguishable_from`. `head_or_prompt`: the same of `HEAD` minus
        `PROMPT`, None unless both have run. `rules`: `THRESHOLDS`. Numbers that are not known are
        None.

    Raises
    ------
    ValueError
        A pair is missing, as in a study that compares with a reference alone; for that see
        `sentences.conclude_effects`.
    """
    # Arms from the best on, and the differences of the best arm to all others
    ranked = comparison.sort_values(["micro_f1", "arm"], ascending=[False, True]).set_index("arm")
    best, *others = ranked.index
    pairs = [difference(pairwise, best, arm) for arm in others]
    beaten = {b for a, b in permutations(others, 2) if _wins(difference(pairwise, a, b))}
    # Scores and costs of each arm
    columns = {"micro_f1": "f1", "micro_f1_low": "low", "micro_f1_high": "high"}
    f1 = ranked[list(columns)].rename(columns=columns).map(_number)
    micro_f1 = f1.astype(object).where(f1.notna(), None).to_dict("index")
    seconds = _seconds(ranked)
    dollars = _dollars(ranked, seconds)
    names = names or {arm: arm for arm in micro_f1}
    kind, arm, reason = _choose(micro_f1, pairs, beaten, dollars, names)
    return {
        "kind": kind,
        "arm": arm,
        "reason": reason,
        "best": best,
        "micro_f1": micro_f1,
        "cost_seconds": {name: _number(cost) for name, cost in seconds.items()},
        "cost_dollars": {name: _number(cost) for name, cost in dollars.items()},
        "num_seeds": ranked["num_seeds"].astype(int).to_dict(),
        "certain_against": [pair for pair in pairs if pair["distinguishable"]],
        "not_distinguishable_from": [pair for pair in pairs if not pair["distinguishable"]],
        "head_or_prompt": _head_or_prompt(pairwise) if {*QUESTION} <= set(micro_f1) else None,
        "rules": THRESHOLDS,
    }


def _choose(
    micro_f1: Mapping[str, Mapping],
    pairs: list[dict],
    beaten: set[str],
    dollars: pd.Series,
    names: Mapping[str, str],
) -> tuple[str, str | None, str]:
    """`kind`, `arm` and `reason` by `RULES`.

    `micro_f1` has the arms from the best on; `pairs` are the best minus each other arm; `beaten`
    are the arms than which another arm is distinguishably better; `dollars` are costs by arm.
    """
    best = next(iter(micro_f1))
    tied = [pair for pair in pairs if not pair["distinguishable"]]
    # Decided by F1 alone
    if not pairs:
        return "too_little_data", None, give_reason("alone", best=names[best])
    if not micro_f1[best]["f1"]:
        return "tie", None, give_reason("nothing right")
    if micro_f1[best]["f1"] < MARGIN:
        return "tie", None, give_reason("hardly right", best=names[best], margin=MARGIN)
    if not tied:
        return "clear_winner", best, give_reason("clear winner", best=names[best])
    informative = [pair for pair in tied if _detectable(pair) <= MARGIN]
    if not informative:
        return "too_little_data", None, _too_little(tied, names)
    # Tied arms that lose little, and what they cost beside the best
    bounded = [pair for pair in informative if pair["high"] is not None and pair["high"] <= MARGIN]
    useful = {arm for arm, score in micro_f1.items() if score["f1"]} - beaten
    loss = {pair["arm"]: pair["high"] for pair in bounded if pair["arm"] in useful}
    costs = dollars[[best, *loss]].dropna()
    if best not in costs or len(costs) < 2:
        return "tie", None, give_reason("costs unknown")
    # The best of the arms that are about as cheap as the cheapest
    cheaper = costs[(costs < costs[best]) & (COST_FACTOR * costs <= costs[best])]
    if len(cheaper):
        cheap = set(cheaper[cheaper <= COST_FACTOR * cheaper.min()].index)
        arm = next(arm for arm in micro_f1 if arm in cheap)
        saving = format_saving(costs[best], costs[arm])
        facts = {"best": names[best], "loss": loss[arm], "saving": saving}
        return "cheaper_tie", arm, give_reason("cheaper", arm=names[arm], **facts)
    # The best itself, if it is cheap beside another
    dearer = costs[(costs > costs[best]) & (costs >= COST_FACTOR * costs[best])]
    if len(dearer):
        than = "than" if costs[best] else "beside"
        savings = [
            f"{format_saving(costs[best], cost)} {than} {names[x]}" for x, cost in dearer.items()
        ]
        facts = {"best": names[best], "factor": COST_FACTOR, "savings": savings}
        return "cheaper_tie", best, give_reason("dearer", **facts)
    return "tie", None, give_reason("equal costs", factor=COST_FACTOR)


def _too_little(tied: list[dict], names: Mapping[str, str]) -> str:
    """The reason "too little data": the least and the largest difference that would be found."""
    ranked = sorted(tied, key=_detectable)
    facts = {"least": _detectable(ranked[0]), "most": _detectable(ranked[-1]), "margin": MARGIN}
    facts |= {"several": len(ranked) > 1, "arm": names[ranked[-1]["arm"]]}
    return give_reason("too little data", **facts)


def _detectable(pair: Mapping[str, Any]) -> float:
    """The least difference that would have been found; 1, the largest there is, if none."""
    return 1.0 if pair["min_detectable"] is None else min(pair["min_detectable"], 1.0)


def _number(value: float) -> float | None:
    """A plain number, rounded to 12 decimals; None for one that is missing or infinite."""
    return round(float(value), 12) if np.isfinite(value) else None


def _seconds(ranked: pd.DataFrame) -> pd.Series:
    """Seconds of training and of classifying `NUM_DOCUMENTS`; NaN where one was not measured."""
    speed, seconds = (ranked[x].astype(float) for x in ("infer_docs_per_second", "train_seconds"))
    seconds = seconds.where(seconds >= 0) + NUM_DOCUMENTS / speed.where(speed > 0)
    return seconds.where(np.isfinite(seconds))


def _dollars(ranked: pd.DataFrame, seconds: pd.Series) -> pd.Series:
    """Dollars, by `PRICES`, of the seconds that `_seconds` returns; NaN where not known."""
    threads = ranked.get("num_threads", pd.Series(1, ranked.index)).astype(float)
    on_cpu = ranked["device"] == "cpu"
    gpus = ranked.get("num_processes", pd.Series(1, ranked.index)).where(~on_cpu, 1).astype(float)
    seconds = seconds + (gpus - 1) * ranked["train_seconds"].astype(float)  # one GPU classifies
    units = threads.where(threads > 0).where(on_cpu, 1)
    return seconds / 3600 * units * ranked["device"].map(PRICES).astype(float)


def _head_or_prompt(pairwise: pd.DataFrame) -> dict[str, Any]:
    """The difference, head minus prompt, and `arm`, the one that is distinguishably better."""
    pair = difference(pairwise, HEAD, PROMPT)
    better = HEAD if (pair["delta"] or 0) > 0 else PROMPT
    names = {"head": HEAD, "prompt": PROMPT, "arm": better if pair["distinguishable"] else None}
    return names | {k: v for k, v in pair.items() if k not in ("arm", "distinguishable")}


def _wins(pair: Mapping[str, Any]) -> bool:
    """True if the first arm of a `difference` is distinguishably better."""
    return pair["distinguishable"] and pair["delta"] > 0


def difference(pairwise: pd.DataFrame, a: str, b: str) -> dict[str, Any]:
    """The difference in micro-F1, a minus b, in whichever order `pairwise` has the pair.

    `arm` is b; `delta low high p_holm test min_detectable` are those of `compare_all`;
    `distinguishable` is true where the difference is certain. Raises `ValueError` if the pair is
    missing.
    """
    micro = pairwise[pairwise["metric"] == "micro_f1"]
    for x, y, sign in ((a, b, 1), (b, a, -1)):
        found = micro[(micro["arm_a"] == x) & (micro["arm_b"] == y)]
        if len(found):
            row = found.iloc[0]
            low, high = map(_number, sorted((sign * row["low"], sign * row["high"])))
            return {"arm": b, "delta": _number(sign * row["delta"]), "low": low, "high": high,
                    "p_holm": _number(row["p_holm"]), "test": row["test"],
                    "min_detectable": _number(row["min_detectable"]),
                    "distinguishable": bool(distinguishable(row))}  # fmt: skip
    raise ValueError(
        f'pairwise: no row for {a!r} and {b!r}; compare every pair (reference: ""), or read a '
        "study with a reference by conclude_effects"
    )
