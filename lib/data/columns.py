"""Columns of a table of unknown meaning: the text, the label, and splits, groups and ids.

Names and cells decide; if they leave a choice, an error lists the candidates. All numbers and lists
of names here are our choices.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from lib.data.encodings import MAX_SHOWN
from lib.data.indicators import NO, YES, blank_means_no, marks, unlabelled
from lib.data.label_columns import LABELS, find_labels, is_numeric, listed, normal_name
from lib.data.locate import SPLIT_WORDS, split_of
from lib.data.tables import UNSPLIT, as_objects, cell_texts, require_columns
from lib.data.words import find_words
from lib.errors import DataError

HEADINGS = ("title", "headline", "heading", "subject")
BODIES = (
    "text", "sentence", "body", "content", "abstract", "document", "review", "message",
    "comment", "post", "question", "query", "utterance", "description", "summary",
)  # fmt: skip
SPLITS = ("split", "part", "partition", "subset", "set")
GROUPS = (
    "group", "group_id", "family", "family_id", "author", "author_id", "user", "user_id", "source",
    "source_id", "thread_id", "session_id", "conversation_id", "customer_id", "patient_id",
)  # fmt: skip
IDS = ("id", "doc_id", "document_id", "text_id", "uid", "uuid")
KNOWN = {*HEADINGS, *BODIES, *SPLITS, *GROUPS, *IDS, *LABELS}
# Words for annotations that hold, and for those that do not, as annotation tools export them.
HOLD = {"accept", "accepted", "submitted", "approved", "valid", "completed", "done"}
FAIL = {
    "reject", "rejected", "ignore", "ignored", "discard", "discarded", "draft", "pending", "skip",
    "skipped", "cancelled", "canceled", "deleted", "invalid",
}  # fmt: skip
UNNAMED = re.compile(r"Unnamed: \d+")  # as `lib.data.delimited` calls them
MIN_WORDS, MIN_CHARACTERS = 3.0, 15.0  # per cell, of a text
MIN_DISTINCT = 0.5  # share of cells that differ, of a text
MAX_GROUP = 0.1  # share of rows; splits cannot be cut around larger groups


@dataclass
class Found:
    """Parameters of the data (`lib.config.data`) that a table suggests, and a reason for each.

    `values` has parameters by name; `reasons` has a short name and a sentence per choice; `usable`
    is (N,) bool, True for rows with a text and a label; `num_labels` counts different labels.
    """

    usable: np.ndarray
    values: dict[str, Any] = field(default_factory=dict)
    reasons: list[tuple[str, str]] = field(default_factory=list)
    num_labels: int = 0


def find_columns(
    table: pd.DataFrame, source: str, *, text: Sequence[str] = (), label: str = ""
) -> Found:
    """The columns of texts and labels, and of splits, groups and ids where there are any.

    The rows of `table` are as `lib.data.tables.read_table` gives them. `text` and `label` are
    columns that the user has named; an entry of `text` may be several names with spaces in between.

    Raises `DataError` that lists the candidates if none or several could be the text or the label;
    also if the user's names are no columns, or the first line does not contain columns' names.
    """
    if table.empty:
        raise DataError(f"{source}: contains no document")
    text = _named(text, list(table.columns))
    require_columns(table, list(filter(None, [*text, label])), source)
    if label in text:
        raise DataError(f"{source}: {label!r} is named as text and as label; name two columns")
    # Refuse tables without proper names of columns.
    cells = {name: cell_texts(table[name]) for name in table.columns}
    if len(cells) < 2:
        raise DataError(f"{source}: one column, {listed(cells)!r}; a study needs texts and labels")
    as_names = {name: column == name for name, column in cells.items()}
    again = np.all(list(as_names.values()), axis=0)  # of files that were put one behind another
    if again.any() and all(same.sum() == again.sum() for same in as_names.values()):
        row = table.index[again][0] + 1
        raise DataError(f"{source}: document {row} repeats the columns' names; remove that row")
    are_names = text or label or KNOWN & set(map(normal_name, cells))
    if not are_names and any(same.sum() > 1 for same in as_names.values()):
        raise DataError(
            f"{source}: the first line ({listed(cells)}) contains values, not names: write the "
            "columns' names above it"
        )
    unnamed = [name for name in cells if UNNAMED.fullmatch(name) and (cells[name] != "").any()]
    if 2 * len(unnamed) >= len(cells):
        raise DataError(
            f"{source}: the first line names {len(cells) - len(unnamed)} of {len(cells)} columns "
            f"({listed(cells)}); if it is a title, remove what is above the columns' names"
        )
    # Set aside objects, then splits, groups and ids; find the text among the rest, then the label.
    found = Found(np.ones(len(table), dtype=bool))
    nested = [name for name in cells if as_objects(table[name]).map(_has_objects).any()]
    rest = {name: column for name, column in cells.items() if name not in nested}
    rest = _split_group_id(rest, found, taken={*text, label})
    try:
        texts = text or _find_text(rest, source, label)
        found.values["text_columns"] = texts
        shown = " and ".join(map(repr, texts))
        words = sum(_words_per_cell(cells[name]) for name in texts)
        found.reasons.append(("text", f"{shown}, {words:.0f} words per document"))
        candidates = [name for name in rest if name not in texts]
        values, reason, found.num_labels = find_labels(table, candidates, source, label)
    except DataError as error:
        if not nested:
            raise
        raise DataError(
            f"{error}; {listed(nested)} contain objects, whose values need columns of their own"
        ) from None
    found.values |= values
    found.reasons.append(("label", reason))

    # Say why a column of groups is not one, and leave out rows and splits that cannot be used.
    labels = values.get("indicator_columns") or [values["label_column"]]
    for name in [name for name in rest if name not in {*texts, *labels}]:
        if normal_name(name) in GROUPS and (often := _commonest(cells[name])):
            found.reasons.append(("groups", f"{name!r} is not used: {often}"))
        if failing := _failing(cells[name]):
            found.reasons.append(("caution", failing))
    _find_gaps(cells, texts, found)
    if column := found.values.get("split_column"):
        _check_splits(cells[column], found)
    return found


def parts_of(parts: Mapping[str, pd.DataFrame], found: Found) -> pd.Series:
    """The split of each row of all parts, (N,) str: "train", "validation" or "test".

    `parts` are tables by part. Rows of one file are in "train", unless `found` has a split column.
    """
    rows = [part.replace(UNSPLIT, "train") for part, table in parts.items() for _ in table.index]
    column = found.values.get("split_column") if UNSPLIT in parts else None
    if not column:
        return pd.Series(rows)
    marks = pd.concat(parts.values(), ignore_index=True)[column]
    words = found.values["split_names"]
    return marks.map(lambda mark: split_of(str(mark).strip(), words) or "train")


def _named(text: Sequence[str], columns: Sequence[str]) -> list[str]:
    """The columns that the user has named.

    A shell splits a name with spaces into several entries; a variable of make joins several names
    into one entry.
    """
    if (joined := " ".join(text)) in columns:
        return [joined]
    names = [name for entry in text for name in ([entry] if entry in columns else entry.split())]
    return list(dict.fromkeys(names))


def _has_objects(value: object) -> bool:
    """True for an object of JSON, and for a list of them or of the pairs of a map."""
    items = value if isinstance(value, (list, np.ndarray)) else ()
    return isinstance(value, dict) or any(isinstance(item, (dict, tuple)) for item in items)


def _sample(cells: pd.Series) -> pd.Series:
    """Cells that are not blank, all of them or about 2,000."""
    filled = cells[cells != ""]
    return filled.iloc[:: max(1, len(filled) // 2000)]


def _words_per_cell(cells: pd.Series) -> float:
    """Words per cell that is not blank; only words of letters count, unlike codes and numbers."""
    counts = [sum(map(str.isalpha, find_words(cell))) for cell in _sample(cells)]
    return float(np.mean(counts)) if counts else 0.0


def _split_group_id(
    cells: dict[str, pd.Series], found: Found, taken: set[str]
) -> dict[str, pd.Series]:
    """The columns that are none of splits, groups and ids; those are noted in `found`."""
    rest = {}
    for name, column in cells.items():
        known, filled = normal_name(name), column[column != ""]
        names, words = _split_names(filled), set(filled)
        gaps = len(column) - len(filled)
        if name in taken or not words:
            rest |= {name: column} if words else {}
        elif names and not gaps and (known in SPLITS or (len(words) > 1 and known not in LABELS)):
            found.values |= {"split_column": name, "split_names": names}
            found.reasons.append(("splits", f"column {name!r}: {', '.join(filter(None, names))}"))
        elif known in SPLITS and any(map(split_of, words)):
            if names:
                why = f"{gaps:,} rows have none"
            elif odd := [word for word in sorted(words) if not split_of(word)]:
                why = f"{odd[0]!r} in it names no split"
            else:
                why = "it has no train, or two words for a split"
            found.reasons.append(("splits", f"column {name!r} is not used: {why}"))
        elif known in IDS and len(words) == len(column):
            found.values["id_column"] = name
        elif known in GROUPS and 1 < filled.value_counts().iloc[0] <= MAX_GROUP * len(filled):
            if gaps:
                reason = f"{name!r} is not used: {gaps:,} rows have none"
            else:
                found.values["group_column"] = name
                reason = f"{name!r}, {len(words):,}: none in two splits that are cut here"
            found.reasons.append(("groups", reason))
        else:
            rest[name] = column
    return rest


def _split_names(column: pd.Series) -> list[str] | None:
    """The column's words for train, validation ("" if none) and test; None if it has others."""
    parts = {word: split_of(word, column.unique()) for word in column.unique()}
    if None in parts.values() or len(set(parts.values())) < len(parts):
        return None
    names = {part: word for word, part in parts.items()}
    return [names.get(part, "") for part in SPLIT_WORDS] if "train" in names else None


