import json
import math
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.evaluation.significance import compare_all
from lib.report import RULES, conclude_effects, recommend, three_sentences, verdict
from lib.report.recommendation import (
    COST_FACTOR,
    MARGIN,
    NUM_DOCUMENTS,
    PRICES,
)


def arms(num_threads=2, **rows):
    """A comparison of arms, each (micro-F1, seconds of training, documents/s, device)."""
    columns = ["micro_f1", "train_seconds", "infer_docs_per_second", "device"]
    table = pd.DataFrame(rows, index=columns).T.rename_axis("arm").reset_index()
    table[columns[:3]] = table[columns[:3]].astype(float)
    half = 0.01
    return table.assign(
        num_seeds=1,
        num_threads=num_threads,
        micro_f1_low=(table.micro_f1 - half).clip(0),
        micro_f1_high=(table.micro_f1 + half).clip(None, 1),
    )


def differences(comparison, standard_error=0.005, reference=None):
    """Pairs whose paired difference has this standard error, a row for each average."""
    f1 = comparison.set_index("arm")["micro_f1"]
    pairs = [(a, b) for i, a in enumerate(f1.index) for b in f1.index[i + 1 :]]
    if reference:
        pairs = [(a, reference) for a in f1.index if a != reference]
    half = 1.96 * standard_error
    rows = [
        {"arm_a": a, "arm_b": b, "metric": metric, "delta": f1[a] - f1[b],
         "low": f1[a] - f1[b] - half, "high": f1[a] - f1[b] + half,
         "p_holm": 0.001 if abs(f1[a] - f1[b]) > 3 * standard_error else 0.4,
         "test": "randomization", "min_detectable": 2.8 * standard_error}
        for a, b in pairs for metric in ("macro_f1", "micro_f1")
    ]  # fmt: skip
    return pd.DataFrame(rows)


def judge(comparison, standard_error=0.005):
    judged = recommend(comparison, differences(comparison, standard_error))
    assert json.loads(json.dumps(judged)) == judged  # recommendation.json reads back
    text = three_sentences(judged)
    assert len(re.findall(r"\.(?=\n- [A-Z*]|$)", text)) == 3, text
    sentence = verdict.give_verdict(judged, {arm: arm for arm in comparison["arm"]})
    assert len(re.findall(r"\.(?= |$)", sentence)) == 1, sentence
    assert ("Use **" in sentence) == (judged["arm"] is not None)
    assert judged["arm"] is None or f"Use **{judged['arm']}**: " in sentence
    return judged, text


DEAR, CHEAP = (400, 40, "cpu"), (3, 9000, "cpu")


def test_a_clear_winner_is_picked_whatever_it_costs():
    judged, text = judge(
        arms(embedding=(0.90, *DEAR), instruction=(0.84, *DEAR), tfidf=(0.80, *CHEAP))
    )
    assert (judged["kind"], judged["arm"]) == ("clear_winner", "embedding")
    assert [pair["arm"] for pair in judged["certain_against"]] == ["instruction", "tfidf"]
    assert judged["not_distinguishable_from"] == []
    assert judged["head_or_prompt"]["arm"] == "embedding"
    assert "**embedding** has the highest micro-F1, 0.900 (95 % interval 0.890 to 0.910" in text
    assert "the head is better (embedding minus instruction +0.060" in text
    assert "Pick **embedding**" in text
    assert "10,000 documents take 11 min" in text  # 400 s + 10,000 / 40 s


def test_the_prompt_can_win_and_differences_read_head_minus_prompt():
    judged, text = judge(arms(instruction=(0.90, *DEAR), embedding=(0.84, *DEAR)))
    assert judged["head_or_prompt"]["arm"] == "instruction"
    assert judged["head_or_prompt"]["delta"] == pytest.approx(-0.06)
    assert judged["head_or_prompt"]["low"] < judged["head_or_prompt"]["high"] < 0
    assert "the prompt is better (embedding minus instruction -0.060, -0.070 to -0.050" in text


