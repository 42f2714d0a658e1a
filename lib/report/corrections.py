"""Corrected labels, collected in a CSV file that people keep: nothing in it is lost silently."""

import csv
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from lib.config.strict_yaml import suggestion
from lib.errors import DataError, InputError
from lib.storage import atomic_path

COLUMNS = ("id", "text", "old_label", "new_label")


def write_correction(
    file: Path,
    *,
    document: str,
    text: str,
    old: Sequence[str],
    new: Sequence[str],
    known: Sequence[str],
    delimiter: str = ";",
    allow_new: bool = False,
    replace: bool = False,
    may_be_empty: bool = False,
) -> pd.DataFrame:
    """Add a document's new labels to the file, as a whole or not at all; returns all corrections.

    Parameters
    ----------
    file
        CSV with the `COLUMNS`; made where it is not there.
    document
        The document's id; "" of a text that is none of the study's, which its text identifies.
    old, new, known
        Labels before and after, joined by `delimiter` if there are several; and those of the study.
    allow_new, replace, may_be_empty
        Take labels that the study does not have; these where the file has others for the document;
        no label at all.

    Raises
    ------
    InputError
        A label is unknown, nothing changes, or the file has other labels for the document.
    DataError
        The file holds something else.
    """
    for label in new:
        if not allow_new and label not in known:
            raise InputError(
                f"label: {label!r} is not a label of the study{suggestion(label, known)}; "
                "mark it as new if it is one"
            )
    if sorted(new) == sorted(old) or not (new or may_be_empty):
        raise InputError(f"label: {delimiter.join(new)!r} changes nothing; choose another")
    found = read_corrections(file)
    values = document, text, delimiter.join(old), delimiter.join(new)
    row = dict(zip(COLUMNS, values, strict=True))
    same = found["id"].eq(document) & (found["text"].eq(text) if not document else True)
    before = found.loc[same, "new_label"].tolist()
    if before and before != [row["new_label"]] and not replace:
        raise InputError(
            f"{file}: {document or 'this text'} is corrected to {before[0]!r} already; "
            "choose to replace it"
        )
    corrections = pd.concat([found[~same], pd.DataFrame([row])], ignore_index=True)
    with atomic_path(file) as path:
        # All are quoted: pandas does not quote a lone carriage return, and would read two rows.
        corrections.to_csv(path, index=False, quoting=csv.QUOTE_ALL)
    return corrections


def read_corrections(file: Path) -> pd.DataFrame:
    """The corrections of a file, all columns texts; none where there is no file."""
    if not file.exists():
        return pd.DataFrame(columns=list(COLUMNS), dtype=str)
    try:
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
    except (ValueError, OSError) as error:  # ParserError and UnicodeDecodeError are ValueErrors
        raise DataError(f"{file}: not a readable CSV file: {error}; move it away") from None
    if tuple(table.columns) != COLUMNS:
        raise DataError(
            f"{file}: not a file of corrections (columns {', '.join(COLUMNS)}); move it away"
        )
    return table
