"""The words of a text in any script, and the form in which equal texts are equal.

TF-IDF, duplicates, the audit, distinctive words and the parser of answers share it.
"""

import re
from unicodedata import normalize

import regex

# One character is one word in scripts that put no spaces: Thai, Lao, Burmese, Khmer, kana and Han.
UNSPACED = r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
UNSPACED += r"\U00020000-\U0003ffff"
# Vowel signs, viramas and accents belong to the letter before them; `\w` of `re` breaks there.
MARKS = r"\p{Mn}\p{Mc}"
# One character of a word, for `regex`: `\w` of `re`, marks, and the joiners of Persian and Indic.
WORD_CHARACTER = rf"[\p{{L}}\p{{N}}_{MARKS}\u200c\u200d]"
# A character that makes a word go on; in scripts without spaces, a word may end before any letter.
JOINED = rf"(?:[[\p{{L}}\p{{N}}_]--[{UNSPACED}]]|[{MARKS}\u200c\u200d])"
# Zero-width characters, soft hyphens, directions and variants; not tags, of which flags are made.
_INVISIBLE = regex.compile(
    r"(?V1)[[\p{Default_Ignorable_Code_Point}\p{Cc}]--[\s\U000e0020-\U000e007f]]"
)
_FIRST, _NEXT = (rf"[[\p{{L}}\p{{N}}_{marks}]--[{UNSPACED}]]" for marks in ("", MARKS))
_ASCII = {least: re.compile(rf"\w{{{least},}}") for least in (1, 2)}
_WORD = {
    least: regex.compile(rf"(?V1)[{UNSPACED}][{MARKS}]*|{_FIRST}{_NEXT}{{{least - 1},}}")
    for least in (1, 2)
}
_SPACED_WORD = regex.compile(rf"(?V1)[{UNSPACED}][{MARKS}]*|[^\s{UNSPACED}]+")


def word_spans(text: str) -> list[tuple[int, int]]:
    """Start and end of each piece between spaces; in `UNSPACED` scripts, of each character."""
    return [found.span() for found in _SPACED_WORD.finditer(text)]


def first_words(text: str, number: int) -> str:
    """The text up to the end of its `number`-th word (`word_spans`), with single spaces in it."""
    if text.isascii():
        return " ".join(text.split()[:number])
    ends = [end for _, end in word_spans(text)[:number]]
    return " ".join(text[: ends[-1]].split()) if ends else ""


def normal_form(text: str) -> str:
    """The text in Unicode's composed form (NFC), without invisible characters, spaces single.

    Texts that look the same are mostly equal then: "café" of four or of five characters, or with a
    no-break space or a zero-width space in it. Case stays.
    """
    if not text.isascii() or not text.isprintable():
        text = normalize("NFC", _INVISIBLE.sub("", text))
    return " ".join(text.split())


def find_words(text: str, *, least: int = 1) -> list[str]:
    """Words of a text in order, in `normal_form`: letters, digits, underscores with their marks.

    `least` is 1, or 2 to leave out words of one character. In scripts without spaces (`UNSPACED`)
    each character with its marks is a word, whatever `least` says.
    """
    if text.isascii():
        return _ASCII[least].findall(text)
    return _WORD[least].findall(normal_form(text))