@pytest.mark.parametrize("arm", ["tfidf", "frozen"])
def test_of_tied_arms_the_far_cheaper_one_is_picked(arm):
    judged, text = judge(arms(embedding=(0.90, *DEAR), **{arm: (0.895, *CHEAP)}))
    assert (judged["kind"], judged["arm"]) == ("cheaper_tie", arm)
    assert judged["cost_seconds"] == {"embedding": 650, arm: pytest.approx(3 + 10 / 9)}
    assert f"Pick **{arm}**: {arm} is not distinguishable from embedding" in text
    assert "loses 0.015 at most (95 %) and costs 158 times less" in text


def test_of_cheap_tied_arms_the_better_one_is_picked():
    table = arms(embedding=(0.90, *DEAR), a=(0.896, 30, 1000, "cpu"), b=(0.894, 25, 1000, "cpu"))
    judged, _ = judge(table)
    assert (judged["kind"], judged["arm"]) == ("cheaper_tie", "a")


def test_the_best_is_picked_where_it_is_cheap_as_well():
    judged, text = judge(arms(tfidf=(0.90, *CHEAP), embedding=(0.895, *DEAR)))
    assert (judged["kind"], judged["arm"]) == ("cheaper_tie", "tfidf")
    assert "no tied arm is known to be 1.5 times cheaper at little loss, and it costs 158" in text
    assert "costs 158 times less than embedding; training" in text


def test_a_tie_of_equally_dear_arms_recommends_nothing_and_quantifies_itself():
    judged, text = judge(arms(embedding=(0.90, *DEAR), instruction=(0.895, 500, 40, "cpu")))
    assert (judged["kind"], judged["arm"]) == ("tie", None)
    assert judged["head_or_prompt"]["arm"] is None
    assert "is **not distinguishable** from instruction (+0.005)" in text
    assert "neither is shown to be better" in text
    assert "a true difference of 0.014 would have been found in four studies of five" in text
    assert "No arm is recommended: tied arms cost the same within a factor of 1.5" in text


def test_too_little_data_recommends_nothing_however_cheap():
    judged, text = judge(arms(embedding=(0.90, *DEAR), tfidf=(0.88, *CHEAP)), standard_error=0.03)
    assert (judged["kind"], judged["arm"]) == ("too_little_data", None)
    assert "a difference in micro-F1 below 0.084 could hardly have been found" in text


def test_too_little_data_tells_the_least_and_the_most_that_would_have_been_found():
    pairwise = differences(table := arms(a=(0.9, *DEAR), b=(0.88, *DEAR), c=(0.87, *CHEAP)), 0.03)
    pairwise.loc[pairwise["arm_b"] == "c", "min_detectable"] = 0.2
    reason = recommend(table, pairwise)["reason"]
    assert "below 0.084 (0.200 against c) could hardly have been found" in reason


def test_a_cheap_arm_that_may_lose_much_is_not_picked():
    """Tied because of its interval alone, which reaches a loss above the margin."""
    judged, _ = judge(arms(embedding=(0.90, *DEAR), tfidf=(0.87, *CHEAP)), standard_error=0.0175)
    assert judged["not_distinguishable_from"][0]["high"] > MARGIN
    assert (judged["kind"], judged["arm"]) == ("tie", None)


def test_a_cheap_arm_with_far_too_low_f1_is_not_picked():
    table = arms(embedding=(0.90, *DEAR), instruction=(0.897, *DEAR), zero_shot=(0.1, *CHEAP))
    judged, _ = judge(table)
    assert (judged["kind"], judged["arm"]) == ("tie", None)


def test_costs_that_are_missing_are_not_compared():
    gpu = (100, 400, "cuda")
    for cheap in ((np.nan, 9000, "cuda"), (1, np.nan, "cuda"), (1, 0, "cuda"), (-1, 1, "cuda"),
                  (np.inf, 9000, "cuda"), (1, 9000, "abacus"), (1, 9000, None)):  # fmt: skip
        judged, text = judge(arms(embedding=(0.90, *gpu), tfidf=(0.897, *cheap)))
        assert (judged["kind"], judged["arm"]) == ("tie", None)
        assert judged["cost_dollars"]["tfidf"] is None
        assert "none of the tied arms is known to be cheaper" in text
    table = arms(embedding=(0.90, *gpu), tfidf=(0.897, np.nan, 1, "cpu"),
                 encoder=(0.896, 10, 4000, "cuda"))  # fmt: skip
    assert judge(table)[0]["arm"] == "encoder"  # one unknown cost hides no other's


