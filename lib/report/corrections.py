"""Corrected labels, collected in a CSV file that users keep: no row is replaced unasked."""

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
    """All corrections, after the new labels of a document are added to the file.

    The file is written as a whole or not at all.

    Parameters
    ----------
    file
        CSV with the `COLUMNS`; it is made if it does not exist.
    document
        The document's id; "" for a text that is not one of the study's: `text` identifies that.
    old, new
        Labels of the document before and after, each counted once; `delimiter` joins several in the
        file.
    known
        Labels of the study.
    allow_new
        Accept labels that are not among `known`.
    replace
        Replace other new labels that the file has for the document.
    may_be_empty
        Accept that `new` is empty.

    Raises
    ------
    InputError
        A label is unknown, none is given, nothing changes, or the file has other labels for the
        document.
    DataError
        The file is not a CSV file of corrections.
    """
    new = list(dict.fromkeys(new))
    for label in new:
        if not allow_new and label not in known:
            raise InputError(
                f"label: {label!r} is not a label of the study{suggestion(label, known)}; "
                "mark it as new if it is one"
            )
    if not (new or may_be_empty):
        raise InputError("label: none is given, and each document has at least one; choose one")
    if set(new) == set(old):
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
        # All fields are quoted: pandas does not quote a lone carriage return, and reads two rows.
        corrections.to_csv(path, index=False, quoting=csv.QUOTE_ALL)
    return corrections


def read_corrections(file: Path) -> pd.DataFrame:
    """The corrections of a file, `COLUMNS` of text; empty if there is no file.

    Raises `DataError` if the file is not one of corrections.
    """
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
