"""Faults of labelled splits: leakage, repeats, unusable labels and damaged text."""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Literal

import numpy as np
import pandas as pd
import regex
from datasets import DatasetDict
from ftfy.badness import is_bad

from lib.data.near_duplicates import find_duplicates, tabulate
from lib.data.tables import SPLITS
from lib.data.words import WORD_CHARACTER, normal_form
from lib.errors import DataError

# Our choices.
MAX_CHARACTERS = 1_000_000  # also the longest text that spaCy takes by default
FEW_DOCUMENTS = 5  # of a label in train
FEW_OF_LABEL = f"label has fewer than {FEW_DOCUMENTS} training documents"
CONTRARY = "the same text has different labels"
IMBALANCE = 10  # times the documents of the median label
MIN_NAME_LENGTH = 4  # characters of a label that is looked for in texts

SEVERITIES = ("error", "warning", "note")  # the gravest first
COLUMNS = ["severity", "check", "count", "examples", "remedy"]

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff]")
# Four letters of À to ÿ in a row are in no language's words: Cyrillic, Greek, Hebrew or Chinese
# bytes, read as Latin-1 or Windows-1252. ftfy's badness misses some.
_FOREIGN = re.compile(r"[À-ÖØ-öø-ÿ]{4}|\ufffd|ï¿½|锟斤拷")


def audit(
    splits: DatasetDict,
    *,
    max_length: int | None = None,
    count_tokens: Callable[[list[str]], Sequence[int]] | None = None,
    on_leakage: Literal["warn", "error"] = "warn",
) -> pd.DataFrame:
    """Findings about the splits, the gravest first; no rows where nothing was found.

    Parameters
    ----------
    splits
        Any of train, validation and test, with the columns `id` str, `text` str, `labels`
        list[str] and, if there are groups, `group` str (empty where a document has none).
    max_length, count_tokens
        Tokens that a model reads, and a function that counts those of N texts. Without them no
        text is reported as cut.
    on_leakage
        "error" raises if a held-out document, or its group, is in an earlier split too. Validation
        leaks into test as train does, because validation chooses.

    Returns
    -------
    DataFrame
        `severity`, of `SEVERITIES`; `check` str; `count` int, of documents, texts, groups or
        labels, as the check says; `examples` str, up to three of them; `remedy` str.

    Raises
    ------
    DataError
        The splits leak and `on_leakage` is "error".
    ValueError
        An argument is out of range, or only one of `max_length` and `count_tokens` is given.
    """
    if on_leakage not in ("warn", "error"):
        raise ValueError(f'on_leakage: {on_leakage!r} is neither "warn" nor "error"')
    if (max_length is None) != (count_tokens is None):
        raise ValueError("max_length and count_tokens: give both or neither")
    # Leakage may stop the run.
    table = tabulate(splits)
    leaks = [found for found in _leaks(table, find_duplicates(splits)) if found["count"]]
    if leaks and on_leakage == "error":
        what = "; ".join(
            f"{f['check']}: {f['count']}, such as {f['examples'].split(', ')[0]}" for f in leaks
        )
        raise DataError(f'{what}; {leaks[0]["remedy"]}, or write audit: "warn"')

    # All other findings are a table.
    findings = [*leaks, *_texts(table), *_labels(table)]
    if count_tokens is not None:
        findings.append(_cut(table, np.asarray(count_tokens(table["text"].tolist())), max_length))
    findings.sort(key=lambda finding: (SEVERITIES.index(finding["severity"]), finding["check"]))
    return pd.DataFrame([f for f in findings if f["count"]], columns=COLUMNS)


def _finding(severity: str, check: str, examples: Iterable[str], remedy: str) -> dict:
    examples = list(examples)
    return {
        "severity": severity,
        "check": check,
        "count": len(examples),
        "examples": ", ".join(map(str, examples[:3])),
        "remedy": remedy,
    }


def _leaks(table: pd.DataFrame, found: pd.DataFrame) -> list[dict]:
    """Findings about texts and groups in two splits; `found` is that of `find_duplicates`."""
    remedy = "drop them from the earlier split, or read the scores as optimistic"
    pairs = found["id"] + " ~ " + found["other_id"]
    group = table.get("group", pd.Series(None, table.index, dtype=object))
    ranks = table["split_rank"].groupby(group.where(group != ""), sort=False).agg(["min", "max"])
    findings = []
    for earlier, place in (
        ("train", "in train and in a held-out split"),
        ("validation", "in validation and in test"),
    ):
        here = found["other_split"] == earlier
        groups = ranks[(ranks["min"] == SPLITS.index(earlier)) & (ranks["max"] > ranks["min"])]
        findings += [
            _finding("error", f"text is {place}", found["id"][here & found["exact"]], remedy),
            _finding("error", f"near-duplicate is {place}", pairs[here & ~found["exact"]], remedy),
            _finding("error", f"group is {place}", groups.index, remedy),
        ]
    return findings