def _commonest(column: pd.Series) -> str:
    """A clause about a value on more rows than a group may have (`MAX_GROUP`); "" if none is."""
    shares = column[column != ""].value_counts(normalize=True)
    if len(shares) < 2 or shares.iloc[0] <= MAX_GROUP:
        return ""
    return f"{shares.index[0][:MAX_SHOWN]!r} is on {shares.iloc[0]:.0%} of the rows"


def _failing(column: pd.Series) -> str:
    """A clause about rows whose annotation does not hold, as the column says; "" if all do.

    It says so by words such as reject, or by a yes in a column such as was_cancelled.
    """
    written = marks(column[column != ""])
    by_name = normal_name(column.name).rpartition("_")[2] in FAIL and set(written) <= YES | NO
    failing = written[written.isin(YES if by_name else FAIL)]
    if failing.empty or not (by_name or set(written) <= HOLD | FAIL):
        return ""
    counts = ", ".join(f"{mark} on {count:,}" for mark, count in failing.value_counts().items())
    return (
        f"column {column.name!r} is not used: {counts} of {len(column):,} rows; if their labels do "
        "not hold, take these rows out of the file"
    )


def _find_text(cells: dict[str, pd.Series], source: str, label: str) -> list[str]:
    """The column of texts, or columns of headings and one of bodies; `DataError` if unclear."""
    others = [name for name in cells if name != label]
    bodies = [name for name in others if normal_name(name) in BODIES]
    candidates = [name for name in others if _is_text(cells[name])]
    if not candidates:  # but texts that are short, or repeat
        candidates = [name for name in bodies if not is_numeric(_sample(cells[name]))]
        if len(candidates) != 1:
            one_of = f": one of {listed(others)}" if others else ""
            raise DataError(f"{source}: no column looks like texts; name it, TEXT=<column>{one_of}")
    if len(candidates) == 1:
        return candidates
    bodies = [name for name in candidates if name in bodies]
    headings = [name for name in candidates if normal_name(name) in HEADINGS]
    if len(bodies) == 1 and ({*headings, *bodies} == {*candidates} or bodies[0] == BODIES[0]):
        return [*headings, *bodies]
    words = {name: _words_per_cell(cells[name]) for name in candidates}
    shown = ", ".join(f"{name!r} ({number:.0f} words)" for name, number in words.items())
    raise DataError(
        f"{source}: several columns could be the text: {shown}; name it, TEXT=<column>, or "
        'several to be joined, TEXT="<column> <column>"'
    )


