"""Answers of a prompt: label sets as texts, and free answers back as labels."""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import regex

from lib.data.labels import LabelSpace
from lib.data.words import JOINED, normal_form
from lib.errors import DataError

SEPARATOR = ";"  # between the labels of an answer
WORD_CHARACTER = rf"(?:{JOINED}|-)"  # hyphens count as letters
PUNCTUATION = " .,:;!?…\"'`*_()[]{}<>«»“”„‘’。，、！？；：「」『』"  # that may surround an answer
# Punctuation marks that are taken off an end one by one; then all are taken off (our choice).
MAX_PEELED = 8


def answer_texts(labels: Sequence[str], label_space: LabelSpace) -> list[str]:
    """The answer for a label set: its labels' texts in label order (as in arXiv 2505.17510).

    The order is the same for all documents, because a model cannot learn an order without meaning.
    An empty set is the word for it, `label_space.none`.

    Raises
    ------
    DataError
        The set has several labels, and some label's text contains ";": answers could not be read
        back.
    """
    texts = [label_space.texts[c] for c in label_space.indices([labels])[0]]
    if not texts and label_space.none:
        return [label_space.none]
    unclear = [text for text in label_space.texts if SEPARATOR in text] if len(texts) > 1 else []
    if unclear:
        raise DataError(f"label {unclear[0]!r} contains {SEPARATOR!r}, which separates labels")
    return texts


def parse_labels(text: str, label_space: LabelSpace, *, multi_label: bool = False) -> list[str]:
    """Label that a free answer names, as a list of one; empty if it names none or several.

    The whole answer is compared first: as it is, then with as little of the punctuation around it
    taken off as makes it a label. At last all punctuation around the answer and around the labels
    is taken off. An answer that is no label is searched for labels as whole words. Case does not
    count. Nothing is ever guessed: an answer outside the set, or one that fits several labels
    equally well, is an error of the model.

    With `multi_label`, each part between ";" of an answer that is no label is read in this way and
    may name several labels; parts that name none are passed over. The list is in label order. If
    label sets may be empty, the list is empty for an answer that says so (`label_space.none`), and
    `[""]`, which is no label, for an answer that names none.
    """
    texts = tuple(map(normal_form, label_space.texts))
    found: set[int] = set()
    several = multi_label and not _whole_answer(normal_form(text), texts)
    for part in map(normal_form, text.split(SEPARATOR) if several else [text]):
        whole = _whole_answer(part, texts)
        for columns in [whole] if whole else _words(part, texts):
            if not multi_label or len(columns) == 1:
                found |= columns
    if not multi_label and len(found) > 1:
        return []
    if not found and label_space.none:
        said_none = _whole_answer(normal_form(text), (normal_form(label_space.none),))
        return [] if said_none else [""]
    return [name for column, name in enumerate(label_space.names) if column in found]


def _whole_answer(answer: str, texts: tuple[str, ...]) -> set[int]:
    """Columns of the label that equals the whole answer, or of several that fit equally well."""
    left = min(MAX_PEELED, len(answer) - len(answer.lstrip(PUNCTUATION)))
    right = min(MAX_PEELED, len(answer) - len(answer.rstrip(PUNCTUATION)))
    for total in range(left + right + 1):  # characters taken off, at the left and at the right
        ends = range(max(0, total - right), min(left, total) + 1)
        forms = [answer[i : len(answer) - total + i] for i in ends]
        if columns := _equal(filter(None, forms), texts):
            return columns
    bare = answer.strip(PUNCTUATION)
    without = tuple(label.strip(PUNCTUATION) for label in texts)
    return (_equal([bare], texts) or _equal([bare], without)) if bare else set()


def _equal(forms: Iterable[str], texts: tuple[str, ...]) -> set[int]:
    """Columns of the labels that equal one of some forms of an answer."""
    columns = _columns(texts)
    return set().union(*(columns.get(form.lower(), ()) for form in forms))


@lru_cache(maxsize=8)
def _columns(texts: tuple[str, ...]) -> dict[str, set[int]]:
    """Columns of the labels with each text, by the text in lower case."""
    columns: dict[str, set[int]] = {}
    for column, label in enumerate(texts):
        columns.setdefault(label.lower(), set()).add(column)
    return columns


def _words(answer: str, texts: tuple[str, ...]) -> Iterator[set[int]]:
    """Columns of each label that an answer contains as whole words.

    A label inside a longer one ("gas" in "natural gas") does not count. A label of one character,
    punctuation around it aside, is read only as a whole answer: "a" is a word of any sentence.
    """
    by_text, end = _columns(texts), 0
    longer = [label for label in by_text if len(label.strip(PUNCTUATION)) > 1]
    alternatives = "|".join(map(regex.escape, sorted(longer, key=len, reverse=True))) or r"(?!)"
    pattern = rf"(?V1)(?<!{WORD_CHARACTER})(?=({alternatives})(?!{WORD_CHARACTER}))"
    for match in regex.finditer(pattern, answer.lower()):
        start, word = match.start(), match[1]  # the longest one that begins there
        if start + len(word) <= end:
            continue
        end = start + len(word)
        yield by_text[word]