def test_arms_on_a_gpu_and_on_a_cpu_are_compared_by_what_they_cost():
    """An hour of a GPU costs what an hour of forty CPU cores does."""
    gpu = (100, 400, "cuda")  # 125 s of a GPU
    judged, text = judge(arms(embedding=(0.90, *gpu), tfidf=(0.897, *CHEAP)))
    assert (judged["kind"], judged["arm"]) == ("cheaper_tie", "tfidf")
    assert judged["cost_dollars"]["embedding"] == pytest.approx(125 / 3600 * 2)
    assert judged["cost_dollars"]["tfidf"] == pytest.approx((3 + 10 / 9) / 3600 * 2 * 0.05)
    assert "costs 608 times less" in text
    cores = {"num_threads": [8, 64]}  # an hour of 64 cores costs more than one of a GPU
    slow = (400, 40, "cpu")
    judged, _ = judge(arms(embedding=(0.90, *gpu), encoder=(0.897, *slow), **cores))
    assert (judged["kind"], judged["arm"]) == ("cheaper_tie", "embedding")
    judged, _ = judge(arms(embedding=(0.90, *slow), encoder=(0.897, *gpu), num_threads=[64, 8]))
    assert (judged["kind"], judged["arm"]) == ("cheaper_tie", "encoder")


def test_a_core_more_costs_more():
    table = arms(a=(0.90, *DEAR), b=(0.897, *DEAR), num_threads=[4, 2])
    assert judge(table)[0]["arm"] == "b"
    assert judge(table.drop(columns="num_threads"))[0]["arm"] is None


def test_what_costs_nothing_is_said_to_cost_next_to_nothing():
    judged, text = judge(arms(a=(0.90, *DEAR), b=(0.897, 0, np.inf, "cpu")))
    assert judged["arm"] == "b"
    assert (
        "costs next to nothing; training and classifying 10,000 documents take less than a" in text
    )
    judged, text = judge(arms(a=(0.90, 0, np.inf, "cpu"), b=(0.897, 0, np.inf, "cpu")))
    assert (judged["kind"], judged["arm"]) == ("tie", None)


def test_the_recommended_arm_is_cheaper_than_the_best_by_the_factor():
    """Cheap beside the cheapest, but as dear as the best: not for its price."""
    table = arms(best=(0.90, 100, 1e9, "cpu"), near=(0.899, 80, 1e9, "cpu"),
                 cheap=(0.898, 55, 1e9, "cpu"))  # fmt: skip
    judged, text = judge(table)
    assert judged["arm"] == "cheap"
    assert "costs 1.8 times less" in text
    table["train_seconds"] = [100.0, 80.0, 140.0]
    judged, text = judge(table)
    assert (judged["kind"], judged["arm"]) == ("tie", None)
    assert "tied arms cost the same within a factor of 1.5" in text


def test_an_arm_is_not_recommended_that_another_one_beats():
    """Level with the best by a wider interval, and certainly below the second."""
    table = arms(best=(0.80, *DEAR), second=(0.795, *DEAR), cheap=(0.775, *CHEAP))
    pairwise = differences(table, 0.012).assign(min_detectable=0.03)
    assert recommend(table, pairwise)["arm"] == "cheap"
    clear = (pairwise["arm_a"] == "second") & (pairwise["arm_b"] == "cheap")
    pairwise.loc[clear, ["low", "p_holm"]] = [0.004, 0.01]
    judged = recommend(table, pairwise)
    assert (judged["kind"], judged["arm"]) == ("tie", None)


def test_several_gpus_cost_as_much_as_they_are():
    table = arms(one=(0.90, 3600, 1e9, "cuda"), four=(0.90, 1800, 1e9, "cuda"))
    table["num_processes"] = [1, 4]
    costs = recommend(table, differences(table))["cost_dollars"]
    assert costs["four"] == pytest.approx(2 * costs["one"], rel=1e-3)


