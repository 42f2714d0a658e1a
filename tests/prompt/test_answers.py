import pytest
from hypothesis import given
from hypothesis import strategies as st

from lib.data.labels import LabelSpace
from lib.prompt.answers import answer_texts, parse_labels


def squash(text):
    return " ".join(text.lower().split())


SPACE = LabelSpace(("earn", "gas", "nat-gas", "natural gas", "Card arrival"))


TOPICS = LabelSpace(("corn", "gas", "grain", "natural gas"))


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("earn", ["earn"]),
        (" Earn.\n", ["earn"]),
        ("'nat-gas'", ["nat-gas"]),
        ("The topic is natural  gas", ["natural gas"]),
        ("CARD ARRIVAL!", ["Card arrival"]),
        ("earnings", []),
        ("earn or gas", []),
        ("nat-gas-x", []),
        ("", []),
    ],
)
def test_parsing_finds_exactly_one_whole_label_or_nothing(answer, expected):
    assert parse_labels(answer, SPACE) == expected


@given(st.text())
def test_parsing_never_invents_a_label(text):
    parsed = parse_labels(text, SPACE)
    assert len(parsed) <= 1
    assert all(label.lower() in " ".join(text.lower().split()) for label in parsed)


def test_labels_may_be_called_by_codes():
    named = LabelSpace(("A01", "B02"), ("farming", "physics"))
    codes = named.verbalized("code")
    assert (codes.names, codes.texts) == (named.names, ("A", "B"))
    assert named.verbalized("name").texts == named.names
    assert named.verbalized("text") == named
    assert LabelSpace(tuple(f"x{i}" for i in range(30))).verbalized("code").texts[29] == "30"


@pytest.mark.parametrize(
    ("answer", "labels"),
    [
        ("corn; natural gas", ["corn", "natural gas"]),
        ("Grain; CORN.", ["corn", "grain"]),
        ("gas; gas", ["gas"]),
        ("wheat; corn", ["corn"]),
        ("natural gas and corn", ["corn", "natural gas"]),
        ("wheat", []),
        ("", []),
    ],
)
def test_generated_label_sets_are_read_back(answer, labels):
    assert parse_labels(answer, TOPICS, multi_label=True) == labels


@given(st.sets(st.sampled_from(TOPICS.names), min_size=1))
def test_every_label_set_survives_being_answered(labels):
    answer = "; ".join(answer_texts(list(labels), TOPICS))
    assert set(parse_labels(answer, TOPICS, multi_label=True)) == labels


@pytest.mark.parametrize("label", ["oil; gas", "gas; oil", "oil;gas;"])
def test_a_label_that_contains_the_separator_is_read_where_it_is_the_whole_answer(label):
    space = LabelSpace(("corn", "oil", label))
    (answer,) = answer_texts([label], space)
    assert parse_labels(f" {answer}.", space, multi_label=True) == [label]
    assert parse_labels("oil; corn", space, multi_label=True) == ["corn", "oil"]


def test_a_letter_is_a_label_only_as_the_whole_answer():
    letters = LabelSpace(("A", "B"))
    assert parse_labels("B.", letters) == ["B"]
    assert parse_labels("This is a patent", letters) == []


def test_label_texts_stand_for_labels():
    space = LabelSpace(("A", "B"), ("Human necessities", "Physics"))
    assert parse_labels("physics", space) == ["B"]
    assert parse_labels("B", space) == []


@pytest.mark.parametrize(
    ("labels", "answer", "expected"),
    [
        (("C", "C.", "?"), "C", ["C"]),
        (("C", "C.", "?"), "C.", ["C."]),
        (("C", "C.", "?"), '"C."', ["C."]),
        (("C", "C.", "?"), "**C**", ["C"]),
        (("C", "C.", "?"), "c", ["C"]),
        (("C", "C.", "?"), "C!", ["C"]),
        (("C", "C.", "?"), " ?\n", ["?"]),
        (("C", "C.", "?"), "?!", ["?"]),
        (("C", "C.", "?"), "What do you mean?", []),
        (("C", "C++", "C#"), "C++.", ["C++"]),
        (("C", "C++", "C#"), "It is C++, I think", ["C++"]),
        (("C", "C++", "C#"), "c#", ["C#"]),
        (("C.", "C?"), "C", []),
        (("C.", "D?"), "C", ["C."]),
        (("N/A", "n.a.", "n.a"), "N/A", ["N/A"]),
        (("N/A", "n.a.", "n.a"), "N.A.", ["n.a."]),
        (("[bug]", "bug", "feature"), "[bug].", ["[bug]"]),
        (("[bug]", "bug", "feature"), "bug", ["bug"]),
        (("[bug]", "[feature]"), "bug", ["[bug]"]),
        (("...", "!!!"), "...", ["..."]),
        (("...", "!!!"), "Well... no", []),
        (("caf\u00e9", "tea"), "CAFE\u0301", ["caf\u00e9"]),
        (("cafe\u0301", "tea"), "caf\u00e9", ["cafe\u0301"]),
        (("natural gas", "gas"), "natural gas", ["natural gas"]),
        (("new york", "york city"), "in new york city", []),
        (("体育", "財経"), "「体育」。", ["体育"]),
    ],
)
def test_a_label_is_read_exactly_before_it_is_read_loosely(labels, answer, expected):
    assert parse_labels(answer, LabelSpace(labels)) == expected


def test_of_several_answers_those_that_fit_two_labels_are_passed_over():
    space = LabelSpace(("us", "C.", "C?"))
    assert parse_labels("us; C; C?", space, multi_label=True) == ["us", "C?"]
    assert parse_labels("C", space, multi_label=True) == []


TEXT = st.text(alphabet='aAbB.?[]"* -é', min_size=1, max_size=5).map(str.strip).filter(bool)


@given(st.sets(TEXT, min_size=1, max_size=6).filter(lambda s: len(set(map(squash, s))) == len(s)))
def test_every_label_survives_being_answered(labels):
    space = LabelSpace(tuple(sorted(labels)))
    for label in space.names:
        assert parse_labels(f" {label}\n", space) == [label]


def test_a_long_answer_of_punctuation_is_read_at_once():
    assert parse_labels("." * 5_000 + "gas" + "!" * 5_000, SPACE) == ["gas"]
    assert parse_labels("*" * 10_000, SPACE) == []


def test_the_word_for_an_empty_set_is_read_back_and_told_from_an_answer_outside():
    space = LabelSpace(("toxic", "insult"), none="none")
    assert answer_texts([], space) == ["none"]
    assert parse_labels(" None. ", space, multi_label=True) == []
    assert parse_labels("toxic; none", space, multi_label=True) == ["toxic"]
    assert parse_labels("dunno", space, multi_label=True) == [""]
    assert parse_labels("dunno", LabelSpace(("toxic",)), multi_label=True) == []


def test_words_of_every_script_are_whole_words():
    space = LabelSpace(("खेल", "体育", "กีฬา", "sport"))
    assert parse_labels("यह खेल है", space) == ["खेल"]
    assert parse_labels("यह खेलों का है", space) == []  # a vowel sign goes on with the word
    assert parse_labels("这是体育新闻", space) == ["体育"]  # no spaces between words
    assert parse_labels("sportы", space) == []
