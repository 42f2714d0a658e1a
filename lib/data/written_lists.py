"""Lists of labels that a file contains as text, as Python, JSON, NumPy or R write them."""

import ast
import contextlib
import json
import re
from collections.abc import Sequence

import pandas as pd

from lib.data.encodings import MAX_SHOWN
from lib.data.tables import cell_text
from lib.errors import DataError

# An item of a list, and a further one behind a comma or, as NumPy writes it, behind spaces.
_ITEM = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[-+]?\d[\w.+-]*|True|False"""
# An item as NumPy 2 writes it within a list, np.str_('a'); quoted text is passed over.
_TYPED = re.compile(rf"""('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")|np\.\w+\(({_ITEM})\)""")
_MORE = rf"(?:\s*,\s*|\s+)(?:{_ITEM})"
# The type around a list: array([...], dtype=object), frozenset({...}), set().
_HOLDER = re.compile(r"(?:array|(?:frozen)?set)\((.*?)\s*(?:,\s*dtype=[^\[\](){}]*)?\)", re.DOTALL)
_LIST = re.compile(rf"[\[({{]\s*(?:(?:{_ITEM})(?:{_MORE})*\s*,?\s*)?[\])}}]")
_VECTOR = re.compile(r"c\((.*)\)|character\(0\)", re.DOTALL)  # of R: c("a", "b")
_BARE_LIST = re.compile(r"\s*(?:\[[^\[\]]*,[^\[\]]*\]|\{[^{}]*,[^{}]*\})\s*")  # {a,b} of Postgres
MULTI_HOT = (
    "has lists of 0 and 1, equally long; write the labels' names, or a column of 0 and 1 per label "
    "(indicator_columns)"
)


def read_lists(values: pd.Series, mode: str, source: str) -> pd.Series:
    """The column of labels with a list for each text that writes one; other texts stay.

    With the `label_mode` "single", a text such as "[5]" is a name rather than a list.

    Raises `DataError` if some texts are lists and others are not, and, unless the mode is "single",
    for other notations of several labels, such as JSON objects.
    """
    several = mode != "single"
    texts = values[[isinstance(value, str) and bool(value.strip()) for value in values]]
    lists = texts.map(_as_list)
    is_list = [
        found is not None and (several or len(found) > 1 or "'" in text or '"' in text)
        for text, found in zip(texts, lists, strict=True)
    ]
    others = texts[[found is None for found in lists]]
    if several:
        _refuse_torn(others, source)
    if any(is_list) and len(others):
        fewer, article = (others, "no") if len(others) < sum(is_list) else (texts[is_list], "a")
        raise DataError(
            f"{source}: document {fewer.index[0] + 1}: {values.name!r} is {fewer.iloc[0]!r}, "
            f"{article} list written as text, unlike that of other rows; write all of them alike"
        )
    if any(is_list):
        listed = [lists.get(at, value) for at, value in values.items()]
        return pd.Series(listed, index=values.index, name=values.name, dtype=object)
    return values


def is_multi_hot(lists: Sequence[Sequence[object]]) -> bool:
    """True for lists of one length, two or more, that differ and contain 0 and 1 alone."""
    if len(set(map(len, lists))) != 1 or len(lists[0]) < 2:
        return False
    written = {tuple(map(cell_text, values)) for values in lists}
    marks = {mark for values in written for mark in values}
    return len(written) > 1 and (marks <= {"0", "1"} or marks <= {"False", "True"})


def _refuse_torn(others: pd.Series, source: str) -> None:
    """Raise `DataError` for notations of several labels that a delimiter would tear apart."""
    for at, text in others.items():
        if _is_nested(text):
            an_object = text.strip().startswith("{")
            what = "an object written as text" if an_object else "a list of more than names"
        elif _BARE_LIST.fullmatch(text):
            quoted = "'" in text or '"' in text
            how = "with more than names in" if quoted else "without"
            what = f"a list written as text {how} quotation marks"
        else:
            continue
        raise DataError(
            f"{source}: document {at + 1}: {others.name!r} is {text[:MAX_SHOWN]!r}, {what}; join "
            "the labels' names by a character and name it as label_delimiter"
        )


def _is_nested(text: str) -> bool:
    """True for an object, or a list of lists or objects, as JSON and Python write them."""
    text = text.strip()
    if not re.match(r"\[\s*[\[({]|\{\s*[\"']", text):
        return False
    for read in (json.loads, ast.literal_eval):
        with contextlib.suppress(ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            found = read(text)
            return isinstance(found, dict) or any(
                isinstance(value, (list, tuple, set, dict)) for value in found
            )
    return False


def _as_list(text: str) -> list | None:
    """The list that a text writes down, None if it is another text."""
    text = text.strip()
    if held := _HOLDER.fullmatch(text):
        text = held[1] or "[]"
    elif held := _VECTOR.fullmatch(text):
        text = f"[{held[1] or ''}]"
    text = _TYPED.sub(lambda item: item[1] or item[2], text) if "np." in text else text
    quoted = "'" in text or '"' in text
    if not _LIST.fullmatch(text) or not (quoted or text.startswith("[")):
        return None
    with contextlib.suppress(ValueError):
        return json.loads(text)
    items = re.findall(_ITEM, text)
    try:
        return [ast.literal_eval(item) for item in items]
    except (ValueError, SyntaxError):  # such as 001 or 2020-01-01, which are texts
        return None if quoted else items