def _texts(table: pd.DataFrame) -> list[dict]:
    ids, texts, filled = table["id"], table["text"], table["normalised_text"] != ""
    repeats = filled & table.duplicated(["split_rank", "text_id"])
    several = table[filled & table.duplicated("text_id", keep=False)]
    sets = several["labels"].map(frozenset).groupby(several["text_id"]).nunique()
    contrary = several[several["text_id"].isin(sets.index[sets > 1])].drop_duplicates("text_id")
    huge = texts.str.len() > MAX_CHARACTERS
    control = [bool(_CONTROL.search(text)) for text in texts]
    # Damaged texts were read in another encoding than they were written in.
    damaged = [not text.isascii() and bool(is_bad(text) or _FOREIGN.search(text)) for text in texts]
    settle = "settle on one set of labels: no model can get them all right"
    convert = "convert the file to UTF-8 from the encoding that it was written in"
    look = "see whether it is one document"
    return [
        _finding("error", "text is empty", ids[~filled], "fill it in or remove the row"),
        _finding("warning", "text repeats within its split", ids[repeats], "drop the repeats"),
        _finding("warning", CONTRARY, contrary["id"], settle),
        _finding("warning", f"text has more than {MAX_CHARACTERS:,} characters", ids[huge], look),
        _finding("warning", "text has control characters", ids[control], "remove them"),
        _finding("warning", "text has damaged characters", ids[damaged], convert),
    ]


def _labels(table: pd.DataFrame) -> list[dict]:
    """Findings about labels; a label's documents are missed only in splits that are given."""
    pairs = table[["split", "labels"]].explode("labels").dropna()
    support = {name: Counter(part["labels"]) for name, part in pairs.groupby("split")}
    train, test = support.get("train", Counter()), support.get("test", Counter())
    held_out = set(test) | set(support.get("validation", ()))
    untested = sorted(set(train) - set(test)) if test else []
    unseen = sorted(held_out - set(train)) if train else []
    rare = sorted((n, label) for label, n in train.items() if n < FEW_DOCUMENTS)
    return [
        _finding("error", "label has no training document", unseen, "it cannot be predicted"),
        _finding("warning", "label has no test document", untested, "its F1 is not measured"),
        _finding("note", FEW_OF_LABEL, [label for _, label in rare], "label more documents"),
        *_imbalance(train, (table["split"] == "train").sum()),
        *_own_labels(table),
    ]


def _imbalance(support: Counter, num_documents: int) -> list[dict]:
    if not support:
        return []
    [(label, most)], median = support.most_common(1), np.median(list(support.values()))
    remedy = (
        f"{label!r} is on {most / num_documents:.0%} of the training documents, "
        f"{most / median:.0f} times as many as the median label; read macro-F1 beside micro-F1"
    )
    large = [label] if most >= IMBALANCE * median else []
    return [_finding("note", "label is far more frequent than others", large, remedy)]


@cache
def _name_pattern(label: str) -> tuple[str, regex.Pattern]:
    """A label's name as normalised texts write it, and its pattern as words of their own."""
    name = normal_form(label.lower().replace("_", " "))
    edges = rf"(?<!{WORD_CHARACTER})", rf"(?!{WORD_CHARACTER})"
    return name, regex.compile(re.escape(name).join(edges))


def _own_labels(table: pd.DataFrame) -> list[dict]:
    """The finding about documents in whose text a label of theirs is named."""
    ids, hits, documents = [], Counter(), Counter()
    for document, text, labels in zip(
        table["id"], table["normalised_text"], table["labels"], strict=True
    ):
        patterns = {label: _name_pattern(label) for label in labels}
        documents.update(labels)
        inside = [
            label
            for label, (name, pattern) in patterns.items()
            if len(name) >= MIN_NAME_LENGTH and name in text and pattern.search(text)
        ]
        hits.update(inside)
        ids += [document] if inside else []
    if not hits:
        return []
    label, count = hits.most_common(1)[0]
    remedy = (
        f"fine where new texts do so too; {label!r} is in {count / documents[label]:.0%} of its "
        "documents"
    )
    return [_finding("note", "text contains its own label", ids, remedy)]


def _cut(table: pd.DataFrame, num_tokens: np.ndarray, max_length: int) -> dict:
    cut = num_tokens > max_length
    remedy = f"{cut.mean():.0%} are cut; raise max_length or windows if labels are decided late"
    check = f"text is longer than is read ({max_length} tokens)"
    return _finding("warning" if cut.mean() > 0.5 else "note", check, table["id"][cut], remedy)