def _is_text(cells: pd.Series) -> bool:
    """True for a column whose cells are long enough and differ, and are no numbers or addresses."""
    filled, sample, words = cells[cells != ""], _sample(cells), _words_per_cell(cells)
    long = words >= MIN_WORDS or (words >= 1 and sample.str.len().mean() >= MIN_CHARACTERS)
    addresses = cells.str.startswith(("http://", "https://")).mean() > 0.5
    differ = filled.nunique() >= MIN_DISTINCT * len(filled)
    return long and differ and not is_numeric(sample) and not addresses


def _find_gaps(cells: dict[str, pd.Series], texts: list[str], found: Found) -> None:
    """Note rows without a text or without a label, which are left out."""
    empty = np.all([cells[name] == "" for name in texts], axis=0)
    of_labels = found.values.get("indicator_columns") or [found.values["label_column"]]
    table = pd.DataFrame({name: cells[name] for name in of_labels})
    blank_is_no = blank_means_no([table], found.values.get("indicator_columns", []))
    blank = unlabelled(table, blank_is_no).to_numpy()
    if (empty & ~blank).any():
        found.values["empty_texts"] = "drop"
        found.reasons.append(("left out", f"{(empty & ~blank).sum():,} rows without a text"))
    found.usable = ~(empty | blank)
    if (blank & ~empty).any():
        found.values["unlabelled"] = "predict"
        count = (blank & ~empty).sum()
        found.reasons.append(("left out", f"{count:,} rows without a label, to predict later"))


def _check_splits(marks: pd.Series, found: Found) -> None:
    """Do without the column of splits if one of them has no row that can be used."""
    names = filter(None, found.values["split_names"])
    bare = [name for name in names if not found.usable[(marks == name).to_numpy()].any()]
    if bare:
        del found.values["split_column"], found.values["split_names"]
        reason = f"column {marks.name!r} is not used: no row of {bare[0]!r} has a text and a label"
        found.reasons = [
            (what, reason if what == "splits" else said) for what, said in found.reasons
        ]