def ruled(table, pairwise):
    """`kind` and `arm` as `RULES` say it, written a second time."""
    f1, table = table.set_index("arm")["micro_f1"], table.set_index("arm")
    best = f1.index[0]
    micro = pairwise[(pairwise["metric"] == "micro_f1") & (pairwise["arm_a"] == best)]
    tied = [row for row in micro.itertuples() if not (row.low * row.high > 0 and row.p_holm < 0.05)]
    if f1[best] < 0.05:
        return "tie", {None}
    if not tied:
        return "clear_winner", {best}
    told = [row for row in tied if row.min_detectable <= 0.05]
    if not told:
        return "too_little_data", {None}

    def dollars(arm):
        row = table.loc[arm]
        hour = 0.05 * row["num_threads"] if row["device"] == "cpu" else 2.0
        return (row["train_seconds"] + 10_000 / row["infer_docs_per_second"]) / 3600 * hour

    won = pairwise[(pairwise["metric"] == "micro_f1") & (pairwise["low"] * pairwise["high"] > 0)]
    won = won[won["p_holm"] < 0.05]
    beaten = {row.arm_b if row.delta > 0 else row.arm_a for row in won.itertuples()}
    costs = {row.arm_b: dollars(row.arm_b) for row in told if row.high <= 0.05}
    costs = {arm: cost for arm, cost in costs.items() if arm not in beaten}
    costs = {arm: cost for arm, cost in costs.items() if not math.isnan(cost)}
    dear = dollars(best)
    if any(dear >= 1.5 * cost for cost in costs.values()):
        cheaper = {arm: cost for arm, cost in costs.items() if dear >= 1.5 * cost}
        cheapest = min(cheaper.values())
        cheap = [arm for arm, cost in cheaper.items() if cost <= 1.5 * cheapest]
        return "cheaper_tie", {arm for arm in cheap if f1[arm] == max(f1[cheap])}
    if any(cost >= 1.5 * dear for cost in costs.values()):
        return "cheaper_tie", {best}
    return "tie", {None}


f1_values = st.sampled_from([0.0, 0.03, 0.7, 0.702, 0.704, 0.71, 0.74])
seconds = st.sampled_from([math.nan, 10.0, 14.0, 16.0, 20.0, 31.0, 1000.0])
devices = st.sampled_from([("cpu", 1), ("cpu", 8), ("cuda", 8)])
one_arm = st.tuples(f1_values, seconds, st.sampled_from([math.nan, 500.0, 1e6]), devices)
errors = st.sampled_from([0.002, 0.005, 0.015, 0.03])


@settings(max_examples=100)
@given(st.lists(one_arm, min_size=2, max_size=5), errors)
def test_every_recommendation_follows_the_rules_as_written(rows, standard_error):
    assert (MARGIN, COST_FACTOR, NUM_DOCUMENTS) == (0.05, 1.5, 10_000)
    assert PRICES == {"cpu": 0.05, "cuda": 2.0}
    rows = sorted(rows, key=lambda row: -row[0])
    table = arms(
        [threads for *_, (_, threads) in rows],
        **{"abcde"[i]: (*numbers, device) for i, (*numbers, (device, _)) in enumerate(rows)},
    )
    pairwise = differences(table, standard_error)
    judged = recommend(table, pairwise)
    kind, allowed = ruled(table, pairwise)
    assert judged["kind"] == kind
    assert judged["arm"] in allowed
    json.dumps(judged, allow_nan=False)
    text = three_sentences(judged)
    assert "nan" not in text.split()
    assert not re.search(r"[+-]0\.000\b", text)
    if kind == "cheaper_tie" and judged["arm"] != judged["best"]:
        costs = judged["cost_dollars"]
        assert costs[judged["best"]] >= COST_FACTOR * costs[judged["arm"]]
        assert float(re.search(r"costs ([\d.,]+) times", text)[1].replace(",", "")) >= COST_FACTOR


def answered(truth, share, seed=0):
    """(1, N, C) predictions of which the first so many are right."""
    right = np.arange(len(truth)) < round(share * len(truth))
    return np.where(right[:, None], truth, np.roll(truth, 1, axis=1))[None]


def judged_from(truth, preds, **costs):
    """Recommendation and sentences of predictions, all arms on one CPU."""
    f1 = {arm: float((p[0] & truth).sum() / len(truth)) for arm, p in preds.items()}
    rows = {arm: (f1[arm], *costs.get(arm, DEAR)) for arm in preds}
    table, pairwise = arms(**rows), compare_all(truth, preds, num_resamples=200)
    judged = recommend(table, pairwise)
    json.dumps(judged, allow_nan=False)
    return judged, three_sentences(judged) + "\n" + conclude_effects(pairwise, "the other")


