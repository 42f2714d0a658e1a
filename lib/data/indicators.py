"""Label sets as columns of yes and no, one per label."""

from collections.abc import Container, Sequence

import pandas as pd

from lib.data.tables import cell_texts
from lib.errors import DataError

# Cells as `marks` writes them.
YES, NO = {"1", "true", "t", "yes", "y", "x"}, {"0", "false", "f", "no", "n"}


def marks(cells: pd.Series) -> pd.Series:
    """The cells, which are texts, in the spelling of `YES` and `NO`: lower case, 1 for 1.0."""
    return cells.str.lower().str.replace(r"^([01])\.0+$", r"\1", regex=True)


def blank_means_no(tables: Sequence[pd.DataFrame], columns: Sequence[str]) -> set[str]:
    """The indicator columns in which a blank cell means no, because no table writes a no there.

    A wholly blank column is one of them if all others are.
    """
    found = {
        name: {mark for table in tables if name in table for mark in marks(cell_texts(table[name]))}
        for name in columns
    }
    no_missing = {name for name, written in found.items() if not written & NO}
    all_of_them = len(no_missing) == len(found)
    return no_missing if all_of_them else {name for name in no_missing if found[name] & YES}


def unlabelled(table: pd.DataFrame, blank_is_no: Container[str]) -> pd.Series:
    """True for wholly blank rows of columns, (N,) bool, unless blank means no in all of them."""
    return (table == "").all(axis=1) & any(name not in blank_is_no for name in table)


def read_indicators(
    table: pd.DataFrame, blank_is_no: Container[str], source: str
) -> list[list[str] | None]:
    """The labels of each row: the names of its columns that contain a yes. Cells are texts.

    An unlabelled row has None.

    Raises `DataError` if a cell is neither yes nor no, nor blank in a column of `blank_means_no`.
    """
    written, blank = table.apply(marks), unlabelled(table, blank_is_no)
    for name, cells in written.items():
        known = cells.isin(YES | NO | ({""} if name in blank_is_no else set())) | blank
        if not known.all():
            row = known.idxmin()
            raise DataError(
                f"{source}: document {row + 1}: {name!r} is {table[name][row]!r}, neither 0 nor 1; "
                "write one of them"
            )
    found = zip(written.isin(YES).to_numpy(), blank, strict=True)
    return [None if without else list(table.columns[row]) for row, without in found]
