import json
import re

import numpy as np
import pandas as pd
import pytest

from lib.significance import compare_all
from lib.verdict import MARGIN, RULES, conclude_effects, three_sentences, verdict


def arms(**rows):
    """A comparison of arms, each (micro-F1, seconds of training, documents/s, device)."""
    columns = ["micro_f1", "train_seconds", "infer_docs_per_second", "device"]
    table = pd.DataFrame(rows, index=columns).T.rename_axis("arm").reset_index()
    table[columns[:3]] = table[columns[:3]].astype(float)
    half = 0.01
    return table.assign(
        num_seeds=1, micro_f1_low=table.micro_f1 - half, micro_f1_high=table.micro_f1 + half
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
    judged = verdict(comparison, differences(comparison, standard_error))
    assert json.loads(json.dumps(judged)) == judged  # recommendation.json reads back
    text = three_sentences(judged)
    assert len(re.findall(r"\.(?= [A-Z]|$)", text)) == 3, text
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
    assert "tfidf has the highest micro-F1 and tied arms cost more" in text


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
    reason = verdict(table, pairwise)["reason"]
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


def test_costs_that_are_missing_or_of_another_device_are_not_compared():
    gpu = (100, 400, "cuda")
    for cheap in ((np.nan, 9000, "cuda"), (1, np.nan, "cuda"), (1, 0, "cuda"), CHEAP):
        judged, _ = judge(arms(embedding=(0.90, *gpu), tfidf=(0.897, *cheap)))
        assert (judged["kind"], judged["arm"]) == ("tie", None)
    table = arms(embedding=(0.90, *gpu), tfidf=(0.897, *CHEAP), encoder=(0.896, 10, 4000, "cuda"))
    assert judge(table)[0]["arm"] == "encoder"  # one arm on the CPU hides no other's cost


def test_one_arm_alone_is_no_winner():
    judged, text = judge(arms(tfidf=(0.9, *CHEAP)))
    assert (judged["kind"], judged["arm"]) == ("too_little_data", None)
    assert "tfidf alone has run" in text
    assert "not both have run" in text


def test_the_order_of_arms_and_of_pairs_does_not_matter():
    table = arms(embedding=(0.90, *DEAR), instruction=(0.88, *DEAR), tfidf=(0.895, *CHEAP))
    text = three_sentences(verdict(table, differences(table)))
    turned = table.iloc[::-1].reset_index(drop=True)
    assert three_sentences(verdict(turned, differences(turned))) == text


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
    judged = verdict(table, compare_all(truth, preds, num_resamples=500))
    assert judged["num_seeds"] == [1, 3]
    assert (judged["kind"], judged["arm"]) == ("clear_winner", "embedding")
    assert "over test documents and 1 to 3 seeds" in three_sentences(judged)


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
        verdict(table, pairwise)


def test_the_rules_state_their_thresholds():
    for threshold in ("0.05", "1.5 times", "10,000 documents"):
        assert threshold in RULES