def test_arms_that_are_all_wrong_are_not_recommended_however_cheap():
    truth = np.eye(3, dtype=bool)[np.arange(300) % 3]
    preds = {"embedding": answered(truth, 0), "tfidf": answered(truth, 0)}
    judged, text = judged_from(truth, preds, tfidf=CHEAP)
    assert (judged["kind"], judged["arm"]) == ("tie", None)
    assert "**embedding** has the highest micro-F1, as tfidf, 0.000" in text
    assert "No arm is recommended: no arm has got a single label right." in text


@pytest.mark.parametrize("num_right", [1, 8])
def test_where_hardly_an_answer_is_right_nothing_is_recommended_however_cheap(num_right):
    """Neither an arm that is always wrong nor one that is distinguishably better than it."""
    truth = np.eye(3, dtype=bool)[np.arange(300) % 3]
    preds = {"embedding": answered(truth, num_right / 300), "tfidf": answered(truth, 0)}
    judged, text = judged_from(truth, preds, tfidf=CHEAP)
    assert bool(judged["certain_against"]) == (num_right == 8)
    assert (judged["kind"], judged["arm"]) == ("tie", None)
    assert "No arm is recommended: even the micro-F1 of embedding is below 0.05." in text
    sentence = verdict.give_verdict(judged, {arm: arm for arm in preds})
    assert sentence.startswith("No approach is recommended: even embedding, which has the highest")


def test_arms_that_answer_alike_share_the_lead():
    truth = np.eye(3, dtype=bool)[np.arange(300) % 3]
    preds = {"instruction": answered(truth, 0.8), "embedding": answered(truth, 0.8)}
    judged, text = judged_from(truth, preds)
    assert judged["best"] == "embedding"  # by name, whatever the order
    assert "**embedding** has the highest micro-F1, as instruction, 0.800" in text
    assert "is **not distinguishable** from instruction (no difference)" in text
    assert "neither is shown to be better (embedding minus instruction 0.000, " in text
    assert judged["arm"] is None


@pytest.mark.parametrize("num_documents", [1, 2])
def test_one_or_two_test_documents_tell_nothing_and_promise_nothing(num_documents):
    truth = np.eye(2, dtype=bool)[[0, 1][:num_documents]]
    preds = {"embedding": answered(truth, 1), "instruction": answered(truth, 0)}
    judged, text = judged_from(truth, preds)
    assert (judged["kind"], judged["arm"]) == ("too_little_data", None)
    assert "where no difference, however large, would have been found" in text
    assert "no difference in micro-F1, however large, could be relied on to be found" in text
    assert not re.search(r"\b[1-9]\d*\.\d\d\d\b", text.replace("1.000", "")), text
    assert "nan" not in text


def test_numbers_that_are_not_known_are_said_not_to_be():
    table = arms(embedding=(0.9, *DEAR), instruction=(np.nan, *DEAR), tfidf=(0.8, *CHEAP))
    pairwise = differences(table)
    judged = recommend(table, pairwise)
    json.dumps(judged, allow_nan=False)
    text = three_sentences(judged)
    assert judged["best"] == "embedding"
    assert "is **not distinguishable** from instruction (not known)" in text
    assert "nan" not in text.split()
    effects = conclude_effects(pairwise[pairwise["arm_b"] == "instruction"], "instruction")
    assert "Of embedding no interval is known." in effects


def test_small_differences_keep_the_digits_that_decide():
    table = arms(a=(0.9, *DEAR), b=(0.8996, *CHEAP))
    pairwise = differences(table, 1e-4)
    pairwise["p_holm"] = 0.0499
    judged = recommend(table, pairwise)
    assert judged["kind"] == "clear_winner"
    assert "is distinguishably better than b (+0.0004)" in three_sentences(judged)
    text = conclude_effects(pairwise, "b")
    assert "above **b**: a (+0.0004)" in text
    assert "of one change without any effect, about 0.05 would be expected" in text
    pairwise["low"], pairwise["high"] = -1e-4, 4e-4
    text = three_sentences(recommend(table, pairwise))
    assert "loses 0.0004 at most (95 %)" in text


