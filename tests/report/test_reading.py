import numpy as np
import pandas as pd

from lib.report.reading import describe_reading
from lib.report.wording import format_share


def run(arm, share=np.nan, **params):
    return {"arm": arm, "test_cut_share": share, "params": {"max_length": 96} | params}


TFIDF = run("tfidf", 0.0, method="tfidf", read="all")


def say(*runs):
    return describe_reading(pd.DataFrame(list(runs)))


def test_the_share_of_cut_documents_is_named_where_one_arm_cuts_and_another_does_not():
    text = say(run("embedding", 0.413), run("encoder", 0.384), TFIDF)
    assert text.startswith(
        "**Arms read differently:** embedding and encoder read the first 96 tokens, which cuts 38 "
        "% and 41 % of the test documents; tfidf reads whole texts."
    )


def test_windows_and_lengths_are_named_where_they_differ():
    text = say(
        run("head", 0.0, windows=4), run("prompt", 0.1, windows=1), run("b", 1, max_length=9)
    )
    assert "head reads up to 4 windows of 96 tokens, which cuts none of the test documents" in text
    assert "prompt reads the first 96 tokens, which cuts 10 % of" in text
    assert "b reads the first 9 tokens, which cuts all of" in text


def test_nothing_is_said_where_all_read_the_same_or_nothing_is_cut():
    same = run("tfidf", 0.4, method="tfidf", read="max_length")
    assert say(run("embedding", 0.4), same) == ""
    assert say(run("embedding", 0.4), run("embedding", 0.4)) == ""
    assert say(run("embedding", 0.0), run("prompt", 0.0, windows=2), TFIDF) == ""


def test_a_run_of_an_earlier_version_has_not_recorded_its_share():
    assert "cuts an unrecorded share of the test documents; tfidf" in say(
        run("embedding"), run("tfidf", method="tfidf")
    )


def test_a_share_is_none_or_all_only_where_it_is():
    shares = [0, 0.004, 0.126, 0.996, 1]
    assert [*map(format_share, shares)] == ["none", "less than 1 %", "13 %", "99 %", "all"]
