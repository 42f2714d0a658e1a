"""What a model is trained to answer."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.prompt.examples import choose_examples, choose_questions


def test_an_empty_set_counts_as_a_label_for_the_balance():
    labels = [["a"], [], ["b"], ["a"], ["a", "b"], []]
    (rows,) = choose_examples("balanced", labels, num_examples=3, num_prompts=1, seed=0)
    assert {tuple(labels[i][:1]) for i in rows} == {("a",), ("b",), ()}


@given(
    st.lists(st.sets(st.integers(0, 4), min_size=1).map(sorted), min_size=1, max_size=20),
    st.integers(0, 9),
)
def test_questions_are_about_all_labels_and_as_many_others(labels, seed):
    """Every label of a set is asked about, not the first alone."""
    questions = choose_questions(labels, num_labels=5, seed=seed)
    assert len(set(questions)) == len(questions)
    present = {c for row in labels for c in row}
    for i, row in enumerate(labels):
        asked = {
            flag: {c for j, c, right in questions if (j, right) == (i, flag)} for flag in (0, 1)
        }
        assert asked[True] == set(row)
        assert asked[False] <= present - set(row)
        assert len(asked[False]) == min(len(row), len(present) - len(row))
    assert questions == choose_questions(labels, num_labels=5, seed=seed)


def test_a_label_alone_does_not_tell_the_answer():
    labels = [[0]] * 60 + [[1]] * 30 + [[2]] * 30
    asked = Counter((c, right) for _, c, right in choose_questions(labels, num_labels=4, seed=0))
    for c in range(3):
        assert asked[c, False] == pytest.approx(asked[c, True], rel=0.5)
    assert not asked[3, False]
