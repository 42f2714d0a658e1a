"""Lists of labels that a file contains as text, as Python, JSON or NumPy write them."""

import ast
import json
import re

import pandas as pd

from lib.errors import DataError

# NumPy puts no commas.
_ITEM = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[-+]?\d[\w.+-]*|True|False"""
_MORE = rf"(?:\s*,\s*|\s+)(?:{_ITEM})"
# The type around it: array([...], dtype=object), frozenset({...}), set().
_HOLDER = re.compile(r"(?:array|(?:frozen)?set)\((.*?)\s*(?:,\s*dtype=[^\[\](){}]*)?\)", re.DOTALL)
_LIST = re.compile(rf"[\[({{]\s*(?:(?:{_ITEM})(?:{_MORE})*\s*,?\s*)?[\])}}]")
_BARE_LIST = re.compile(r"\s*\[[^\[\]]*,[^\[\]]*\]\s*")


def read_lists(values: pd.Series, rows: pd.Series, mode: str, source: str) -> pd.Series:
    """A column in which lists written as text are lists; names in brackets stay names."""
    several = mode != "single"
    texts = values[[isinstance(value, str) and bool(value.strip()) for value in values]]
    lists = texts.map(_as_list)
    is_list = [
        found is not None and (several or len(found) > 1 or "'" in text or '"' in text)
        for text, found in zip(texts, lists, strict=True)
    ]
    others = texts[[found is None for found in lists]]
    if any(is_list) and len(others):
        fewer, article = (others, "no") if len(others) < sum(is_list) else (texts[is_list], "a")
        raise DataError(
            f"{source}: document {rows[fewer.index[0]]}: {values.name!r} is {fewer.iloc[0]!r}, "
            f"{article} list written as text, unlike that of other rows; write all of them alike"
        )
    if any(is_list):
        listed = [lists.get(at, value) for at, value in values.items()]
        return pd.Series(listed, name=values.name, dtype=object)
    bare = others[others.map(_BARE_LIST.fullmatch).notna()]
    if several and len(bare):
        raise DataError(
            f"{source}: document {rows[bare.index[0]]}: {values.name!r} is {bare.iloc[0]!r}, a "
            "list written as text without quotation marks; join the labels by a character and name "
            "it as label_delimiter"
        )
    return values


def _as_list(text: str) -> list | None:
    """The list that a text writes down, None if it is another text."""
    text = text.strip()
    if held := _HOLDER.fullmatch(text):
        text = held[1] or "[]"
    quoted = "'" in text or '"' in text
    if not _LIST.fullmatch(text) or not (quoted or text.startswith("[")):
        return None
    try:
        found = json.loads(text)
        if isinstance(found, list):
            return found
    except ValueError:
        pass
    items = re.findall(_ITEM, text)
    try:
        return [ast.literal_eval(item) for item in items]
    except (ValueError, SyntaxError):  # of 001 or 2020-01-01, which are texts
        return None if quoted else items
