"""Words of every script, and the form in which equal texts are equal."""

import re
import unicodedata
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.svm import LinearSVC

from lib.data.words import UNSPACED, find_words, first_words, normal_form, word_spans


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A film, not bad_1!", ["A", "film", "not", "bad_1"]),
        ("चुनाव के नतीजे", ["चुनाव", "के", "नतीजे"]),
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("বাংলা ভাষা", ["বাংলা", "ভাষা"]),
        ("שָׁלוֹם עוֹלָם", ["שָׁלוֹם", "עוֹלָם"]),
        ("السَّلامُ عليكم", ["السَّلامُ", "عليكم"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("こんにちは", list("こんにちは")),
        ("か\u3099く", ["が", "く"]),
        ("cafe\u0301 creme", ["café", "creme"]),
        ("e\u200b\u0301te\u0301", ["été"]),
        ("co\u00adoperate \u200bnow", ["cooperate", "now"]),
        ("می\u200cخواهم", ["میخواهم"]),
        ("I ❤\ufe0f 1\ufe0f\u20e3 👍🏽", ["I", "1"]),
        ("", []),
    ],
)
def test_words_keep_their_marks(text, words):
    assert find_words(text) == [unicodedata.normalize("NFC", word) for word in words]


@given(st.text(st.characters(categories=["L", "N", "P", "Z", "S"], exclude_characters="\u212b")))
def test_without_marks_words_are_what_re_finds(text):
    text = normal_form(text)
    unmarked = "".join(c for c in text if unicodedata.category(c)[0] != "M")
    expected = re.findall(rf"[{UNSPACED}]|[^\W{UNSPACED}]{{2,}}", unmarked)
    assert find_words(unmarked, least=2) == expected


@given(st.text())
def test_normal_form_is_stable_and_ignores_how_a_text_is_stored(text):
    form = normal_form(text)
    assert normal_form(form) == form
    assert normal_form(unicodedata.normalize("NFD", text)) == form
    assert normal_form(f" \u200b{text}\ufeff\u00a0") == form


@pytest.mark.parametrize(("a", "b"), [("🏴󠁧󠁢󠁥󠁮󠁧󠁿", "🏴󠁧󠁢󠁳󠁣󠁴󠁿"), ("x²", "x2"), ("C", "C#"), ("a b", "ab")])
def test_what_looks_different_stays_different(a, b):
    assert normal_form(a) != normal_form(b)


def test_tfidf_tells_words_apart_by_their_vowel_signs():
    common, telling = ["यह", "से", "की", "लिए", "था"], [("गेंद", "मैदान"), ("चुनाव", "विधेयक")]
    texts = [
        " ".join([common[i % 5], telling[i % 2][i % 3 % 2], common[i * 7 % 5]]) for i in range(60)
    ]
    labels = [i % 2 for i in range(60)]
    cut = partial(find_words, least=2)
    words = TfidfVectorizer(ngram_range=(1, 2), tokenizer=cut, token_pattern=None)
    model = LinearSVC(random_state=0).fit(words.fit_transform(texts[:40]), labels[:40])
    assert model.score(words.transform(texts[40:]), labels[40:]) == 1
    assert {"गेंद", "मैदान"} <= set(words.vocabulary_)


def test_words_stand_between_spaces_or_are_a_character_of_a_script_without():
    text = " two  words, 可可 café"
    assert [text[a:b] for a, b in word_spans(text)] == ["two", "words,", "可", "可", "café"]


@pytest.mark.parametrize(
    ("text", "number", "first"),
    [
        ("one  two\nthree", 2, "one two"),
        (" eins  zwei drei größer", 3, "eins zwei drei"),
        ("可以 吗", 2, "可以"),
        ("可以吗 很好", 4, "可以吗 很"),
        ("可以", 9, "可以"),
        ("", 3, ""),
    ],
)
def test_the_first_words_of_a_text(text, number, first):
    assert first_words(text, number) == first
