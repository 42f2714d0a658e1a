"""Tables of a report: columns with their meaning, and arms in words."""

from collections.abc import Mapping
from html import escape, unescape
from typing import Any

import pandas as pd
from pandas.io.formats.style import Styler

from lib.report.wording import printable

ARM_COLUMNS = ("arm", "arm_a", "arm_b", "student", "teacher", "ahead", "behind", "system")
SMALL = ("learning_rate", "head_learning_rate", "weight_decay")  # three decimals would show 0
LOW, HIGH = "lower end of the 95 % interval", "upper end of the 95 % interval"
MEANINGS = {
    "num_seeds": "training runs; a score is their mean",
    "micro_f1": "balance of wrong and missing labels over all documents, 1 is perfect; the share of"
    " right documents where each has one label and gets one",
    "micro_f1_low": LOW, "micro_f1_high": HIGH, "macro_f1_low": LOW, "macro_f1_high": HIGH,
    "macro_f1": "mean of the labels' F1, so a rare label counts as much as a frequent one",
    "macro_f1_supported": "macro-F1 without the labels that have no test document",
    "accuracy": "share of documents whose whole answer is right",
    "samples_f1": "mean of the documents' F1",
    "precision_at_1": "share of documents whose surest label is right",
    "precision_at_3": "share of right labels among the three surest of a document",
    "precision_at_5": "share of right labels among the five surest of a document",
    "ndcg_at_5": "rank of the right labels among the five surest, 1 is perfect",
    "delta": "first arm minus second arm", "low": LOW, "high": HIGH,
    "p_holm": "probability of such a difference or a larger one if both arms were equally good,"
    " adjusted for the number of pairs",
    "min_detectable": "true difference that would have been found four times in five",
    "trainable_params": "numbers of the model that training changes",
    "total_params": "all numbers of the model",
    "train_seconds": "seconds of training",
    "infer_docs_per_second": "documents classified per second",
    "peak_memory_gib": "most memory in use, in GiB",
    "ece": "mean distance between confidence and share of right answers, 0 is best",
    "ece_scaled": "the same after scaling the temperature",
    "brier": "mean squared error of the probabilities, 0 is best",
    "brier_scaled": "the same after scaling the temperature",
    "temperature": "scale chosen on validation; above 1, the arm was too sure of itself",
    "share_at_90": "share of documents above the confidence that reached 90 % on validation",
    "reached_at_90": "share of right answers among these on test",
    "share_at_95": "share of documents above the confidence that reached 95 % on validation",
    "reached_at_95": "share of right answers among these on test",
    "out_of_set_rate": "share of answers that are no label",
}  # fmt: skip


def show_table(
    table: pd.DataFrame,
    formats: Mapping | None = None,
    *,
    names: Mapping[str, str] | None = None,
    na_rep: str | None = "–",
    **options: Any,
) -> Styler:
    """A table for a report: no index, three decimals, spaces in the names of columns.

    Columns of `SMALL` have six significant digits. The tooltip of a column is its meaning, that of
    an arm which is named in words its key.

    Parameters
    ----------
    formats, options
        Formats of single columns, and options for all, as `Styler.format` takes them.
    names
        Arms in words (`lib.report.names.arm_names`); None: their keys.
    na_rep
        Text for a missing value; None: the column's format decides.
    """
    table = table.map(lambda x: printable(x) if isinstance(x, str) else x)
    words = {column: lambda x: name_html(unescape(x), names or {}) for column in ARM_COLUMNS}
    usual = words | dict.fromkeys(SMALL, "{:g}")
    formats = {column: usual[column] for column in table if column in usual} | dict(formats or {})
    options = {"precision": 3, "escape": "html"} | options
    shown = table.style.format(formats, na_rep=na_rep, **options)
    return shown.hide(axis="index").relabel_index([_head(x) for x in table], axis="columns")


def name_html(arm: str, names: Mapping[str, str]) -> str:
    """The arm in words as HTML, escaped, with its key as tooltip."""
    name = names.get(arm, arm)
    return escape(name) if name == arm else f'<span title="{escape(arm)}">{escape(name)}</span>'


def _head(column: str) -> str:
    """The name of a column as HTML, escaped, with its meaning as tooltip."""
    name, meaning = escape(column.replace("_", " ")), MEANINGS.get(column)
    return f'<span title="{escape(meaning)}">{name}</span>' if meaning else name
