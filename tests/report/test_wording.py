"""No printed number contradicts the decision that was taken on it."""

import math

import pandas as pd
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lib.evaluation.intervals import ALPHA
from lib.report import show_table
from lib.report.wording import beginning, format_delta, format_f1, format_p, join, shorten


@pytest.mark.parametrize(
    ("p", "text"),
    [(0.0499, "p = 0.0499"), (0.0501, "p = 0.0501"), (0.05, "p = 0.05"), (0.0496, "p = 0.0496"),
     (0.012, "p = 0.012"), (0.9996, "p = 0.9996"), (1.0, "p = 1"), (0.3456, "p = 0.35"),
     (0.0, "p < 0.001"), (0.00099999, "p < 0.001"), (0.001, "p = 0.001"),
     (math.nan, "p = not known"), (None, "p = not known")],
)  # fmt: skip
def test_p_is_printed_on_its_side_of_the_threshold(p, text):
    assert format_p(p) == text


@given(st.floats(0, 1))
@example(math.nextafter(ALPHA, 0))
@example(math.nextafter(ALPHA, 1))
@example(math.nextafter(1, 0))
def test_no_printed_p_contradicts_the_decision(p):
    sign, number = format_p(p).split()[1:]
    assert (float(number) < ALPHA) == (p < ALPHA)
    assert (sign == "=" and float(number) == 1) == (p == 1)
    assert len(number) < 10 or abs(p - ALPHA) < 1e-6 or abs(p - 1) < 1e-6


@pytest.mark.parametrize(
    ("delta", "text"),
    [(0.0123, "+0.012"), (-0.0123, "-0.012"), (0.0004, "+0.0004"), (-0.0004, "-0.0004"),
     (0.00002, "+0.00002"), (0.0, "0.000"), (-0.0, "0.000"), (1.0, "+1.000"), (-1, "-1.000"),
     (0.9999, "+0.9999"), (math.nan, "not known"), (None, "not known")],
)  # fmt: skip
def test_a_difference_that_is_not_zero_is_not_printed_as_zero(delta, text):
    assert format_delta(delta) == text


@given(st.floats(-1, 1))
def test_a_printed_difference_excludes_zero_just_if_it_does(delta):
    text = format_delta(delta)
    assert (float(text) > 0, float(text) < 0) == (delta > 0, delta < 0)
    assert text[0] == ("+" if delta > 0 else "-" if delta < 0 else "0")


@given(st.floats(0, 1))
def test_a_printed_score_is_perfect_or_nothing_just_if_it_is(value):
    shown = float(format_f1(value))
    assert (shown == 0, shown == 1) == (value == 0, value == 1)


def test_a_score_beside_a_threshold_is_printed_on_its_side():
    assert format_f1(0.0503, 0.05) == "0.0503"
    assert format_f1(0.0503) == "0.050"


def test_items_are_joined_as_one_says_them():
    assert [join(["a"]), join(["a", "b"]), join(list("abc"))] == ["a", "a and b", "a, b and c"]


@pytest.mark.parametrize("hidden", ["\x1b[31m", "\x00", "\u202e", "\u2067", "\x9b"])
def test_characters_that_act_on_a_page_are_replaced_where_texts_and_names_are_shown(hidden):
    shown = show_table(pd.DataFrame({"name": [f"a{hidden}b"]})).to_html()
    for text in (shorten(f"a{hidden}b"), beginning(f"a{hidden}b", 40), shown):
        assert hidden[0] not in text
        assert "a\ufffd" in text
    assert shorten("a\ud800") == "a\ufffd"
    assert beginning("עברית שלום\tand 漢字", 40) == "עברית שלום and 漢字"