def test_one_arm_alone_is_no_winner():
    judged, text = judge(arms(tfidf=(0.9, *CHEAP)))
    assert (judged["kind"], judged["arm"]) == ("too_little_data", None)
    assert "tfidf alone has run" in text
    assert "not both have run" in text


def test_the_order_of_arms_and_of_pairs_does_not_matter():
    table = arms(embedding=(0.90, *DEAR), instruction=(0.88, *DEAR), tfidf=(0.895, *CHEAP))
    text = three_sentences(recommend(table, differences(table)))
    turned = table.iloc[::-1].reset_index(drop=True)
    assert three_sentences(recommend(turned, differences(turned))) == text


def test_arms_with_different_seeds_are_judged_together():
    """From predictions: three seeds, one missing, and an arm that is not taught."""
    generator = np.random.default_rng(0)
    truth = np.eye(4, dtype=bool)[generator.integers(0, 4, 500)]

    def answers(share, num_seeds):
        wrong = generator.random((num_seeds, 500, 1)) < share
        return np.where(wrong, truth[:, [1, 2, 3, 0]], truth)

    preds = {"embedding": answers(0.1, 3), "instruction": answers(0.3, 2), "zero": answers(0.8, 1)}
    table = arms(embedding=(0.9, *DEAR), instruction=(0.7, *DEAR), zero=(0.2, *DEAR))
    table["num_seeds"] = [3, 2, 1]
    judged = recommend(table, compare_all(truth, preds, num_resamples=500))
    assert sorted(judged["num_seeds"].values()) == [1, 2, 3]
    assert (judged["kind"], judged["arm"]) == ("clear_winner", "embedding")
    assert "over test documents and 3 seeds)" in three_sentences(judged)
    table["num_seeds"] = [1, 3, 3]  # the best arm's interval lacks the luck of training
    judged = recommend(table, compare_all(truth, preds, num_resamples=500))
    assert "over test documents and one seed, so without the luck" in three_sentences(judged)
    named = {arm: arm for arm in preds}
    assert "one training run of each can tell" in verdict.give_verdict(judged, named)


def test_a_study_with_a_reference_is_read_by_its_effects():
    table = arms(
        default=(0.8, *DEAR), better=(0.85, *DEAR), same=(0.803, *DEAR), worse=(0.7, *DEAR)
    )
    pairwise = differences(table, reference="default")
    text = conclude_effects(pairwise, "default")
    assert "above **default**: better (+0.050)" in text
    assert "below **default**: worse (-0.100)" in text
    assert "interval of same includes zero: not distinguishable from default" in text
    assert "differences below 0.014 (median) are found in fewer than four studies of five" in text
    assert "Distinguishable by interval and Holm-adjusted test: better and worse." in text
    with pytest.raises(ValueError, match="no row for 'better' and 'same'; compare every pair"):
        recommend(table, pairwise)


def test_the_rules_state_their_thresholds():
    for threshold in ("0.05", "1.5 times", "10,000 documents", "0.05 dollars", "2 dollars"):
        assert threshold in RULES


def test_a_reason_and_sentences_name_arms_in_words():
    names = {"embedding": "the head", "tfidf": "words"}
    table = arms(embedding=(0.90, *DEAR), tfidf=(0.895, *CHEAP))
    judged = recommend(table, differences(table), names)
    assert judged["arm"] == "tfidf"  # decisions keep the keys
    text = three_sentences(judged, names)
    assert "Pick **words**: words is not distinguishable from the head" in text
    assert not re.search("embedding|tfidf", text)


def verdict_of(table, standard_error=0.005):
    names = {arm: arm.upper() for arm in table["arm"]}
    return verdict.give_verdict(recommend(table, differences(table, standard_error)), names)


def test_a_verdict_is_one_sentence_that_claims_no_more_than_the_tests():
    runs = ", as far as one training run of each can tell."
    clear = arms(a=(0.90, *DEAR), b=(0.84, *DEAR), c=(0.80, *CHEAP))
    assert verdict_of(clear) == (
        "Use **A**: it answers better than each of the other 2 approaches, by more than chance "
        "easily explains" + runs
    )
    clear["num_seeds"] = 3
    assert verdict_of(clear).endswith("easily explains.")
    cheap = arms(a=(0.90, *DEAR), b=(0.895, *CHEAP))
    assert verdict_of(cheap) == (
        "Use **B**: it costs 158 times less than A, which has the highest score, and is not shown "
        "to answer worse" + runs
    )
    free = arms(a=(0.90, *DEAR), b=(0.897, 0, np.inf, "cpu"))
    assert "costs next to nothing beside A, which" in verdict_of(free)
    assert "no clearly cheaper approach is known to lose little against it" in verdict_of(
        arms(b=(0.90, *CHEAP), a=(0.895, *DEAR))
    )
    tie = arms(a=(0.90, *DEAR), b=(0.895, *DEAR))
    assert verdict_of(tie).startswith("No approach is recommended: A has the highest score, B is")
    assert "too little data" in verdict_of(tie, standard_error=0.05)
    assert "nothing to compare it with" in verdict_of(arms(a=(0.9, *DEAR)))
    assert "got a single label right" in verdict_of(arms(a=(0.0, *DEAR), b=(0.0, *DEAR)))


def test_a_verdict_on_changes_counts_those_that_are_certain():
    table = arms(default=(0.8, *DEAR), up=(0.85, *DEAR), same=(0.803, *DEAR), down=(0.7, *DEAR))
    pairwise = differences(table, reference="default")
    names = {arm: arm for arm in table["arm"]}
    assert verdict.judge_changes(pairwise, "default", names) == (
        "Compared with **default**, up is better and down is worse, by more than chance easily "
        "explains; the other 1 is not shown to differ."
    )
    same = pairwise[pairwise["arm_a"] == "same"]
    assert verdict.judge_changes(same, "default", names).endswith("not shown to differ.")
    assert "nothing else has run" in verdict.judge_changes(pairwise[:0], "default", names)


def test_an_arms_line_says_how_it_stands_in_words_signs_and_numbers():
    table = arms(a=(0.90, *DEAR), b=(0.896, *CHEAP), c=(0.7, 0, np.nan, "cpu"))
    names = {"a": "<the head>", "b": "words", "c": "c"}
    html = verdict.arm_lines(
        table, differences(table), anchor="b", title=verdict.RECOMMENDED,
        right={"a": "90 of 100", "b": "90 of 100", "c": "70 of 100"}, names=names,
    )  # fmt: skip
    rows = re.findall(r'<tr class="(\w+)">(.*?)</tr>', html)
    assert [kind for kind, _ in rows] == ["open", "anchor", "worse"]
    for (_, row), words in zip(rows, ("● not shown to", "★ recommended", "▼ worse"), strict=True):
        assert words in row
    assert '<span title="a">&lt;the head&gt;</span>' in html
    assert "+0.004 (-0.006 to +0.014), p = 0.4" in rows[0][1]
    assert '"training">none</td>' in rows[2][1]
    assert '"documents/s">–</td>' in rows[2][1]


def test_right_answers_of_a_hundred_are_documents_or_labels():
    one = np.eye(2, dtype=bool)[[0, 1, 0, 1]]
    answers = one[None].copy()
    answers[0, 3] = False  # no label: wrong
    assert verdict.count_right(one, answers, single=True) == "75 of 100"
    assert verdict.count_right(one, one[None], single=True) == "100 of 100"
    sets = np.array([[True, True], [True, False]])
    given = np.array([[[True, False], [True, True]]])
    assert verdict.count_right(sets, given, single=False) == "67 of 100 given, 67 of 100 found"
    assert (
        verdict.count_right(sets, sets[None] & False, single=False)
        == "0 of 100 given, 0 of 100 found"
    )
    nothing = sets & False  # no document has a label
    assert verdict.count_right(nothing, sets[None], single=False).endswith(" 0 of 100 found")
    nearly = np.repeat(one, 500, axis=0)
    answers = nearly[None].copy()
    answers[0, 0] = False
    assert verdict.count_right(nearly, answers, single=True) == "99 of 100"


def test_a_legend_says_what_right_means_and_what_variants_are_of():
    legend = verdict.explain_lines("b", single=True, kinds={"head", "prompt"})
    assert "than b, by interval" in legend
    assert "of 100 test documents" in legend
    assert "variants" not in legend
    legend = verdict.explain_lines("b", single=False, kinds={"head"})
    assert "of 100 labels given" in legend
    assert legend.endswith("All are variants of one approach: head.")
